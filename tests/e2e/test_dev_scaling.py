"""`scale:` in `meshq dev` with real processes: messages wait for an app that does not run, it comes, grows, ends its work and goes, and
no message is taken from it before it is done."""

import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.desk import until
from tests.e2e.dev_mesh import Answer, Dev, ask, echo, free_ports, running, wait_gone, write_mesh

WORKER = """
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.note("begun")
        time.sleep(float(os.environ["WORK_SECONDS"]))
        self.note("done")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def note(self, what):
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(log, f"{what} {self.path} {time.time()}\\n".encode())
        os.close(log)
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
"""SIGTERM ends it at once, whatever it does."""


def scaled_mesh(folder: Path, work_seconds: float, scale: dict[str, Any], **top: Any) -> str:
    """A worker at zero replicas. Returns the URL of the sidecar of who calls it."""
    first = free_ports()
    worker = echo("worker", first + 10, command=f"{sys.executable} worker.py", env={"WORK_SECONDS": work_seconds})
    write_mesh(folder, echo("caller", first), {**worker, "scale": {"min": 0, **scale}}, **top)
    (folder / "worker.py").write_text(WORKER)
    return f"http://127.0.0.1:{first}"


def send(sidecar: str, number: int) -> Answer:
    return ask(sidecar, "POST", f"/v1/call/worker/{number}", "", Prefer="respond-async")


def steps(dev: Dev) -> list[tuple[int, int]]:
    """How the number of replicas went."""
    found = (re.search(r"worker: (\d+) -> (\d+) replicas: .", line) for line in dev.lines)
    return [(int(step[1]), int(step[2])) for step in found if step is not None]


class Log:
    """What the workers did."""

    def __init__(self, folder: Path) -> None:
        lines = [line.split() for line in (folder / "log.txt").read_text().splitlines()]
        self.begun = Counter(path for what, path, _ in lines if what == "begun")
        self.done = Counter(path for what, path, _ in lines if what == "done")
        self.first = min(float(at) for _, _, at in lines)
        self.last = max(float(at) for _, _, at in lines)


def burst(folder: Path, dev: Dev, sidecar: str, messages: int) -> Log:
    """To a worker at zero, until it is at zero again."""
    assert ask(dev.control, "GET", "/v1/services/worker").status == 200, "known before it ever ran"
    assert send(sidecar, 0).status == 202
    sent_at = time.monotonic()
    dev.wait_for("worker: 0 -> 1 replicas: ")
    assert time.monotonic() - sent_at < 1
    for number in range(1, messages):
        assert send(sidecar, number).status == 202
    until(lambda: _is_idle(dev))
    log = Log(folder)
    assert log.begun == log.done, "killed in flight"
    assert log.done == Counter(f"/{number}" for number in range(messages))
    return log


def _is_idle(dev: Dev) -> bool:
    (scaled,) = dev.status()["scaled"]
    return (scaled["replicas"], scaled["leaving"]) == (0, 0) and len(steps(dev)) > 1


def test_a_burst_wakes_an_app_grows_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    scale = {"max": 4, "wait": "1s", "lead": "1s", "idle": "2s", "stabilization": "2s"}
    folder = tmp_path / "mesh"
    sidecar = scaled_mesh(folder, 0.02, scale)
    with running(folder, "--control-port", "0", MESHQ_APP_CONCURRENCY="1") as dev:
        dev.wait_for("the app is ready")
        burst(folder, dev, sidecar, 1000)
        assert max(after for _, after in steps(dev)) > 1, dev.text
        pids = list(dev.pids().values())
        assert list(dev.pids()) == ["caller"]
        assert dev.end() == 0, dev.text
    wait_gone(pids)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_burst_of_5000_messages_of_50_ms_to_an_app_at_zero(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    sidecar = scaled_mesh(folder, 0.05, {"max": 5, "wait": "10s", "idle": "10s", "stabilization": "10s"})
    with running(folder, "--control-port", "0") as dev:
        dev.wait_for("the app is ready")
        log = burst(folder, dev, sidecar, 5000)
        grown = max(after for _, after in steps(dev))
        assert 1 < grown <= 5, dev.text
        # One replica alone works 16 s on it.
        assert log.last - log.first < 16, dev.text
        assert dev.end() == 0, dev.text


@pytest.mark.rabbitmq
@pytest.mark.redis
@pytest.mark.long
def test_on_a_real_broker_a_message_and_an_event_wake_an_app(
    tmp_path: Path, broker_url: str, redis_url: str, rabbitmq: Any
) -> None:
    folder = tmp_path / "mesh"
    sidecar = scaled_mesh(folder, 0.0, {"max": 2, "idle": "2s"}, mesh="scaled", broker=broker_url, registry=redis_url)
    mesh = json.loads((folder / "mesh.yaml").read_text())
    mesh["apps"][1]["subscribe"] = [{"event": "orders.placed@1", "path": "/placed"}]
    (folder / "mesh.yaml").write_text(json.dumps(mesh))
    with running(folder, "--control-port", "0", MESHQ_MANAGEMENT_URL=rabbitmq.management_url) as dev:
        dev.wait_for("the app is ready")
        event = ask(sidecar, "POST", "/v1/publish/orders.placed", "{}")
        assert event.status == 202
        assert "Meshq-Subscribers" not in event.headers, "its queue was made before it ever ran"
        dev.wait_for("worker: 0 -> 1 replicas: ")
        assert send(sidecar, 1).status == 202
        until(lambda: (folder / "log.txt").exists() and Log(folder).done.keys() == {"/placed", "/1"})
        until(lambda: _is_idle(dev))
        assert Log(folder).done == {"/placed": 1, "/1": 1}
        assert list(dev.pids()) == ["caller"]
        assert dev.end() == 0, dev.text
