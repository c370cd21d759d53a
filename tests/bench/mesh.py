"""Sidecars as processes of their own, as a pod each would have them, and the pair of them that waited calls go through."""

import json
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
CALLER = "caller"


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
    common = mesh_settings(broker_url, registry_url)
    with ExitStack() as stack:
        app = stack.enter_context(Host.process("tests.bench.echo", str(app_port), says="ready"))
        callee = stack.enter_context(sidecar(common | app_settings(app_port)))
        callee_after = callee.wait_ready()
        caller = stack.enter_context(sidecar({**common, "MESHQ_SERVICE": CALLER}))
        caller_after = caller.wait_ready()
        # For its first seconds a connection has calls confirmed (amqp_publisher.SETTLING); what is measured is what follows.
        threading.Event().wait(SETTLING)
        pids = {"app": app.pid, "sidecar A": caller.pid, "sidecar B": callee.pid}
        yield Pair(caller.port, pids, {"sidecar A": caller_after, "sidecar B": callee_after})


@contextmanager
def sdk_pair(broker_url: str, registry_url: str) -> Iterator[Pair]:
    """The same with an app on the SDK behind it, over the link."""
    common = mesh_settings(broker_url, registry_url)
    with ExitStack() as stack:
        callee = stack.enter_context(sidecar({**common, "MESHQ_SERVICE": SERVICE, "MESHQ_APP_CONCURRENCY": "64"}))
        app = stack.enter_context(Host.process("tests.bench.sdk", "serve", callee.url, says="ready"))
        callee_after = callee.wait_ready()
        caller = stack.enter_context(sidecar({**common, "MESHQ_SERVICE": CALLER}))
        caller_after = caller.wait_ready()
        wait_until(callee.serves, "the app's link")
        threading.Event().wait(SETTLING)
        pids = {"app": app.pid, "sidecar A": caller.pid, "sidecar B": callee.pid}
        yield Pair(caller.port, pids, {"sidecar A": caller_after, "sidecar B": callee_after})


def mesh_settings(broker_url: str, registry_url: str) -> dict[str, str]:
    return {"MESHQ_BROKER_URL": broker_url, "MESHQ_REGISTRY_URL": registry_url, "MESHQ_LOG_LEVEL": "warning"}


def app_settings(app_port: int) -> dict[str, str]:
    return {"MESHQ_SERVICE": SERVICE, "MESHQ_APP_PORT": str(app_port), "MESHQ_APP_CONCURRENCY": "64"}


@dataclass(frozen=True)
class Sidecar:
    """A sidecar's process, begun and perhaps not ready yet."""

    process: "subprocess.Popen[bytes]"
    port: int
    admin_port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serves(self) -> bool:
        """Whether it takes messages."""
        with urllib.request.urlopen(f"{self.url}/v1/self", timeout=1) as answer:
            return bool(json.load(answer)["consuming"])

    def wait_ready(self) -> float:
        """Seconds that it took."""
        return wait_until(lambda: _ready(self.process, self.admin_port), "a ready sidecar")


@contextmanager
def sidecar(settings: Mapping[str, str]) -> Iterator[Sidecar]:
    port, admin = free_port(), free_port()
    env = {
        **os.environ,
        **settings,
        "MESHQ_SERVICE_VERSION": "1.0.0",
        "MESHQ_PORT": str(port),
        "MESHQ_ADMIN_PORT": str(admin),
        "MESHQ_DNS_PORT": str(free_port()),
    }
    process = subprocess.Popen([sys.executable, "-m", "meshq_sidecar"], env=env)
    try:
        yield Sidecar(process, port, admin)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _ready(process: "subprocess.Popen[bytes]", admin_port: int) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the sidecar ended with {process.returncode}")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
