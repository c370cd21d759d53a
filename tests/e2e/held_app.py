"""An app whose requests the test holds and releases: `python -m tests.e2e.held_app PORT JOURNAL`.

Every request is written to the journal before anything is done with it, so that what a killed app had begun is known; apps
of one service may share one. By its path a request gets

    /hold/<name>       an answer once the test has said /release/<name>
    /status/<number>   that status
    /bytes/<number>    so many bytes
    /garbage           what is not HTTP
    /half              the beginning of an answer, then the connection's end
    /busy              how many requests were here at once, at most
    /mode/<mode>       from now on `anything else` is treated so: `well`, `slow` (held until the mode changes, then answered),
                       `garbage`, `half`, or a status
    anything else      its own body again
"""

import json
import os
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(ThreadingHTTPServer):
    request_queue_size = 512

    def __init__(self, port: int, journal: str) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lock = threading.Lock()
        self._here = 0
        self.most = 0
        self.released: dict[str, threading.Event] = defaultdict(threading.Event)
        self._mode = threading.Condition()
        self._called = "well"
        super().__init__(("127.0.0.1", port), Handler)

    def note(self, record: dict[str, object]) -> None:
        """One write, so that apps that share the journal do not write into each other's lines."""
        os.write(self._journal, json.dumps(record).encode() + b"\n")

    def change(self, mode: str) -> None:
        with self._mode:
            self._called = mode
            self._mode.notify_all()

    def mode(self) -> str:
        """How a request is treated; waits while that is `slow`."""
        with self._mode:
            self._mode.wait_for(lambda: self._called != "slow")
            return self._called

    def enter(self, number: int) -> None:
        with self._lock:
            self._here += number
            self.most = max(self.most, self._here)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one write
    server: App

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # whoever asked has gone
            self.close_connection = True

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _, first, *rest = self.path.partition("?")[0].split("/")
        name = rest[0] if rest else ""
        if first == "release":
            self.server.released[name].set()
            self.answer(200, b"")
        elif first == "mode":
            self.server.change(name)
            self.answer(200, b"")
        elif first == "busy":
            self.answer(200, b"%d" % self.server.most)
        else:
            self.work(first, name, body)

    def work(self, first: str, name: str, body: bytes) -> None:
        headers = {field.lower(): value for field, value in self.headers.items()}
        self.server.note({"method": self.command, "path": self.path, "pid": os.getpid(), "headers": headers})
        self.server.enter(1)
        try:
            if first == "hold":
                self.server.released[name].wait()
            elif first not in ("status", "bytes", "garbage", "half"):
                first, name = _as_told(self.server.mode(), first, name)
        finally:
            self.server.enter(-1)
        match first:
            case "status":
                self.answer(int(name), b"as asked")
            case "bytes":
                self.answer(200, bytes(int(name)))
            case "garbage":
                self.break_off(b"\x00\x01 what is this\r\n\r\n")
            case "half":
                self.break_off(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            case _:
                self.answer(200, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = respond

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("App-Pid", str(os.getpid()))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def break_off(self, data: bytes) -> None:
        self.wfile.write(data)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """The journal is the log."""


def _as_told(mode: str, first: str, name: str) -> tuple[str, str]:
    if mode in ("garbage", "half"):
        return mode, ""
    return ("status", mode) if mode.isdigit() else (first, name)


if __name__ == "__main__":
    App(int(sys.argv[1]), sys.argv[2]).serve_forever()
