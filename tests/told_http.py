"""A node's HTTP side that answers what the test says, also in ways that no server should."""

import base64
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.servers.processes import LOOPBACK


class Asked(NamedTuple):
    path: str
    query: dict[str, list[str]]
    user: str
    """`name:password`, "" for none."""


class Told(NamedTuple):
    body: bytes = b""
    status: int = 200
    missing: int = 0
    """Bytes that are announced and do not come."""
    chunked: bool = False
    """Announced as chunks, of which the last does not come."""
    silent: bool = False
    """Nothing comes, for as long as the server lives."""
    dripping: bool = False
    """A byte now and then, for as long as the server lives."""
    raw: bytes = b""
    """This instead of HTTP."""


@contextmanager
def telling(answer: Callable[[Asked], Told]) -> Iterator[tuple[int, list[Asked]]]:
    """A server that answers so. Yields its port, and what it was asked."""
    asked: list[Asked] = []
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            token = self.headers.get("Authorization", "").removeprefix("Basic ")
            asked.append(Asked(parts.path, parse_qs(parts.query), base64.b64decode(token).decode()))
            told = answer(asked[-1])
            if told.silent:
                over.wait()
            elif told.raw:
                self.wfile.write(told.raw)
            else:
                self._tell(told)

        def _tell(self, told: Told) -> None:
            self.send_response(told.status)
            if told.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%b\r\n" % (len(told.body), told.body))
                return
            self.send_header("Content-Length", str(len(told.body) + told.missing))
            self.end_headers()
            self.wfile.write(told.body)
            while told.dripping and not over.wait(0.02):
                try:
                    self.wfile.write(b" ")
                except OSError:  # whoever asked has enough
                    return

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a test's output is its result."""

    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = False  # they are waited for
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()
