"""Two sidecars as processes of their own, an echo app behind one, as a pod each would have them."""

import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.error import URLError

from meshq.adapters.amqp_publisher import SETTLING
from tests.bench.measure import Host, wait_until
from tests.servers.processes import free_port

SERVICE = "echo"


@dataclass(frozen=True)
class Pair:
    port: int
    """Of the calling side's sidecar."""
    pids: Mapping[str, int]
    ready_after: Mapping[str, float]
    """Seconds from the start of each process to its /readyz saying so."""


@contextmanager
def pair(broker_url: str, registry_url: str) -> Iterator[Pair]:
    app_port = free_port()
    with ExitStack() as stack:
        app = stack.enter_context(Host.process("tests.bench.echo", str(app_port), says="ready"))
        common = {"MESHQ_BROKER_URL": broker_url, "MESHQ_REGISTRY_URL": registry_url, "MESHQ_LOG_LEVEL": "warning"}
        callee = {"MESHQ_SERVICE": SERVICE, "MESHQ_APP_PORT": str(app_port), "MESHQ_APP_CONCURRENCY": "64"}
        b, _, b_after = stack.enter_context(_sidecar({**common, **callee}))
        a, a_port, a_after = stack.enter_context(_sidecar({**common, "MESHQ_SERVICE": "caller"}))
        # For its first seconds a connection has calls confirmed (amqp_publisher.SETTLING); what is measured is what follows.
        threading.Event().wait(SETTLING)
        pids = {"app": app.pid, "sidecar A": a.pid, "sidecar B": b.pid}
        yield Pair(a_port, pids, {"sidecar A": a_after, "sidecar B": b_after})


@contextmanager
def _sidecar(settings: Mapping[str, str]) -> Iterator[tuple["subprocess.Popen[bytes]", int, float]]:
    port, admin = free_port(), free_port()
    env = {
        **os.environ,
        **settings,
        "MESHQ_SERVICE_VERSION": "1.0.0",
        "MESHQ_PORT": str(port),
        "MESHQ_ADMIN_PORT": str(admin),
    }
    process = subprocess.Popen([sys.executable, "-m", "meshq_sidecar"], env=env)
    try:
        yield process, port, wait_until(lambda: _ready(process, admin), "a ready sidecar")
    finally:
        process.terminate()
        process.wait(30)


def _ready(process: "subprocess.Popen[bytes]", admin_port: int) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the sidecar ended with {process.returncode}")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
