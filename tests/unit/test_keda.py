"""KEDA's external scaler contract over real gRPC, driven by a client made from the .proto: all five calls (statement A4)."""

import asyncio
import importlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
import uvloop

from meshq.adapters.keda_grpc import MOST_STREAMS, KedaServer
from meshq.adapters.tls_serving import Files, Served, load
from meshq.signals.figures import Wishes
from meshq.signals.keda import Scaler
from tests.http_tools import within
from tests.keda_stubs import PROTO, generate
from tests.told_signals import AWAY, ToldSignals, signal, stale

ORDERS = {"service": "orders", "version": "2", "scalerAddress": "meshq-signals:3591"}
INVALID, UNAVAILABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE

Keda = Any
"""The generated module of messages; `stub` is the generated client."""


class Client(NamedTuple):
    keda: Keda
    stub: Any

    def ref(self, metadata: dict[str, str]) -> Any:
        return self.keda.ScaledObjectRef(name="orders", namespace="shop", scalerMetadata=metadata)

    async def desired(self, metadata: dict[str, str], name: str = "desired_replicas") -> tuple[str, int, float]:
        asked = self.keda.GetMetricsRequest(scaledObjectRef=self.ref(metadata), metricName=name)
        (value,) = (await self.stub.GetMetrics(asked)).metricValues
        return value.metricName, value.metricValue, value.metricValueFloat

    async def is_active(self, metadata: dict[str, str] = ORDERS) -> bool:
        return bool((await self.stub.IsActive(self.ref(metadata))).result)


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    folder = str(generate(PROTO.read_text(), tmp_path_factory.mktemp("stubs")))
    sys.path.insert(0, folder)
    yield importlib.import_module("externalscaler_pb2"), importlib.import_module("externalscaler_pb2_grpc")
    sys.path.remove(folder)


@pytest.fixture
def signals() -> ToldSignals:
    return ToldSignals(signal("orders", 1, 1), signal("orders", 2, 3))


Run = Callable[[Callable[[Client], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def run(stubs: tuple[Any, Any], signals: ToldSignals) -> Run:
    """A scene with a client of a server of `signals`."""

    def run(scene: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        async def served() -> None:
            async with serving(signals) as (_, port), dialled(stubs, port) as client:
                await within(scene(client))

        uvloop.run(served())

    return run


@asynccontextmanager
async def serving(
    signals: ToldSignals, tls: Served | None = None, most_streams: int = MOST_STREAMS
) -> AsyncIterator[tuple[KedaServer, int]]:
    server = KedaServer(Scaler(signals), most_streams)
    port = await server.start("127.0.0.1", 0, tls)
    try:
        yield server, port
    finally:
        await server.close()


@asynccontextmanager
async def dialled(stubs: tuple[Any, Any], port: int, credentials: Any = None) -> AsyncIterator[Client]:
    where = f"localhost:{port}"
    channel = grpc.aio.insecure_channel(where) if credentials is None else grpc.aio.secure_channel(where, credentials)
    async with channel:
        yield Client(stubs[0], stubs[1].ExternalScalerStub(channel))


async def refusal(call: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), refused.value.details() or ""


async def next_of(stream: Any) -> bool:
    return bool((await within(stream.read())).result)


# --- calls with one answer ----------------------------------------------------------------------------------------------------


def test_one_replica_is_for_one_of_the_metric(run: Run, signals: ToldSignals) -> None:
    async def scene(client: Client) -> None:
        for known in (signal(), stale()):
            signals.tell(known)
            (spec,) = (await client.stub.GetMetricSpec(client.ref(ORDERS))).metricSpecs
            assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("desired_replicas", 1, 1.0)

    run(scene)


@pytest.mark.parametrize("name", ["desired_replicas", "s0-desired_replicas", "of-an-older-release"])
def test_the_metric_is_given_in_both_fields_under_the_name_it_was_asked_by(run: Run, name: str) -> None:
    async def scene(client: Client) -> None:
        assert await client.desired(ORDERS, name) == (name, 3, 3.0)

    run(scene)


def test_without_a_version_the_highest_major_is_meant(run: Run, signals: ToldSignals) -> None:
    async def scene(client: Client) -> None:
        assert (await client.desired({"service": "orders"}))[1] == 3
        signals.tell(signal("orders", 10, 5))
        assert (await client.desired({"service": "orders"}))[1] == 5
        assert (await client.desired({"service": "orders", "version": "1"}))[1] == 1

    run(scene)


def test_active_is_who_should_have_a_replica(run: Run, signals: ToldSignals) -> None:
    async def scene(client: Client) -> None:
        assert await client.is_active() is True
        signals.tell(signal(desired=0, replicas=0))
        assert await client.is_active() is False
        assert await client.desired(ORDERS) == ("desired_replicas", 0, 0.0)

    run(scene)


def test_wishes_go_on_to_the_signals(run: Run, signals: ToldSignals) -> None:
    async def scene(client: Client) -> None:
        await client.desired({**ORDERS, "wait": "2s", "max": "40"})
        assert signals.wishes == [Wishes(wait=2.0, max=40)]
        code, said = await refusal(client.is_active({**ORDERS, "min": "30"}))
        assert (code, "min is 30 and max 20" in said) == (INVALID, True)

    run(scene)


def test_wrong_metadata_is_refused_by_every_call(run: Run) -> None:
    async def scene(client: Client) -> None:
        wrong = client.ref({"version": "2"})
        asked = client.keda.GetMetricsRequest(scaledObjectRef=wrong, metricName="desired_replicas")
        stub = client.stub
        calls = [stub.IsActive(wrong), stub.GetMetricSpec(wrong), stub.GetMetrics(asked)]
        calls += [stub.StreamIsActive(wrong).read(), stub.StreamMetricSpec(wrong).read()]
        for call in calls:
            code, said = await refusal(call)
            assert (code, "service: is required" in said) == (INVALID, True)

    run(scene)


# --- what is not known --------------------------------------------------------------------------------------------------------


def test_missing_statistics_are_unavailable_and_never_zero_keda_7180(run: Run, signals: ToldSignals) -> None:
    """KEDA's own RabbitMQ scaler reads a statistic that is missing as 0, and scales to zero on it (kedacore/keda#7180)."""

    async def scene(client: Client) -> None:
        for desired in (None, 0, 3):
            signals.tell(stale(desired=desired))
            for call in (client.desired(ORDERS), client.is_active()):
                code, said = await refusal(call)
                assert (code, said) == (UNAVAILABLE, f"orders.v2: {AWAY}")

    run(scene)


def test_nothing_known_is_unavailable_with_the_reason(run: Run, signals: ToldSignals) -> None:
    async def scene(client: Client) -> None:
        signals.tell(signal(desired=None))
        code, said = await refusal(client.is_active())
        assert (code, said) == (UNAVAILABLE, "orders.v2: 12.5 messages a second come")
        code, said = await refusal(client.is_active({"service": "orders", "version": "7"}))
        assert code is UNAVAILABLE
        assert said.startswith("orders.v7: nothing is known of it")
        assert said.endswith("orders has majors 1, 2")
        signals.forget()
        signals.fault = "the registry is away"
        for metadata, what in ((ORDERS, "orders.v2"), ({"service": "orders"}, "orders")):
            assert await refusal(client.is_active(metadata)) == (UNAVAILABLE, f"{what}: the registry is away")

    run(scene)


# --- streams ------------------------------------------------------------------------------------------------------------------


def test_a_stream_tells_what_is_known_at_once_and_then_what_changes(run: Run, signals: ToldSignals) -> None:
    async def scene(client: Client) -> None:
        stream = client.stub.StreamIsActive(client.ref(ORDERS))
        assert await next_of(stream) is True
        signals.tell(signal(desired=4), signal(desired=0), signal("billing", 1, 9), signal("orders", 1, 5))
        assert await next_of(stream) is False
        signals.tell(signal(desired=0))
        signals.tell(signal(desired=1, replicas=0))
        assert await next_of(stream) is True

    run(scene)


def test_a_wake_is_told_until_somebody_is_there(run: Run, signals: ToldSignals) -> None:
    asleep = signal(desired=1, replicas=0)

    async def scene(client: Client) -> None:
        signals.tell(signal(desired=0, replicas=0))
        stream = client.stub.StreamIsActive(client.ref(ORDERS))
        assert await next_of(stream) is False
        for _ in range(3):
            signals.tell(asleep)
            assert await next_of(stream) is True
        signals.tell(signal(desired=1, replicas=1))
        signals.tell(signal(desired=0, replicas=1))
        assert await next_of(stream) is False

    run(scene)


def test_a_stream_outlives_what_is_not_known(run: Run, signals: ToldSignals) -> None:
    async def scene(client: Client) -> None:
        signals.forget()
        stream = client.stub.StreamIsActive(client.ref({"service": "orders"}))
        await signals.looked.wait()
        signals.tell(signal(desired=0, replicas=0))
        assert await next_of(stream) is False

    run(scene)


def test_what_is_stale_wakes_and_puts_nothing_to_sleep(run: Run, signals: ToldSignals) -> None:
    async def scene(client: Client) -> None:
        signals.tell(signal(desired=0))
        stream = client.stub.StreamIsActive(client.ref(ORDERS))
        assert await next_of(stream) is False
        signals.tell(stale(desired=1))
        assert await next_of(stream) is True
        await signals.tell_one_by_one(stale(desired=0), stale(desired=None), signal(desired=1, replicas=0))
        assert await next_of(stream) is True

    run(scene)


def test_the_metric_of_a_stream_never_changes(run: Run) -> None:
    async def scene(client: Client) -> None:
        stream = client.stub.StreamMetricSpec(client.ref(ORDERS))
        assert await within(stream.read()) == await client.stub.GetMetricSpec(client.ref(ORDERS))

    run(scene)


def test_streams_end_without_an_error_when_the_server_stops(stubs: tuple[Any, Any], signals: ToldSignals) -> None:
    """After an error KEDA would come back ever later, up to a minute."""

    async def scene() -> None:
        async with serving(signals) as (server, port), dialled(stubs, port) as client:
            streams = [client.stub.StreamIsActive(client.ref(ORDERS)), client.stub.StreamMetricSpec(client.ref(ORDERS))]
            for stream in streams:
                await within(stream.read())
            await within(server.close())
            for stream in streams:
                assert await within(stream.read()) is grpc.aio.EOF
                assert await stream.code() is grpc.StatusCode.OK
            assert signals.watchers == []

    uvloop.run(scene())


def test_streams_are_counted_and_end_with_their_clients(stubs: tuple[Any, Any], signals: ToldSignals) -> None:
    async def scene() -> None:
        async with serving(signals, most_streams=2) as (_, port), dialled(stubs, port) as client:
            ref = client.ref(ORDERS)
            streams = [client.stub.StreamIsActive(ref), client.stub.StreamMetricSpec(ref)]
            for stream in streams:
                await within(stream.read())
            code, said = await refusal(client.stub.StreamIsActive(ref).read())
            assert (code, said) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED, "all 2 streams of this server are in use",
            )  # fmt: skip
            assert await client.is_active()
            for gone in streams:
                gone.cancel()
                assert await within(admitted(client)) is True

    uvloop.run(scene())


async def admitted(client: Client) -> bool:
    """What a new stream tells first, asked for until there is room for it."""
    while True:
        with suppress(grpc.aio.AioRpcError):
            return await next_of(client.stub.StreamIsActive(client.ref(ORDERS)))


# --- who may ask, and how -------------------------------------------------------------------------------------------------------


def test_tls_with_and_without_certificates_of_the_clients(
    stubs: tuple[Any, Any], signals: ToldSignals, tmp_path: Path
) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    of_client = theirs.issue_cert("keda-operator")
    own = {"private_key": of_client.private_key_pem.bytes(), "certificate_chain": of_client.cert_chain_pems[0].bytes()}
    root = ours.cert_pem.bytes()
    anybody, known = grpc.ssl_channel_credentials(root), grpc.ssl_channel_credentials(root, **own)
    files = written(ours, tmp_path)
    theirs.cert_pem.write_to_path(str(tmp_path / "clients.pem"))

    async def asks(port: int, credentials: Any) -> bool:
        async with dialled(stubs, port, credentials) as client:
            return await within(client.is_active())

    async def scene() -> None:
        async with serving(signals, load(files)) as (_, port):
            assert await asks(port, anybody)
        async with serving(signals, load(files._replace(client_ca=tmp_path / "clients.pem"))) as (_, port):
            assert await asks(port, known)
            assert (await refusal(asks(port, anybody)))[0] is UNAVAILABLE

    uvloop.run(scene())


def written(ca: trustme.CA, folder: Path) -> Files:
    """A certificate of `localhost`, and its key."""
    issued = ca.issue_cert("localhost")
    files = Files(folder / "cert.pem", folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(str(files.cert))
    issued.private_key_pem.write_to_path(str(files.key))
    return files


def test_a_port_that_is_taken_is_a_fault(signals: ToldSignals) -> None:
    async def scene() -> None:
        async with serving(signals) as (_, port):
            second = KedaServer(Scaler(signals))
            with pytest.raises(OSError, match=f"127.0.0.1 port {port} cannot be listened on"):
                await second.start("127.0.0.1", port)
            await second.close()

    uvloop.run(scene())


FOUR_CALLS = """
import json, sys
import grpc, externalscaler_pb2 as pb, externalscaler_pb2_grpc as rpc

stub = rpc.ExternalScalerStub(grpc.insecure_channel(sys.argv[1]))
ref = pb.ScaledObjectRef(name="orders", namespace="shop", scalerMetadata={"service": "orders"})
value = stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref, metricName="desired_replicas")).metricValues[0]
print(json.dumps({
    "calls": sorted(name for name in vars(stub)),
    "specs": [spec.metricName for spec in stub.GetMetricSpec(ref).metricSpecs],
    "value": [value.metricValue, value.metricValueFloat],
    "active": [stub.IsActive(ref).result, next(iter(stub.StreamIsActive(ref))).result],
}))
"""


def test_a_client_of_the_contract_with_four_calls(signals: ToldSignals, tmp_path: Path) -> None:
    """KEDA 2.20 and older; in a process of its own, because two versions of a contract do not fit into one."""
    four = re.sub(r"(?m)^.*rpc StreamMetricSpec.*\n", "", PROTO.read_text())
    (tmp_path / "client.py").write_text(FOUR_CALLS)
    command = [sys.executable, "client.py"]
    generate(four, tmp_path)

    async def scene() -> dict[str, Any]:
        async with serving(signals) as (_, port):
            client = await asyncio.create_subprocess_exec(
                *command, f"localhost:{port}", cwd=tmp_path, stdout=subprocess.PIPE
            )
            said, _ = await within(client.communicate())
            return dict(json.loads(said))

    assert uvloop.run(scene()) == {
        "calls": ["GetMetricSpec", "GetMetrics", "IsActive", "StreamIsActive"],
        "specs": ["desired_replicas"],
        "value": [3, 3.0],
        "active": [True, True],
    }
