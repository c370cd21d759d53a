"""`meshq dev` under test: a process of its own, its lines as they come, and calls to what it runs."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 30
PORTS_A_MESH = 100

APP = """
import http.server, json, os, signal, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            print("slow begins", flush=True)
            time.sleep(1.5)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.dumps({"path": self.path, "method": self.command, "pid": os.getpid(), "body": self.rfile.read(length).decode(),
                           "type": self.headers.get("Content-Type"), "caller": self.headers.get("Meshq-Caller"),
                           "host": self.headers.get("Host"), "extra": self.headers.get("X-Extra")}).encode()
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_PUT = do_GET
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
server.daemon_threads = False
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("serving", flush=True)
server.serve_forever()
server.server_close()
print("done", flush=True)
"""
"""An app that says what it was asked."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


def write_mesh(folder: Path, *apps: dict[str, Any], **top: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(APP)
    file = folder / "mesh.yaml"
    file.write_text(json.dumps({**top, "apps": list(apps)}))  # JSON is YAML
    return file


def echo(service: str, sidecar_port: int, **more: Any) -> dict[str, Any]:
    return {
        "service": service,
        "version": "1.0.0",
        "command": f"{sys.executable} app.py",
        "sidecarPort": sidecar_port,
        **more,
    }


def environment(**more: str) -> dict[str, str]:
    """As a user's, without what steers meshq or HTTP clients."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MESHQ_") and not name.lower().endswith("_proxy") and name != "NO_COLOR"
    }
    return {**clean, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sidecar'}", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "meshq", *arguments]


def meshq(*arguments: str, cwd: Path, stdin: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(**env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def free_ports() -> int:
    """The first of PORTS_A_MESH ports in a row that nobody listens on, below those that the system gives out."""
    for first in range(10_000 + os.getpid() % 100 * PORTS_A_MESH, 32_000, PORTS_A_MESH):
        if all(_is_free(port) for port in range(first, first + PORTS_A_MESH)):
            return first
    raise AssertionError("no hundred free ports in a row")


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


class Dev:
    """A `meshq dev` that runs."""

    def __init__(self, folder: Path, *arguments: str, **env: str) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self._more = threading.Condition()
        self.process = subprocess.Popen(
            command("dev", *arguments),
            cwd=folder,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, pattern: str, after: int = 0) -> str:
        """The first line from number `after` on that `pattern` is found in."""
        until = time.monotonic() + DEADLINE_SECONDS
        with self._more:
            while True:
                for line in self.lines[after:]:
                    if re.search(pattern, line):
                        return line
                after = len(self.lines)
                assert self._reader.is_alive(), f"{pattern!r} never came:\n{self.text}"
                assert self._more.wait(until - time.monotonic()), f"{pattern!r} did not come:\n{self.text}"

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        return code

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def control(self) -> str:
        running = json.loads((self.folder / ".meshq" / "dev.json").read_text())
        assert running["pid"] == self.process.pid
        url: str = running["control"]
        return url

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = ask(self.control, "GET", "/v1/status").body
        return found

    def pids(self) -> dict[str, int]:
        """Of each app, by its name."""
        return {app["name"]: app["pid"] for app in self.status()["apps"]}

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()


@contextmanager
def running(folder: Path, *arguments: str, **env: str) -> Iterator[Dev]:
    dev = Dev(folder, *arguments, **env)
    try:
        yield dev
    finally:
        if dev.process.poll() is None:
            dev.process.send_signal(signal.SIGTERM)
            try:
                dev.process.wait(DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                dev.process.kill()
        dev.process.wait()
        assert dev.process.stdout is not None
        dev._reader.join(DEADLINE_SECONDS)
        dev.process.stdout.close()


def ask(url: str, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
    """`path` may be absolute-form, for a proxy."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=DEADLINE_SECONDS)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read().decode())
    finally:
        connection.close()


def wait_gone(pids: list[int]) -> None:
    """Until none of these processes is there."""
    until = time.monotonic() + DEADLINE_SECONDS
    gone = threading.Event()
    while left := [pid for pid in pids if _alive(pid)]:
        assert time.monotonic() < until, f"still there: {left}"
        gone.wait(0.02)


def _alive(pid: int) -> bool:
    """A zombie, which a container without an init leaves for ever, has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
