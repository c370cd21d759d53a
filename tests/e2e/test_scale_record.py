"""A live mesh recorded by `meshq scale record`, and what it wrote replayed by `meshq scale simulate`."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from meshq.simulate.traces import read
from tests.e2e.desk import until
from tests.e2e.dev_mesh import (
    DEADLINE_SECONDS,
    Dev,
    ask,
    command,
    echo,
    environment,
    free_ports,
    meshq,
    running,
    write_mesh,
)

MESSAGES = 200
LOOKS_SECONDS = 3.0
"""The recorder asks every second, and looks are a second apart."""

WORKER = """
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_POST(self):
        began = time.perf_counter()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(0.05)
        log = os.open("took.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(log, f"{time.perf_counter() - began}\\n".encode())
        os.close(log)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def explained(dev: Dev) -> dict[str, Any]:
    (row,) = ask(dev.control, "GET", "/v1/scale/worker").body
    found: dict[str, Any] = row
    return found


def when(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["decidedAt"]).timestamp()


def recorded(dev: Dev, folder: Path, load: Callable[[], None]) -> str:
    """What the recorder says of what came between its begin and Ctrl-C."""
    recorder = subprocess.Popen(
        command("scale", "record", "worker", "--for", "5m"), cwd=folder, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert recorder.stderr is not None
        assert recorder.stderr.readline().startswith("recording worker.v1")
        load()
        until(lambda: explained(dev)["counts"]["handled"] == MESSAGES)
        reported = when(explained(dev))
        until(lambda: when(explained(dev)) > reported + LOOKS_SECONDS)
        recorder.send_signal(signal.SIGINT)
        out, err = recorder.communicate(timeout=DEADLINE_SECONDS)
        assert recorder.returncode == 0, err
        return out
    finally:
        recorder.kill()
        recorder.wait()


@pytest.mark.timeout(100)
def test_a_live_mesh_is_recorded_and_replayed(tmp_path: Path) -> None:
    folder, first = tmp_path / "mesh", free_ports()
    worker = echo("worker", first + 10, command=f"{sys.executable} worker.py")
    write_mesh(folder, echo("caller", first), worker)
    (folder / "worker.py").write_text(WORKER)

    def send(number: int) -> int:
        url = f"http://127.0.0.1:{first}"
        return ask(url, "POST", f"/v1/call/worker/{number}", "", Prefer="respond-async").status

    def load() -> None:
        with ThreadPoolExecutor(4) as senders:
            assert list(senders.map(send, range(MESSAGES))) == [202] * MESSAGES

    with running(folder, "--control-port", "0", MESHQ_APP_CONCURRENCY="8") as dev:
        dev.wait_for("all 2 apps are ready")
        said = recorded(dev, folder, load)
        assert dev.end() == 0, dev.text
    assert said.startswith(f"trace.csv: {MESSAGES} messages in "), said
    trace = read(folder / "trace.csv")
    took = [float(line) for line in (folder / "took.txt").read_text().splitlines()]
    assert len(trace.arrivals) == len(took) == MESSAGES
    assert trace.service == pytest.approx(sum(took) / MESSAGES, rel=0.3)
    assert (trace.slots, trace.replicas, trace.outages) == (8, 1, ())
    replayed = meshq("scale", "simulate", "trace.csv", "--against", "hpa", "-o", "json", cwd=folder)
    assert replayed.returncode == 0, replayed.stderr
    (found,) = json.loads(replayed.stdout)["traces"]
    assert (found["trace"], found["messages"]) == (trace.name, MESSAGES)
