"""Subscriptions that an app makes, changes and deletes, over every broker."""

import json
from typing import Any

from meshq.core.http import HttpResponse, header
from meshq.core.topology import dead_queue, partition_queue, subscription_queue
from meshq_sidecar.subscriptions import MAX_SUBSCRIPTIONS
from meshq_sidecar.subscriptions_api import SubscriptionsApi
from tests.contract.broker_rigs import BrokerRig, eventually
from tests.contract.event_rigs import Member, Mesh, Posted, numbers, subscription
from tests.one_exchange import OneExchange

SETTLED = {"event": "payments.settled@1", "path": "/on/settled"}
QUEUE = subscription_queue("shop.v1", "settled")


async def ask(member: Member, method: str, name: str = "", body: Any = None, listens: bool = True) -> HttpResponse:
    path = f"/v1/subscriptions/{name}" if name else "/v1/subscriptions"
    exchange = OneExchange(method, path, [], None if body is None else json.dumps(body).encode())
    SubscriptionsApi(member.subscriptions, listens=listens).handle(exchange, exchange.carried, path.encode())
    return await exchange.answer()


async def put(member: Member, name: str, **body: Any) -> int:
    response = await ask(member, "PUT", name, SETTLED | body)
    return response.status


def shown(response: HttpResponse) -> Any:
    return json.loads(response.body)


async def exists(member: Member, queue: str) -> bool:
    return bool(await member.broker.stats([queue]))


async def test_a_subscription_that_is_made_gets_what_is_published_from_then_on(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a")
        response = await ask(shop, "PUT", "settled", SETTLED)
        assert (response.status, header(response.headers, b"location")) == (201, b"/v1/subscriptions/settled")
        made = {"name": "settled", **SETTLED, "mode": "shared", "state": "active"}
        assert shown(response) == made
        assert (await shop.publish("payments.settled", b"1")).status == 202
        assert numbers(await mesh.posted.count(1)) == [1]
        assert shown(await ask(shop, "GET", "settled")) == made
        assert shown(await ask(shop, "GET")) == [made]


async def test_making_it_again_changes_nothing(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        assert await put(shop, "settled") == 200
        assert await put(shop, "settled", mode="shared", event="payments.settled") == 200
        await shop.publish("payments.settled", b"1")
        await mesh.posted.count(1)
        assert len(shop.subscriptions) == 1


async def test_one_that_is_changed_gets_other_events_on_another_path(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a")
        assert await put(shop, "settled") == 201
        assert await put(shop, "settled", event="payments.refunded", path="/on/refunded") == 200
        assert header((await shop.publish("payments.settled")).headers, b"meshq-subscribers") == b"0"
        await shop.publish("payments.refunded", b"2")
        posted = await mesh.posted.count(1)
        assert [(each.path, each.body) for each in posted] == [("/on/refunded", b"2")]
        assert (await ask(shop, "DELETE", "settled")).status == 204
        await eventually(lambda: gone(shop, QUEUE))


async def gone(member: Member, queue: str) -> bool:
    return not await exists(member, queue)


async def test_one_that_is_deleted_is_gone_from_the_broker(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription("other", "a.b", "/other"))
        for name, mode in {"settled": "shared", "sorted": "ordered", "each": "broadcast", "only": "exclusive"}.items():
            assert await put(shop, name, mode=mode) == 201
            assert (await ask(shop, "DELETE", name)).status == 204
            assert (await ask(shop, "GET", name)).status == 404
        assert header((await shop.publish("payments.settled")).headers, b"meshq-subscribers") == b"0"
        for queue in (QUEUE, partition_queue("shop.v1", "sorted", 7), subscription_queue("shop.v1", "only")):
            await eventually(lambda queue=queue: gone(shop, queue))  # type: ignore[misc]
        assert await exists(shop, dead_queue("shop.v1")), "that one is the service's"
        assert [each["name"] for each in shown(await ask(shop, "GET"))] == ["other"]


async def test_what_still_waits_is_kept_when_its_subscription_is_deleted(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        shop.work.pause()
        for number in range(3):
            await shop.publish("payments.settled", b"%d" % number)
        assert (await ask(shop, "DELETE", "settled")).status == 204
        assert await exists(shop, QUEUE)
        shop.work.resume()
        assert await put(shop, "settled") == 201
        assert sorted(numbers(await mesh.posted.count(3))) == [0, 1, 2]


async def test_its_mode_cannot_be_changed(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        response = await ask(shop, "PUT", "settled", SETTLED | {"mode": "ordered"})
        assert response.status == 409
        assert "delete it first, or take another name" in shown(response)["detail"]
        assert shown(await ask(shop, "GET", "settled"))["mode"] == "shared"
        await shop.publish("payments.settled", b"1")
        await mesh.posted.count(1)


async def test_a_queue_of_another_mode_on_the_broker_is_a_conflict_too(rig: BrokerRig) -> None:
    """As an earlier version of the app left it."""
    async with Mesh(rig) as mesh:
        await (await mesh.member("shop", "shop-a", subscription())).die()
        shop = await mesh.member("shop", "shop-b")
        response = await ask(shop, "PUT", "settled", SETTLED | {"mode": "exclusive"})
        assert response.status == 409
        assert "x-single-active-consumer" in shown(response)["detail"]
        assert shown(await ask(shop, "GET")) == []
        await eventually(lambda: _well(shop))
        assert await put(shop, "settled") == 201, "as it is there"


async def _well(member: Member) -> bool:
    return not member.broker.state.fault


async def test_without_a_broker_it_is_pending_and_made_later(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a")
        other = Member(rig.client(), shop.store, "shop", "shop-b", mesh.posted)
        response = await ask(other, "PUT", "settled", SETTLED)
        assert (response.status, shown(response)["state"]) == (202, "pending")
        assert shown(response)["detail"]
        assert (await ask(other, "DELETE", "settled")).status == 503
        assert shown(await ask(other, "GET", "settled"))["state"] == "pending"
        await other.broker.open()
        other.work.resume()
        await eventually(lambda: exists(shop, QUEUE))
        await eventually(lambda: _active(other))
        await shop.publish("payments.settled", b"1")
        posted = await mesh.posted.count(1)
        assert posted[0].instance == "shop-b"
        await other.die()


async def _active(member: Member) -> bool:
    return bool(shown(await ask(member, "GET", "settled"))["state"] == "active")


async def test_what_is_asked_wrongly_says_why(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a")
        cases: list[tuple[str, Any, str]] = [
            ("Settled", SETTLED, "'Settled' is not a name"),
            ("settled", None, "the body is not JSON"),
            ("settled", [], "give a map such as"),
            ("settled", {"event": "x", "pth": "/x"}, "pth: no such key; path: is required"),
            ("settled", SETTLED | {"name": "other"}, "it is 'other' here and 'settled' in the address"),
        ]
        for name, body, says in cases:
            response = await ask(shop, "PUT", name, body)
            assert (response.status, header(response.headers, b"meshq-error")) == (400, b"bad-request")
            assert says in shown(response)["detail"]
        response = await ask(shop, "PUT", "settled", SETTLED, listens=False)
        assert response.status == 400
        assert "MESHQ_APP_PORT" in shown(response)["detail"]
        assert [
            (await ask(shop, *asked)).status for asked in (("POST", "settled"), ("PUT", ""), ("DELETE", "settled"))
        ] == [
            405,
            405,
            404,
        ]
        assert len(shop.subscriptions) == 0


async def test_there_is_a_most_of_them(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a")
        shop.subscriptions._held = dict.fromkeys(map(str, range(MAX_SUBSCRIPTIONS)))  # type: ignore[assignment]
        response = await ask(shop, "PUT", "settled", SETTLED)
        shop.subscriptions._held = {}
        assert (response.status, header(response.headers, b"meshq-error")) == (429, b"overloaded")


async def test_subscriptions_come_back_after_the_connection_was_lost(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription(), subscription("each", path="/each", mode="broadcast"))
        payments = await mesh.member("payments", "payments-a")
        await rig.cut(shop.broker)
        await eventually(lambda: _both(shop))

        def both_got(posted: list[Posted]) -> bool:
            return {each.path for each in posted if each.body == b"1"} == {"/on/settled", "/each"}

        await payments.publish("payments.settled", b"1")
        await mesh.posted.until(both_got)


async def _both(member: Member) -> bool:
    found = await member.broker.stats([QUEUE, "meshq.shop.v1.on.each.shop-a"])
    return len(found) == 2 and all(figures.consumers for figures in found)
