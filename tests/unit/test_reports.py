"""What sidecars report for scaling: how it is counted, and written."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq import Context, Problem, Service
from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.adapters.spool import DiskSpool
from meshq.core import topology
from meshq.core.instances import RENEW_EVERY
from meshq.core.reports import (
    MAX_TOPICS,
    Calls,
    Report,
    Work,
    bounded,
    decode_report,
    encode_report,
)
from meshq.ports import Spooled
from meshq.settings import load, with_instance
from meshq.testing import TestMesh, run
from meshq_sidecar.app import Sidecar
from meshq_sidecar.counting import WorkCounts
from meshq_sidecar.spool_counts import SpoolCounts
from meshq_sidecar.spooling import SpoolForwarder
from tests.contract.broker_rigs import Recorder
from tests.doubles import Counted, until
from tests.servers.processes import free_port
from tests.spool_rig import ORDERS, SHOP, work
from tests.unit import test_calling
from tests.unit.test_calling import OK, World

# --- as bytes ---------------------------------------------------------------------------------------------------------------

counts = st.integers(0, 2**63)
seconds = st.floats(0, 1e12)
topics = st.from_regex(r"[a-z]{1,8}\.v[0-9]{1,3}", fullmatch=True)
reports = st.builds(
    bounded,
    st.dictionaries(topics, st.builds(Work, seconds, seconds, counts, counts), max_size=20),
    st.dictionaries(topics, st.builds(Calls, counts, counts, counts, counts, seconds), max_size=20),
    st.dictionaries(topics, counts, max_size=20),
    st.integers(0, 10_000),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**63) | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


@given(reports)
def test_what_is_written_is_read(report: Report) -> None:
    assert decode_report(encode_report(report)) == report


@given(st.dictionaries(st.sampled_from("wcsn"), ANYTHING))
def test_whatever_else_it_is_it_is_read_or_refused(content: dict[str, object]) -> None:
    try:
        report = decode_report(msgpack.packb(content))
    except ValueError:
        return
    assert decode_report(encode_report(report)) == report


@given(st.binary(max_size=40))
def test_whatever_else_the_bytes_are_they_are_refused_if_they_are_not_a_map(packed: bytes) -> None:
    try:
        decode_report(packed)
    except ValueError:
        return
    assert isinstance(msgpack.unpackb(packed), dict)


def test_what_a_later_version_adds_is_ignored() -> None:
    packed = msgpack.packb({"w": {"orders.v1": [1.5, 2, 3, 1, "more"]}, "z": [1], "n": 4})
    assert decode_report(packed) == Report({"orders.v1": Work(1.5, 2.0, 3, 1)}, slots=4)
    assert decode_report(msgpack.packb({})) == Report()


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"w": [1]},
        {"w": {1: [1.0, 1.0, 1, 0]}},
        {"w": {"a.v1": [1.0, 1.0, 1]}},
        {"w": {"a.v1": [float("nan"), 1.0, 1, 0]}},
        {"w": {"a.v1": [float("inf"), 1.0, 1, 0]}},
        {"w": {"a.v1": [1.0, -1.0, 1, 0]}},
        {"w": {"a.v1": [1.0, 1.0, 1.0, 0]}},
        {"c": {"a.v1": [1, 1, 1, True, 0.0]}},
        {"s": {"a.v1": -1}},
        {"n": "16"},
    ],
)
def test_what_is_no_report_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match=r"it is|is not|is no"):
        decode_report(msgpack.packb(content))


def test_only_the_busiest_topics_are_told() -> None:
    many = range(2 * MAX_TOPICS)
    report = bounded(
        {f"w.v{n}": Work(handled=n) for n in many},
        {f"c.v{n}": Calls(sent=n) for n in many},
        {f"s.v{n}": n for n in many},
        16,
    )
    busiest = range(MAX_TOPICS, 2 * MAX_TOPICS)
    assert set(report.work) == {f"w.v{n}" for n in busiest}
    assert set(report.calls) == {f"c.v{n}" for n in busiest}
    assert set(report.spooled) == {f"s.v{n}" for n in busiest}
    assert len(encode_report(report)) < 32 * 1024
    more = msgpack.packb({"s": {f"s.v{n}": n for n in many}})
    assert len(decode_report(more).spooled) == MAX_TOPICS, "who reads is not made to keep more"


# --- work -------------------------------------------------------------------------------------------------------------------


def test_times_are_summed_up_by_topic() -> None:
    done = WorkCounts()
    for seconds in (1.0, 3.0):
        done.took("orders.v1", seconds)
    done.took("orders.v2", 0.5)
    done.failed("orders.v1")
    done.failed("orders.v9")
    assert done.by_topic() == {"orders.v1": Work(4.0, 10.0, 2, 1), "orders.v2": Work(0.5, 0.25, 1, 0)}


# --- calls ------------------------------------------------------------------------------------------------------------------


def calling(test: Callable[[World], Awaitable[None]]) -> None:
    async def counted(world: World) -> None:
        await test(world)
        world.answers.clear()

    test_calling.run(counted)


def test_calls_are_counted_by_what_became_of_them() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one()
        world.reply(to, OK._replace(id=request.id))
        await until(lambda: world.answers)
        give_up = world.ask()
        world.clock.advance(1.0)
        world.ask()
        world.clock.advance(2.0)
        world.ask(test_calling.call(key="k"))
        assert world.caller.calls() == {"orders.v1": Calls(3, 1, 0, 2, 3.0)}, "one with a key goes to another queue"
        give_up()
        await until(lambda: len(world.answers) == 2)
        assert world.caller.calls() == {"orders.v1": Calls(3, 2, 0, 1, 2.0)}, "and that one is not there"

    calling(test)


def test_calls_whose_time_is_over_are_counted_apart() -> None:
    async def test(world: World) -> None:
        world.ask(test_calling.call(timeout_ms=5))
        world.clock.advance(0.01)
        await until(lambda: world.answers)
        assert world.caller.calls() == {"orders.v1": Calls(1, 0, 1, 0, 0.0)}

    calling(test)


def test_calls_that_were_never_sent_or_found_no_queue_are_not_counted() -> None:
    async def test(world: World) -> None:
        world.ask(test_calling.call("nobody@7"))
        await until(lambda: world.answers)
        world.broker.drop("the test")
        world.ask(test_calling.call("orders"))
        assert world.caller.calls() == {"orders.v1": Calls(1, 0, 0, 1, 0.0)}, "one waits for the broker to come back"

    calling(test)


# --- the spool --------------------------------------------------------------------------------------------------------------


def test_what_lies_in_the_spool_is_counted_by_topic_through_restarts(tmp_path: Path) -> None:
    async def life(*publications: object) -> dict[str, int]:
        hub = EmbeddedHub(None, SystemClock())
        broker = hub.connect("shop")  # never opened: it takes nothing
        spool = DiskSpool(tmp_path, 2**20, SystemClock())
        forwarder = SpoolForwarder(spool, broker, SystemClock(), Counted(), SHOP, "shop/3.1.0/s-1")
        fates = Recorder[Spooled]()
        for each in publications:
            forwarder.accept(each, fates)  # type: ignore[arg-type]
        await fates.count(len(publications))
        found = dict(forwarder.counts.by_topic)
        await forwarder.close(0)
        await spool.close()
        await hub.close()
        return found

    later = work(4)._replace(exchange=topology.DELAY, key=topology.delay_key(60, topology.work_queue(ORDERS)))
    event = work(5)._replace(exchange=topology.EVENTS, key=topology.event_key("paid.v1"))
    keyed = work(6)._replace(key=topology.key_key("stock.v2", 3))
    first = asyncio.run(life(work(1), work(2), later, event, keyed))
    assert first == {ORDERS: 2, "stock.v2": 1}, "an event's subscribers are not known, and a delay is no work yet"
    assert asyncio.run(life(work(7))) == {ORDERS: 3, "stock.v2": 1}


def test_what_leaves_the_spool_is_counted_no_more(tmp_path: Path) -> None:
    async def life() -> None:
        spool = DiskSpool(tmp_path, 2**20, SystemClock())
        found = SpoolCounts(spool)
        for n in range(2):
            found.came(work(n))
        found.went(work(0))
        assert found.by_topic == {ORDERS: 1}
        found.went(work(1))
        found.went(work(2))
        assert found.by_topic == {}
        await spool.close()

    asyncio.run(life())


def test_what_an_earlier_process_left_is_reported_and_sent_without_anything_new(tmp_path: Path) -> None:
    async def inside() -> None:
        clock = SystemClock()
        spool, fates = DiskSpool(tmp_path, 2**20, clock), Recorder[Spooled]()
        for n in range(3):
            spool.append(work(n), fates)
        await fates.count(3)
        await spool.close()
        hub, store = EmbeddedHub(None, clock), EmbeddedStoreHub(clock)
        orders = hub.connect("orders")
        await orders.open()
        await orders.declare(topology.service(ORDERS))
        registry = EmbeddedRegistryHub(clock)
        sidecar = Sidecar(
            with_instance(load(shop_settings(tmp_path))),
            hub.connect("shop"),
            registry.connect(),
            store.connect(),
            clock,
        )
        assert sidecar._report().spooled == {ORDERS: 3}
        await sidecar.start()
        await until(lambda: sidecar._report().spooled == {})
        (queue,) = await orders.stats([topology.work_queue(ORDERS)])
        assert queue.ready == 3
        await sidecar.drain()
        await sidecar.stop()
        await hub.close()
        await store.close()

    asyncio.run(inside())


def shop_settings(spool: Path) -> dict[str, str]:
    return {
        "MESHQ_SERVICE": "shop",
        "MESHQ_SERVICE_VERSION": "3.1.0",
        "MESHQ_BROKER_URL": "embedded:",
        "MESHQ_REGISTRY_URL": "embedded:",
        "MESHQ_PORT": str(free_port()),
        "MESHQ_ADMIN_PORT": str(free_port()),
        "MESHQ_DNS_PORT": str(free_port()),
        "MESHQ_SPOOL_DIR": str(spool),
    }


# --- real sidecars ------------------------------------------------------------------------------------------------------------


def orders_service() -> Service:
    orders = Service("orders", version="2.3.0")

    @orders.post("/create")
    async def create() -> None:
        await asyncio.sleep(2)

    @orders.post("/poison")
    async def poison(ctx: Context) -> None:
        ctx.reject("we sell none")

    @orders.on("payments.settled")
    async def settled() -> None:
        await asyncio.sleep(1)

    return orders


def reported(mesh: TestMesh, service: str) -> Report:
    (found,) = [each for each in mesh._parts.registry.reports() if each.service == service]
    assert found.at_ms <= mesh.now * 1000 <= found.at_ms + 1.1 * RENEW_EVERY * 1000
    return found.report


async def renewed(mesh: TestMesh) -> None:
    await mesh.advance(1.2 * RENEW_EVERY)


@run
async def test_sidecars_report_what_their_apps_did_and_asked_for() -> None:
    async with TestMesh() as mesh:
        await mesh.serve(orders_service(), settings={"MESHQ_APP_CONCURRENCY": "5"})
        web = mesh.client("web")
        await renewed(mesh)
        before = reported(mesh, "orders")
        assert (before.work, before.slots) == ({}, 5)
        asked = [asyncio.ensure_future(web.call("orders", "POST /create")) for _ in range(3)]
        await mesh.advance(1)
        await web.send("orders", "POST /create")
        await web.send("orders", "POST /poison")
        await web.publish("payments.settled")
        await renewed(mesh)
        await asyncio.gather(*asked)
        after = reported(mesh, "orders")
        assert after.work == {"orders.v2": Work(pytest.approx(9.0), pytest.approx(17.0), 6, 1)}
        caller = reported(mesh, "web")
        assert caller == Report(calls={"orders.v2": Calls(3, 3, 0, 0, 0.0)})


@run
async def test_calls_that_wait_are_reported_with_their_age() -> None:
    async with TestMesh() as mesh:
        await mesh.serve(orders_service())
        await mesh.away("orders")
        web = mesh.client("web")
        asked = asyncio.ensure_future(web.call("orders", "POST /create", timeout=20))
        await renewed(mesh)
        waiting = reported(mesh, "web").calls["orders.v2"]
        assert (waiting.sent, waiting.open) == (1, 1)
        assert 0 < waiting.oldest_open <= 1.2 * RENEW_EVERY
        await mesh.advance(20)
        with pytest.raises(Problem):
            await asked
        await renewed(mesh)
        assert reported(mesh, "web").calls == {"orders.v2": Calls(1, 0, 1, 0, 0.0)}
