"""The embedded broker's logs beyond the contract suite: what is kept, for how long, and through restarts."""

from pathlib import Path

import pytest

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import MEMORY_LOG_BYTES
from meshq.adapters.embedded_log import READ_AT_ONCE
from meshq.adapters.embedded_offset import Since, read_offset
from meshq.core import topology
from meshq.core.topology import EVENTS, Binding, Queue, Topology
from meshq.ports import Delivery, Publication, Published, QueueStats
from tests.contract.broker_rigs import Recorder, published
from tests.unit.embedded_hub import Life, bodies, live
from tests.unit.test_embedded_durability import files_no_larger_than

TOPIC = "price.set.v1"
LOG = topology.log_queue(TOPIC)
START_MS = 1_700_000_000_000


@pytest.fixture(params=["in memory", "on disk"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "broker.db" if request.param == "on disk" else None


def event(body: bytes) -> Publication:
    return Publication(EVENTS, topology.event_key(TOPIC), body, "m1", "event")


def log(**arguments: int | str) -> Topology:
    found = tuple((name.replace("_", "-"), value) for name, value in arguments.items())
    spec = Queue(LOG, (("x-queue-type", "stream"), *found))
    return Topology(queues=(spec,), bindings=(Binding(EVENTS, LOG, f"{TOPIC}.*"),))


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [delivery.properties()["headers"]["x-stream-offset"] for delivery in deliveries]


async def read_all(life: Life) -> list[Delivery]:
    (figures,) = await life.broker.stats([LOG])
    return await life.inbox(LOG, offset="first").count(figures.ready or 0)


def test_records_have_numbers_without_gaps_and_last(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def first(life: Life) -> None:
        await life.confirm(*(event(b"%d" % n) for n in range(10)))
        assert numbers(await read_all(life)) == list(range(10))

    async def second(life: Life) -> None:
        await life.confirm(event(b"10"))
        found = await read_all(life)
        assert numbers(found) == list(range(11))
        assert bodies(found) == [b"%d" % n for n in range(11)]
        assert (found[0].message_id, found[0].user_id, found[0].redelivered) == ("m1", "orders", False)
        assert found[0].properties()["type"] == "event"

    live(first, path, topology.log(TOPIC))
    live(second, path)


def test_a_reader_gets_every_record_however_many(file: Path | None) -> None:
    async def story(life: Life) -> None:
        many = 5 * READ_AT_ONCE + 3
        await life.confirm(*(event(b"%d" % n) for n in range(many)))
        slow, quick = life.inbox(LOG, prefetch=1, offset="first"), life.inbox(LOG, prefetch=1000, offset="first")
        for inbox in (slow, quick):
            assert numbers(await inbox.count(many)) == list(range(many))

    live(story, file, topology.log(TOPIC))


def test_what_is_sent_without_a_confirm_is_logged_too(file: Path | None) -> None:
    async def story(life: Life) -> None:
        inbox = life.inbox(LOG)
        assert life.broker.send(event(b"sent"))
        assert bodies(await inbox.count(1)) == [b"sent"]

    live(story, file, topology.log(TOPIC))


def test_old_records_go_when_the_log_is_too_large(file: Path | None) -> None:
    async def story(life: Life) -> None:
        await life.confirm(*(event(b"%d " % n + bytes(1000)) for n in range(200)))
        found = numbers(await read_all(life))
        assert found[-1] == 199
        assert found == list(range(found[0], 200))
        assert 80_000 - 80_000 // 4 < len(found) * 1500 <= 80_000, "it is cut by segments"
        assert numbers(await life.inbox(LOG, offset=5).count(len(found))) == found, "what is gone is passed over"

    live(story, file, log(x_max_length_bytes=80_000))


def test_old_records_go_when_they_are_too_old(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    bound = {"x_max_age": "7D", "x_max_length_bytes": 8000}  # segments of 1000 bytes, one record each

    async def first(life: Life) -> None:
        await life.confirm(event(bytes(600)))
        await life.pass_time(4 * 86_400)
        await life.confirm(event(bytes(600)), event(bytes(600)))
        await life.pass_time(3 * 86_400 + 1)
        await life.confirm(event(bytes(600)))
        assert numbers(await read_all(life)) == [1, 2, 3]

    async def later(life: Life) -> None:
        assert numbers(await read_all(life)) == [3], "the last segment stays however old"

    live(first, path, log(**bound), clock=ManualClock(mesh_ms=START_MS))
    live(later, path, clock=ManualClock(mesh_ms=START_MS + 30 * 86_400_000))
    live(later, path, clock=ManualClock(mesh_ms=START_MS + 31 * 86_400_000))


def test_without_a_file_a_log_is_bounded_all_the_same() -> None:
    async def story(life: Life) -> None:
        for _ in range(MEMORY_LOG_BYTES // 2**20 + 10):
            await life.confirm(event(bytes(2**20)))
        (figures,) = await life.broker.stats([LOG])
        assert figures.ready is not None
        assert MEMORY_LOG_BYTES // 2**20 - 3 <= figures.ready <= MEMORY_LOG_BYTES // 2**20
        assert len(await read_all(life)) == figures.ready

    live(story, None, topology.log(TOPIC))


def test_a_log_is_read_from_a_time(file: Path | None) -> None:
    async def story(life: Life) -> None:
        for n in range(5):
            await life.confirm(event(b"%d" % n))
            await life.pass_time(60)
        at = {
            "2023-11-14T22:13:20Z": 0,
            "2023-11-14T22:14:20Z": 1,
            "2023-11-14T22:14:20.001Z": 2,
            "2023-11-14T23:16:20+01:00": 3,
        }
        for time, number in at.items():
            assert numbers(await life.inbox(LOG, offset=time).count(5 - number)) == list(range(number, 5))
        inbox = life.inbox(LOG, offset="2030-01-01T00:00:00Z")
        await life.confirm(event(b"new"))
        assert numbers(await inbox.count(1)) == [5]

    live(story, file, topology.log(TOPIC), clock=ManualClock(mesh_ms=START_MS))


def test_where_a_reader_may_begin() -> None:
    assert [read_offset(given) for given in (None, "next", "first", 0, 17)] == ["next", "next", "first", 0, 17]
    assert read_offset("2023-11-14T22:13:20Z") == read_offset("2023-11-14 22:13:20") == Since(START_MS)
    for wrong in (-1, "", "last", "yesterday"):
        with pytest.raises(ValueError, match="is neither the number of a message nor first, next or a time"):
            read_offset(wrong)


def test_a_number_that_is_not_there_yet_is_waited_for(file: Path | None) -> None:
    async def story(life: Life) -> None:
        await life.confirm(event(b"0"))
        inbox = life.inbox(LOG, offset=3)
        await life.confirm(*(event(b"%d" % n) for n in range(1, 6)))
        assert numbers(await inbox.count(3)) == [3, 4, 5]

    live(story, file, topology.log(TOPIC))


def test_settling_in_any_way_makes_room_and_brings_nothing_back(file: Path | None) -> None:
    async def story(life: Life) -> None:
        inbox = Recorder[Delivery]()
        life.broker.subscribe(LOG, 2, inbox, offset="first")
        await life.confirm(*(event(b"%d" % n) for n in range(4)))
        (first, second) = await inbox.count(2)
        assert await life.broker.stats([LOG]) == [QueueStats(LOG, 4, 2, 1)]
        first.requeue()
        first.ack()
        second.ack()
        assert numbers(await inbox.count(4)) == [0, 1, 2, 3]
        life.broker.drop("cut")
        assert not inbox.seen[3].live
        await life.broker.open()
        assert numbers((await inbox.count(6))[4:]) == [0, 1], "on a new connection it begins where it was told"

    live(story, file, topology.log(TOPIC))


def test_a_reader_that_stops_in_the_middle_gets_nothing_more(file: Path | None) -> None:
    async def story(life: Life) -> None:
        seen = Recorder[Delivery]()

        def take(delivery: Delivery) -> None:
            seen(delivery)
            if len(seen.seen) == 3:
                subscription.cancel()

        subscription = life.broker.subscribe(LOG, 100, take, offset="first")
        await life.confirm(*(event(b"%d" % n) for n in range(10)))
        await read_all(life)
        assert numbers(seen.seen) == [0, 1, 2]

    live(story, file, topology.log(TOPIC))


def test_a_record_that_could_not_be_written_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def story(life: Life) -> None:
        inbox = life.inbox(LOG, offset="first")
        await life.confirm(event(b"before"))
        with files_no_larger_than(path.with_name("broker.db-wal").stat().st_size):
            assert await published(life.broker, event(b"lost")) == [Published.REFUSED]
        assert await published(life.broker, event(b"after")) == [Published.CONFIRMED]
        found = await inbox.count(2)
        assert bodies(found) == [b"before", b"after"]
        assert numbers(found) == [0, 2], "its number stays out"

    live(story, path, topology.log(TOPIC))


def test_logged_events_take_no_room_from_queues(file: Path | None) -> None:
    async def story(life: Life) -> None:
        for n in range(10):
            await life.confirm(event(b"%d" % n))
        assert len(await read_all(life)) == 10

    live(story, file, topology.log(TOPIC), max_messages=2)


def test_a_log_cannot_be_held(file: Path | None) -> None:
    async def story(life: Life) -> None:
        await life.confirm(event(b"0"))
        held = await life.broker.hold(LOG, 10)
        assert (held.deliveries, held.behind) == ([], 0)
        await held.release()

    live(story, file, topology.log(TOPIC))
