"""How the command line reaches a mesh: whom it trusts with the operators' token, and how long it waits."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

from meshq.adapters.clock import ManualClock
from meshq.cli import orders, reach
from meshq.cli.asking import ask, request
from meshq.cli.direct import Direct
from meshq.core.events import EventAddress
from meshq.core.http import HttpRequest, HttpResponse
from meshq.dev.state import FILE, FOLDER


class Stranger(ThreadingHTTPServer):
    """Answers like a control API, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.tokens: list[str | None] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Stranger)
        self.server.tokens.append(self.headers["Meshq-Token"])
        body = json.dumps({"meshq": "1.0.0", "detail": "this needs the operators' token"}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None: ...


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    with Stranger() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def with_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_port: int) -> None:
    for name in ("MESHQ_CONTROL_URL", "MESHQ_BROKER_URL", "MESHQ_REGISTRY_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MESHQ_API_TOKEN", "operators")
    monkeypatch.setattr(reach, "USUAL", f"http://127.0.0.1:{free_port}")
    monkeypatch.chdir(tmp_path)


def announce(folder: Path, url: str) -> Path:
    """A dev mesh that runs there, as its file says."""
    (folder / FOLDER).mkdir()
    file = folder / FOLDER / FILE
    file.write_text(json.dumps({"control": url, "pid": os.getpid(), "file": "mesh.yaml"}))
    return file


def look(control: str | None = None) -> Any:
    return ask(reach.choose(control), request("GET", "/v1/services"))


# --- the operators' token -----------------------------------------------------------------------------------------------------


def test_who_is_named_gets_the_token(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    look(stranger.url)
    monkeypatch.setenv("MESHQ_CONTROL_URL", stranger.url)
    look()
    assert stranger.tokens == ["operators"] * 2


def test_who_answers_on_the_usual_port_does_not(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "USUAL", stranger.url)
    look()
    assert stranger.tokens == [None, None]
    stranger.status = 403
    with pytest.raises(reach.Failed, match="MESHQ_API_TOKEN is sent only to the URL that --control or MESHQ_CONTROL"):
        ask(reach.ControlApi(stranger.url, ""), request("GET", "/v1/services"))


def test_the_dev_mesh_of_a_folder_above_does_not(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    announce(tmp_path, stranger.url)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    look()
    look(str(tmp_path))
    assert stranger.tokens == [None, None]


@pytest.mark.parametrize("whose", ["mine", "another's"])
@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:3590", True),
        ("http://localhost:3590", True),
        ("http://[::1]:3590", True),
        ("http://10.0.0.1:3590", False),
        ("http://evil.example:3590", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://[::1", False),
        ("file:///etc/passwd", False),
        ("", False),
    ],
)
def test_a_dev_mesh_is_of_this_user_and_machine(
    url: str, here: bool, whose: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = announce(tmp_path, url)
    if whose != "mine":
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    if here and whose == "mine":
        reach.choose(None).close()
        return
    with pytest.raises(reach.Away, match="give the URL with --control or MESHQ_CONTROL_URL") as refused:
        reach.choose(None)
    assert str(refused.value).startswith(f"{file} is not of this user, or names a control API that is not on this")


# --- how long it waits --------------------------------------------------------------------------------------------------------


def test_directly_a_question_ends_in_time() -> None:
    """A registry that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        way = Direct("", f"redis://127.0.0.1:{silent.getsockname()[1]}", {})
        try:
            with pytest.raises(reach.Away, match=r"did not answer within 0\.05 s"):
                way.ask(request("GET", "/v1/services"), 0.05)
        finally:
            way.close()


class Slow:
    """cli.reach.Reach to a mesh that takes its time, and in which nothing drains."""

    def __init__(self, clock: ManualClock, takes: float) -> None:
        self._clock = clock
        self._takes = takes
        self.timeouts: list[float] = []

    def get(self, path: str, query: object) -> Any: ...
    def call(self, request: HttpRequest, address: str, timeout: float) -> HttpResponse: ...  # type: ignore[empty-body]
    def publish(self, request: HttpRequest, event: EventAddress) -> HttpResponse: ...  # type: ignore[empty-body]
    def close(self) -> None: ...

    def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        self.timeouts.append(timeout)
        self._clock.advance(min(self._takes, timeout))
        return HttpResponse(200, [], b'{"lastSeen": "0", "state": "ready", "inFlight": 1}')

    def wait(self, seconds: float) -> None:
        self._clock.advance(seconds)


@pytest.mark.parametrize("takes", [0.0, 0.4, 4.0, 9.0])
def test_what_questions_take_counts_for_drain_too(takes: float, capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock()
    began, way = clock.monotonic(), Slow(clock, takes)
    with pytest.raises(typer.Exit):
        orders._wait(way, {"id": "host-a", "service": "orders", "lastSeen": "0"}, 10.0, clock)
    assert 10 <= clock.monotonic() - began <= 10 + orders.LEAST_ASKING
    assert all(orders.LEAST_ASKING <= timeout <= reach.SECONDS for timeout in way.timeouts)
    assert "orders/host-a is not drained after 10 s: ready, 1 in flight" in capsys.readouterr().err
