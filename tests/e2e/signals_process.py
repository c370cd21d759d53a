"""`meshq signals` under test: a process of its own on free ports, or a server in a thread of this one; what it serves, and a client
of KEDA's contract."""

import asyncio
import http.client
import importlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from meshq.adapters.clock import SystemClock
from meshq.adapters.kubernetes import Kubernetes
from meshq.adapters.kubernetes_access import Access
from meshq.settings import BadSettings
from meshq.signals import settings
from meshq.signals.app import Ports, SignalsServer
from tests.e2e.pods import PATIENCE, Answer, ask, environment
from tests.keda_stubs import PROTO, generate
from tests.servers.processes import LOOPBACK, ServerProcess, free_port, wait_for

EXTERNAL = "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop"


class Stubs(NamedTuple):
    """The generated modules: messages, and the client."""

    messages: Any
    client: Any


def stubs(folder: Path) -> Stubs:
    """Made in `folder`."""
    sys.path.insert(0, str(generate(PROTO.read_text(), folder)))
    try:
        return Stubs(importlib.import_module("externalscaler_pb2"), importlib.import_module("externalscaler_pb2_grpc"))
    finally:
        del sys.path[0]


class Keda:
    """What KEDA asks of one server."""

    def __init__(self, port: int, stubs: Stubs) -> None:
        self._messages = stubs.messages
        self._channel = grpc.insecure_channel(f"{LOOPBACK}:{port}")
        self._client = stubs.client.ExternalScalerStub(self._channel)

    def desired(self, service: str) -> int:
        """GetMetrics. Raises grpc.RpcError."""
        asked = self._messages.GetMetricsRequest(scaledObjectRef=self._ref(service), metricName="desired_replicas")
        (value,) = self._client.GetMetrics(asked, timeout=PATIENCE).metricValues
        assert value.metricValue == value.metricValueFloat
        return int(value.metricValue)

    def refusal(self, service: str) -> Any:
        """Status code of GetMetrics; None where it has a figure."""
        try:
            self.desired(service)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]
        return None

    @contextmanager
    def figures(self, service: str) -> Iterator[set[int]]:
        """All that GetMetrics tells meanwhile."""
        told, over = set[int](), threading.Event()

        def look() -> None:
            while not over.wait(0.05):
                with suppress(grpc.RpcError):
                    told.add(self.desired(service))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield told
        finally:
            over.set()
            thread.join(PATIENCE)

    def is_active(self, service: str) -> bool:
        return bool(self._client.IsActive(self._ref(service), timeout=PATIENCE).result)

    @contextmanager
    def stream(self, service: str) -> Iterator["Stream"]:
        call = self._client.StreamIsActive(self._ref(service))
        stream = Stream(call)
        try:
            yield stream
        finally:
            call.cancel()
            stream.join()

    def close(self) -> None:
        self._channel.close()

    def _ref(self, service: str) -> Any:
        return self._messages.ScaledObjectRef(
            name=service, namespace="shop", scalerMetadata={"service": service, "scalerAddress": "signals:3591"}
        )


class Stream:
    """A StreamIsActive that is read by a thread of its own."""

    def __init__(self, call: Any) -> None:
        self.heard: list[tuple[float, bool]] = []
        """time.monotonic() and what was told then."""
        self.failed = False
        """It ended with an error."""
        self._thread = threading.Thread(target=self._read, args=(call,))
        self._thread.start()

    def first(self, active: bool, since: float) -> float:
        """When that was told first after `since`; waits for it."""
        wait_for(lambda: self._found(active, since), PATIENCE, f"StreamIsActive {active}", poll=0.01)
        found = self._found(active, since)
        assert found is not None
        return found

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert self.ended

    def _found(self, active: bool, since: float) -> float | None:
        return next((at for at, told in self.heard if at > since and told is active), None)

    def _read(self, call: Any) -> None:
        try:
            for told in call:
                self.heard.append((time.monotonic(), told.result))
        except grpc.RpcError:  # it was cancelled, or the server was killed
            self.failed = True


class Served:
    """What one server serves over HTTP on `port`."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def ask(self, target: str) -> Answer:
        return ask(self.port, target)

    def external(self, metric: str, service: str) -> Answer:
        """A metric of one service, of the API of external metrics."""
        return self.ask(f"{EXTERNAL}/{metric}?labelSelector=service%3D{service}")

    def scale(self) -> dict[str, dict[str, Any]]:
        """Topic -> its row of /v1/scale; {} while there is none."""
        try:
            answer = self.ask("/v1/scale")
        except (OSError, http.client.HTTPException):
            return {}
        return {row["topic"]: row for row in json.loads(answer.body)} if answer.status == 200 else {}

    def shown(self, topic: str) -> dict[str, float]:
        """Its series in /metrics, without `meshq_scale_`."""
        return {
            sample.name.removeprefix("meshq_scale_"): sample.value
            for sample in self._samples()
            if sample.labels.get("topic") == topic
        }

    @property
    def leads(self) -> bool:
        (leader,) = (sample.value for sample in self._samples() if sample.name == "meshq_signals_leader")
        return bool(leader)

    def _samples(self) -> list[Any]:
        families = text_string_to_metric_families(self.ask("/metrics").body.decode())
        return [sample for family in families for sample in family.samples]


class Signals(Served):
    """One process of `meshq signals`."""

    def __init__(self, log: Path, settings: Mapping[str, str]) -> None:
        """`settings`: its environment."""
        super().__init__(free_port())
        self.grpc_port = free_port()
        ports = ["--grpc-port", str(self.grpc_port), "--http-port", str(self.port), "--listen", LOOPBACK]
        env = environment({"MESHQ_LOG_FORMAT": "text", **settings})
        self._process = ServerProcess([sys.executable, "-m", "meshq", "signals", *ports], log, env)

    @property
    def output(self) -> str:
        return self._process.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process.running

    def start(self) -> "Signals":
        self._process.start()
        return self

    def wait_ready(self) -> "Signals":
        self.wait(self._ready, "ready")
        return self

    def wait(self, predicate: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
        """`wait_for`, that on failure also tells what this server says."""
        try:
            wait_for(predicate, timeout, what, poll=0.05)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.scale()}; the end of its log:\n{self._process.tail(30)}") from None

    def kill(self) -> None:
        """SIGKILL; gone when this returns."""
        self._process.kill()

    def end(self) -> tuple[int, float]:
        """SIGTERM: its exit code, and the seconds until it had ended."""
        begun = time.monotonic()
        self._process.send(signal.SIGTERM)
        wait_for(lambda: not self.running, PATIENCE, "the end of meshq signals", poll=0.01)
        code = self._process.exit_code
        assert code is not None
        return code, time.monotonic() - begun

    def close(self) -> None:
        self._process.stop()

    def _ready(self) -> bool:
        assert self.running, self._process.tail(30)
        with suppress(OSError, http.client.HTTPException):
            return self.ask("/readyz").status == 200
        return False


@contextmanager
def signals(log: Path, **settings: str) -> Iterator[Signals]:
    """One that runs; `settings` without their MESHQ_. Raises AssertionError at the end if it met an exception that nobody expected."""
    found = Signals(log, {f"MESHQ_{name.upper()}": value for name, value in settings.items()})
    try:
        yield found.start()
    except BaseException:
        print(found.output)  # pytest shows it with the failure
        raise
    finally:
        found.close()
    assert "Traceback" not in found.output, found.output


@contextmanager
def in_a_thread(environment: Mapping[str, str], access: Access) -> Iterator[Ports]:
    """A server with these settings, in a cluster that it reaches so: what a process outside of a pod cannot be given."""
    server = SignalsServer(settings.read(environment), SystemClock(), environment, lambda _: Kubernetes(access))
    started = Future[tuple[Ports, asyncio.AbstractEventLoop, asyncio.Event]]()

    async def serve() -> None:
        over = asyncio.Event()
        try:
            ports = await server.start(LOOPBACK, Ports(0, 0, 0))
            started.set_result((ports, asyncio.get_running_loop(), over))
            await over.wait()
        except BadSettings as error:
            started.set_exception(error)
        finally:
            await server.close()

    thread = threading.Thread(target=uvloop.run, args=(serve(),))
    thread.start()
    try:
        ports, loop, over = started.result(PATIENCE)
        try:
            yield ports
        finally:
            loop.call_soon_threadsafe(over.set)
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive()
