"""Replays: an event's log into a subscription's queue, over every broker; one instance copies, another takes over."""

import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest

from meshq.core.times import show_timestamp
from meshq.core.topology import log_queue, subscription_queue
from meshq_sidecar import replaylog
from tests.contract.broker_rigs import BrokerRig, eventually
from tests.contract.event_rigs import Member, Mesh, numbers, subscription
from tests.contract.test_events import publish_numbers
from tests.contract.test_subscriptions import ask, put, shown

SETTLED = "payments.settled"


async def publisher(mesh: Mesh, *events: str) -> Member:
    return await mesh.member("payments", "payments-a", log=events or (SETTLED,))


async def logged(member: Member, count: int) -> bool:
    (figures,) = await member.broker.stats([log_queue("payments.settled.v1")])
    return (figures.ready or 0) >= count


async def test_a_replay_gets_what_was_logged_before_it_and_what_comes_after(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        await publish_numbers(payments, 20, x_shop="berlin", meshq_key="a")
        await mesh.member("shop", "shop-a", subscription("again", path="/again", mode="replay"))
        await mesh.posted.count(20)
        await publish_numbers(payments, 5, start=20)
        posted = await mesh.posted.count(25)
        assert sorted(numbers(posted)) == list(range(25))
        first = next(each for each in posted if each.body == b"0")
        expected = {
            "x-shop": "berlin",
            "ce-type": SETTLED,
            "meshq-topic": "payments.settled.v1",
            "meshq-attempt": "1",
            "meshq-key": "a",
        }
        assert first.headers.items() >= expected.items()
        assert first.headers.get("meshq-caller", first.headers.get("meshq-caller-claimed")) == "payments"


async def test_a_replay_may_begin_with_what_is_next(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        await publish_numbers(payments, 3)
        shop = await mesh.member("shop", "shop-a")
        assert await put(shop, "again", mode="replay", **{"from": "next"}) == 201
        await eventually(lambda: copies(shop))

        async def one_arrives() -> bool:
            await publish_numbers(payments, 1, start=100)
            return bool(mesh.posted.seen)

        await eventually(one_arrives)
        assert set(numbers(mesh.posted.seen)) == {100}


async def copies(member: Member, name: str = "again") -> bool:
    found = shown(await ask(member, "GET", name))
    return bool(found["replay"] == "copies")


async def test_a_replay_may_begin_at_a_number(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        await publish_numbers(payments, 10)
        await mesh.member("shop", "shop-a", subscription("again", path="/again", mode="replay", start=7))
        assert sorted(numbers(await mesh.posted.count(3))) == [7, 8, 9]


async def test_a_replay_may_begin_at_a_time(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        await publish_numbers(payments, 3)
        await mesh.member("shop", "old", subscription("old", path="/old", mode="replay", start="2020-01-01T00:00:00Z"))
        assert sorted(numbers(await mesh.posted.count(3))) == [0, 1, 2]
        later = payments.clock.mesh_ms() // 1000 + 2
        text = show_timestamp(datetime.fromtimestamp(later, UTC))
        await eventually(lambda: _at(payments, later))
        await publish_numbers(payments, 2, start=3)
        await mesh.member("shop", "new", subscription("new", path="/new", mode="replay", start=text))
        posted = await mesh.posted.until(lambda seen: sum(each.path == "/new" for each in seen) >= 2)
        assert sorted(int(each.body or b"") for each in posted if each.path == "/new") == [3, 4]


async def _at(member: Member, seconds: int) -> bool:
    return member.clock.mesh_ms() >= seconds * 1000


async def test_a_filter_narrows_a_replay(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        for number in range(6):
            await publish_numbers(payments, 1, number, x_shop="berlin" if number % 2 else "paris")
        await mesh.member("shop", "shop-a", subscription("again", mode="replay", filter={"X-Shop": "berlin"}))
        assert sorted(numbers(await mesh.posted.count(3))) == [1, 3, 5]


async def test_a_log_that_is_not_there_yet_is_waited_for(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription("again", mode="replay"))
        await eventually(lambda: _waits_for_log(shop))
        assert shop.broker.state.fault == "", "it is no fault of this service"
        payments = await publisher(mesh)
        await publish_numbers(payments, 2)
        assert sorted(numbers(await mesh.posted.count(2))) == [0, 1]


async def _waits_for_log(member: Member) -> bool:
    found = shown(await ask(member, "GET", "again"))
    return "MESHQ_LOG_EVENTS" in found.get("replay", "")


async def test_instances_share_a_replay_and_one_copies(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        await publish_numbers(payments, 40)
        members = [await mesh.member("shop", f"shop-{n}", subscription("again", mode="replay")) for n in "ab"]
        posted = await mesh.posted.count(40)
        assert sorted(numbers(posted)) == list(range(40)), "each went to one of them, once"
        await eventually(lambda: _one_copies(members))


async def _one_copies(members: list[Member]) -> bool:
    doing = {shown(await ask(member, "GET", "again"))["replay"] for member in members}
    return doing == {"copies", "another instance copies"}


async def test_another_goes_on_where_the_first_stopped(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        first = await mesh.member("shop", "shop-a", subscription("again", mode="replay"))
        await publish_numbers(payments, 10)
        await mesh.posted.count(10)
        await eventually(lambda: _remembered(first, 10))
        await first.close()
        await publish_numbers(payments, 10, start=10)
        await mesh.member("shop", "shop-b", subscription("again", mode="replay"))
        posted = await mesh.posted.until(lambda seen: set(numbers(seen)) == set(range(20)))
        assert Counter(numbers(posted)) == Counter(range(20)), "nothing is copied twice that was remembered"


async def _remembered(member: Member, offset: int) -> bool:
    return (
        await member.store.offset(f"replay:{subscription_queue('shop.v1', 'again')}:payments.settled.v1:first")
        == offset
    )


async def test_what_is_logged_while_nobody_copies_is_not_missed(rig: BrokerRig) -> None:
    """Also where nothing was copied yet, so that there is no number to go on from."""
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        following = subscription("again", mode="replay", start="next")
        first = await mesh.member("shop", "shop-a", following)
        await eventually(lambda: copies(first))
        await first.close()
        await publish_numbers(payments, 3)
        await mesh.member("shop", "shop-b", following)
        assert sorted(numbers(await mesh.posted.count(3))) == [0, 1, 2]


async def test_another_takes_over_from_one_that_died(rig: BrokerRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaylog, "LEASE", 0.6)
    monkeypatch.setattr(replaylog, "RENEW_EVERY", 0.2)
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        first = await mesh.member("shop", "shop-a", subscription("again", mode="replay"))
        second = await mesh.member("shop", "shop-b", subscription("again", mode="replay"))
        await publish_numbers(payments, 10)
        await mesh.posted.until(lambda seen: set(numbers(seen)) == set(range(10)))
        leader, other = (first, second) if await copies(first) else (second, first)
        await leader.subscriptions._held["again"].tasks.close()
        await leader.die()
        await publish_numbers(payments, 10, start=10)
        await mesh.posted.until(lambda seen: set(numbers(seen)) == set(range(20)))
        assert await copies(other)


async def test_a_lost_connection_loses_nothing_of_a_replay(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        shop = await mesh.member("shop", "shop-a", subscription("again", mode="replay"))
        for start in range(0, 300, 100):
            await asyncio.gather(*(publish_numbers(payments, 1, start=start + n) for n in range(100)))
            await rig.cut(shop.broker)
        await mesh.posted.until(lambda seen: set(numbers(seen)) == set(range(300)))


async def test_a_replay_that_is_deleted_and_made_again_begins_again(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        await publish_numbers(payments, 5)
        shop = await mesh.member("shop", "shop-a")
        for times in (1, 2):
            assert await put(shop, "again", mode="replay") == 201
            posted = await mesh.posted.count(5 * times)
            assert Counter(numbers(posted)) == dict.fromkeys(range(5), times)
            await eventually(lambda: _all_acknowledged(shop))
            assert (await ask(shop, "DELETE", "again")).status == 204


async def _all_acknowledged(member: Member) -> bool:
    return await _remembered(member, 5)


async def test_a_replay_that_is_changed_begins_where_it_says(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await publisher(mesh)
        await publish_numbers(payments, 5)
        shop = await mesh.member("shop", "shop-a")
        assert await put(shop, "again", mode="replay", **{"from": 3}) == 201
        assert sorted(numbers(await mesh.posted.count(2))) == [3, 4]
        assert await put(shop, "again", mode="replay", **{"from": "first"}) == 200
        assert sorted(numbers((await mesh.posted.count(7))[2:])) == [0, 1, 2, 3, 4]
