"""What each Python app of the shop shares: JSON over HTTP/1.1 with keep-alive, `/healthz`, and a graceful stop.

Standard library only, and nothing about a mesh. An app is a function from Request to Reply; a Problem becomes its status
with the body `{"error": ...}`.
"""

import json
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

STOP = {signal.SIGTERM, signal.SIGINT}
DRAIN_SECONDS = 10
MAX_BODY = 64 * 1024


class Problem(Exception):
    """What the caller did wrong, or what another app did to us."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(NamedTuple):
    method: str
    path: tuple[str, ...]  # `/orders/7` is ("orders", "7")
    query: dict[str, str]
    headers: Any  # case-insensitive: `headers.get("Idempotency-Key")`
    body: bytes

    def json(self) -> dict[str, Any]:
        try:
            document = json.loads(self.body)
        except ValueError:
            raise Problem(400, "the body is not JSON") from None
        if not isinstance(document, dict):
            raise Problem(400, "the body is not a JSON object")
        return document


class Reply(NamedTuple):
    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = MappingProxyType({})


def text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise Problem(400, f"{name} must be a text that is not empty")
    return value


def whole(document: dict[str, Any], name: str, least: int, most: int) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Problem(400, f"{name} must be a whole number from {least} to {most}")
    return value


def serve(name: str, version: str, default_port: int, handle: Callable[[Request], Reply]) -> None:
    """Serves on 127.0.0.1:$PORT until SIGTERM or SIGINT, then finishes the requests at hand and returns."""
    # Blocked before any thread starts, so that only the sigwait below takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    server = _Server(name, version, int(os.environ.get("PORT") or default_port), handle)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print(f"{name} {version} on http://127.0.0.1:{server.server_port}", flush=True)
    signal.sigwait(STOP)
    server.shutdown()
    server.server_close()
    with server.quiet:
        server.quiet.wait_for(lambda: server.busy == 0, DRAIN_SECONDS)


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # an idle kept-alive connection must not hold up the stop
    request_queue_size = 128

    def __init__(self, name: str, version: str, port: int, handle: Callable[[Request], Reply]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.banner, self.handle = f"{name}/{version}", handle
        self.busy, self.quiet = 0, threading.Condition()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one packet; two would wait for each other's acknowledgement
    server: _Server

    def version_string(self) -> str:
        return self.server.banner

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the shopper shows what happens."""

    def do_GET(self) -> None:
        with self.server.quiet:
            self.server.busy += 1
        try:
            self._answer(self._reply())
            self.wfile.flush()
        finally:
            with self.server.quiet:
                self.server.busy -= 1
                self.server.quiet.notify_all()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _reply(self) -> Reply:
        try:
            return self._route()
        except Problem as problem:
            return Reply(problem.status, {"error": str(problem)})
        except Exception:  # noqa: BLE001 -- whatever it is, the caller gets an answer
            traceback.print_exc()
            return Reply(500, {"error": "a fault of ours"})

    def _route(self) -> Reply:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True  # the body stays unread, so nothing after it can be understood
            raise Problem(413, f"the body must have a Content-Length of at most {MAX_BODY}")
        body = self.rfile.read(int(length))
        url = urlsplit(self.path)
        path = tuple(part for part in url.path.split("/") if part)
        if path == ("healthz",):
            return Reply(200, {"status": "ok"})
        method = "GET" if self.command == "HEAD" else self.command
        return self.server.handle(Request(method, path, dict(parse_qsl(url.query)), self.headers, body))

    def _answer(self, reply: Reply) -> None:
        body = json.dumps(reply.body).encode() + b"\n"
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
