"""The SDK: the same results and the same errors over the link and over HTTP, async and blocking, over every broker."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any
from uuid import uuid4

import msgpack
import pytest

from meshq import Problem, Published, Reply, Retry
from tests.contract.sdk_app import KINDS, Order, Parcel, Receipt, SettledV1, SettledV2
from tests.contract.sdk_rig import APIS, WAYS, Rig, World, embedded, servers_at, world
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisDatabases

BROKERS = (
    "embedded",
    pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, pytest.mark.redis]),
)


@pytest.fixture(scope="module", params=BROKERS)
def servers(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    if request.param == "embedded":
        yield embedded
        return
    cluster: Cluster = request.getfixturevalue("rabbitmq")
    redis: RedisDatabases = request.getfixturevalue("redis_server")
    vhost, url = cluster.new_vhost(), redis.new_database()
    yield partial(servers_at, cluster.url(vhost), url)
    redis.empty(url)
    cluster.delete_vhost(vhost)


@pytest.fixture(scope="module", params=WAYS)
def over(request: pytest.FixtureRequest, servers: Callable[[Any], Any]) -> Iterator[World]:
    with ExitStack() as stack:
        yield stack.enter_context(world(request.param, servers))


@pytest.fixture(params=APIS)
def sdk(request: pytest.FixtureRequest, over: World) -> Rig:
    return Rig(over, request.param)


@pytest.fixture
def run() -> str:
    """A name for what this test does alone."""
    return f"r{uuid4().hex[:12]}"


async def refused(call: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await call
    return caught.value


# --- bodies and answers -------------------------------------------------------------------------------------------------------


async def test_models_and_dataclasses_go_and_come(sdk: Rig) -> None:
    async with sdk.mesh() as mesh:
        receipt = await mesh.call("orders", "POST /order", Order(id="ü", amount=3), returns=Receipt)
        assert receipt == Receipt(order="ü", total=6)
        parcel = await mesh.call("orders@^2", "POST /parcel", Parcel("ab", 2.5), returns=Parcel)
        assert parcel == Parcel("ba", 2.5, ["seen"])
        assert await mesh.call("orders", "POST /order", {"id": "a", "amount": 1}) == {"order": "a", "total": 2}


@pytest.mark.parametrize(
    ("body", "kind", "content_type"),
    [
        ({"a": [1, 2.5, None, "grün"]}, {"a": [1, 2.5, None, "grün"]}, "application/json"),
        ([], [], "application/json"),
        (False, False, "application/json"),
        ("grün", "grün", "text/plain; charset=utf-8"),
        (b"\x00\xff", "00ff", "application/octet-stream"),
        (None, None, ""),
    ],
)
async def test_a_body_arrives_as_what_it_is(sdk: Rig, body: Any, kind: Any, content_type: str) -> None:
    async with sdk.mesh() as mesh:
        assert await mesh.call("orders", "POST /any", body) == {"body": kind, "type": content_type}


async def test_msgpack_by_content_type_both_ways(sdk: Rig) -> None:
    async with sdk.mesh() as mesh:
        there = partial(
            mesh.call, "orders", content_type="application/msgpack", headers={"Accept": "application/msgpack"}
        )
        assert await there("POST /order", Order(id="m", amount=2), returns=Receipt) == Receipt(order="m", total=4)
        assert await there("POST /parcel", Parcel("ab", 1.0), returns=Parcel) == Parcel("ba", 1.0, ["seen"])
        assert msgpack.unpackb(await there("POST /order", {"id": "m", "amount": 2}, returns=bytes)) == {
            "order": "m",
            "total": 4,
        }


@pytest.mark.parametrize("kind", ["model", "dataclass", "dict", "list", "number", "bytes", "text", "none"])
async def test_every_kind_of_answer(sdk: Rig, kind: str) -> None:
    value = KINDS[kind]
    async with sdk.mesh() as mesh:
        assert await mesh.call("orders", f"/kinds/{kind}", returns=type(value)) == value
        whole = await mesh.call("orders", f"/kinds/{kind}", returns=Reply)
        assert whole.status == (204 if value is None else 200)
        assert whole.headers["meshq-served-by"].startswith("orders/2.0.0/")


async def test_a_reply_has_a_status_and_fields(sdk: Rig) -> None:
    async with sdk.mesh() as mesh:
        reply = await mesh.call("orders", "GET /kinds/reply", returns=Reply)
        assert (reply.status, reply.body, reply.content_type) == (201, {"id": 7}, "application/json")
        assert (reply.headers["location"], reply.headers["x-name"]) == ("/orders/7", "Zoë")
        problem = await refused(mesh.call("orders", "/kinds/refusal"))
        assert (problem.status, problem.code, problem.detail, problem.by_mesh) == (418, "app-error", "no tea", False)
        assert await mesh.call("orders", "HEAD /kinds/dict") is None
        length = str(len(await mesh.call("orders", "/kinds/dict", returns=bytes)))
        assert (await mesh.call("orders", "HEAD /kinds/dict", returns=Reply)).headers["content-length"] == length


async def test_large_bodies(sdk: Rig) -> None:
    body = bytes(range(256)) * (4 * 2**20 // 256)
    async with sdk.mesh() as mesh:
        assert await mesh.call("orders", "POST /raw", body, returns=bytes, timeout=20) == body[::-1]
        for size in (len(body) + 1, 16 * 2**20 + 1, 20 * 2**20):
            problem = await refused(mesh.call("orders", "POST /raw", bytes(size)))
            assert (problem.code, problem.status, problem.by_mesh, problem.retryable) == ("too-large", 413, True, False)
        assert await mesh.call("orders", "POST /raw", b"ab", returns=bytes) == b"ba"


async def test_fields_go_both_ways(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        call = mesh.call("orders", "POST /fields", headers={"X-There": "grün", "X-Empty": ""}, returns=Reply)
        reply = await call
        assert reply.headers["x-back"] == "grün"
        assert (reply.body["x-there"], reply.body["x-empty"]) == ("grün", "")
        assert (reply.body["caller"], reply.body["topic"], reply.body["attempt"]) == ("checkout", "orders.v2", 1)
        assert reply.body["id"] == reply.headers["meshq-message-id"]


async def test_paths_and_queries(sdk: Rig) -> None:
    async with sdk.mesh() as mesh:
        found = await mesh.call("orders", "GET /items/7?limit=3&name=gr%C3%BCn%20tee")
        assert found == {"id": 7, "limit": 3, "name": "grün tee"}
        assert await mesh.call("orders", "/items/7") == {"id": 7, "limit": 10, "name": None}
        assert await mesh.call("orders", "/files/a/b%20c/d") == "a/b c/d"
        problem = await refused(mesh.call("orders", "/items/seven?limit=3"))
        assert (problem.code, problem.status, problem.fields["errors"][0]["loc"]) == ("invalid", 422, ["id"])
        assert (await refused(mesh.call("orders", "/nowhere"))).status == 404
        assert (await refused(mesh.call("orders", "DELETE /order"))).status == 405
        assert await mesh.call("orders", "/thread") == {"main": False, "caller": "checkout"}


# --- errors -------------------------------------------------------------------------------------------------------------------


async def test_an_apps_own_error(sdk: Rig) -> None:
    async with sdk.mesh() as mesh:
        problem = await refused(mesh.call("orders", "POST /refuse/409"))
        assert (problem.code, problem.status, problem.detail) == ("sold-out", 409, "no tea is left")
        assert (problem.retryable, problem.by_mesh, problem.fields, problem.retry_after) == (
            False,
            False,
            {"left": 0},
            None,
        )
        problem = await refused(mesh.call("orders", "POST /refuse/503"))
        assert (problem.retryable, problem.retry_after) == (True, 2)


async def test_validation_says_which_fields(sdk: Rig) -> None:
    async with sdk.mesh() as mesh:
        problem = await refused(mesh.call("orders", "POST /order", {"id": 5, "amount": -1}))
        assert (problem.code, problem.status, problem.retryable) == ("invalid", 422, False)
        assert sorted(tuple(each["loc"]) for each in problem.fields["errors"]) == [("amount",), ("id",)]
        assert (await refused(mesh.call("orders", "POST /order", b"{", content_type="application/json"))).status == 422
        assert (await refused(mesh.call("orders", "POST /order", "tea", content_type="text/x-tea"))).status == 415
        assert (await refused(mesh.call("orders", "POST /order"))).status == 422
        problem = await refused(mesh.call("orders", "/kinds/dict", returns=Receipt))
        assert (problem.code, problem.status, problem.by_mesh) == ("invalid", 502, False)


async def test_the_meshs_errors(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        for call, code, status in [
            (mesh.call("nobody", "/"), "unknown-service", 404),
            (mesh.send("nobody", "POST /x"), "unknown-service", 404),
            (mesh.service("nobody"), "unknown-service", 404),
            (mesh.call("Or ders", "/"), "bad-address", 400),
            (mesh.call("orders@^9", "/"), "no-such-version", 404),
            (mesh.call("orders", "POST /order", key="a"), "bad-header", 400),
            (mesh.call("orders", "/", priority="urgent"), "bad-header", 400),
            (mesh.send("orders", "POST /order", delay=13 * 86_400), "bad-header", 400),
            (mesh.publish("Bad event"), "bad-address", 400),
            (mesh.publish("payments.settled", {}, deadline=time.time() - 1), "deadline", 504),
        ]:
            problem = await refused(call)
            assert (problem.code, problem.status, problem.by_mesh) == (code, status, True), problem
        problem = await refused(mesh.call("orders", f"POST /held/{run}", timeout=0.2))
        assert (problem.code, problem.status, problem.by_mesh) == ("deadline", 504, True)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"headers": {"X-A": "a\r\nX-B: b"}}, ValueError),
        ({"headers": {"X A": "a"}}, ValueError),
        ({"headers": {"X-A": "a" * 70_000}}, ValueError),
        ({"headers": {f"X-{n}": "a" for n in range(600)}}, ValueError),
        ({"key": ""}, ValueError),
        ({"idempotency_key": "a\nb"}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"body": {"a": float("nan")}}, TypeError),
        ({"body": object()}, TypeError),
        ({"body": "\ud800"}, ValueError),
        ({"body": {"a": 1}, "content_type": "image/png"}, TypeError),
    ],
)
async def test_what_cannot_be_sent_is_said_before_it_is(sdk: Rig, more: dict[str, Any], error: type[Exception]) -> None:
    async with sdk.mesh() as mesh:
        with pytest.raises(error):
            await mesh.call("orders", "POST /any", **more)
        with pytest.raises(ValueError, match="is not a method and a path"):
            await mesh.call("orders", "POST any")
        assert await mesh.call("orders", "/items/1") == {"id": 1, "limit": 10, "name": None}


async def test_retries_follow_what_the_mesh_says_inside_the_timeout(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        held = partial(mesh.call, "orders", f"POST /broken/{run}")
        problem = await refused(held(retry=Retry(attempts=3, first=0.01)))
        assert (problem.code, problem.status) == ("handler-failed", 500)
        assert sdk.seen.of(run) == [1, 1, 1]
        begun = time.monotonic()
        problem = await refused(mesh.call("orders", "POST /refuse/503", timeout=1.0, retry=Retry(attempts=9)))
        assert problem.code == "sold-out"
        assert time.monotonic() - begun < 2  # it does not wait for the 2 s that it was told: there are none left


async def test_one_key_is_handled_once(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        count = partial(mesh.call, "orders", f"POST /count/{run}", idempotency_key=run)
        assert [await count({"a": 1}), await count({"a": 1})] == [{"times": 1}, {"times": 1}]
        assert (await refused(count({"a": 2}))).code == "key-reused"


# --- durable calls ------------------------------------------------------------------------------------------------------------


async def test_a_durable_call_and_its_result(sdk: Rig) -> None:
    async with sdk.mesh() as mesh:
        ticket = await mesh.send("orders", "POST /order", Order(id="d", amount=5), returns=Receipt)
        assert await ticket.result(timeout=10) == Receipt(order="d", total=10)
        assert await ticket.done() is True
        again = mesh.ticket(ticket.id)
        assert await again.result(timeout=10) == {"order": "d", "total": 10}
        assert await again.result(timeout=10, returns=Receipt) == Receipt(order="d", total=10)
        assert await ticket.cancel() is False
        problem = await refused(mesh.ticket("0" * 32).result(timeout=10))
        assert problem.status == 404


async def test_a_durable_call_with_a_key_is_done_once(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        tickets = [await mesh.send("orders", f"POST /count/{run}", {}, idempotency_key=run) for _ in range(2)]
        assert [await each.result(timeout=10) for each in tickets] == [{"times": 1}, {"times": 1}]


async def test_a_result_that_is_late_and_one_that_never_comes(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        ticket = await mesh.send("orders", f"POST /held/{run}")
        await sdk.seen.count(run, 1)
        with pytest.raises(TimeoutError):
            await ticket.result(timeout=0.1)
        assert await ticket.done() is False
        assert await ticket.cancel() is False  # it has started
        sdk.world.held.gate(run).set()
        assert await ticket.result(timeout=10) == "released"


async def test_what_has_not_started_is_cancelled(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        ticket = await mesh.send("orders", f"POST /count/{run}", delay=1)
        assert await ticket.cancel() is True
        assert (await refused(ticket.result(timeout=10))).status == 410
        after = await mesh.send("orders", f"POST /count/{run}-after", delay=1)
        await after.result(timeout=20)
        assert sdk.seen.of(run) == []


async def test_invalid_ones_are_dead_with_the_fields(sdk: Rig) -> None:
    async with sdk.mesh() as mesh:
        ticket = await mesh.send("orders", "POST /order", {"id": "a", "amount": 0})
        problem = await refused(ticket.result(timeout=10))
        assert (problem.code, problem.status, problem.fields["errors"][0]["loc"]) == ("invalid", 422, ["amount"])
        letter = await sdk.dead_letter(ticket.id)
        assert (letter["reason"], letter["status"], letter["attempts"]) == ("rejected", 422, 1)


async def test_rejected_ones_are_dead_at_once(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        ticket = await mesh.send("orders", f"POST /wrong/{run}")
        problem = await refused(ticket.result(timeout=10))
        assert (problem.code, problem.detail, problem.status) == ("rejected", "no such customer", 422)
        assert (await sdk.dead_letter(ticket.id))["reason"] == "rejected"
        assert sdk.seen.of(run) == [1]
        problem = await refused(mesh.call("orders", f"POST /wrong/{run}"))
        assert (problem.code, problem.detail, problem.by_mesh) == ("rejected", "no such customer", False)


async def test_failed_ones_are_tried_again_and_late_ones_as_late_as_they_say(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        broken = await mesh.send("orders", f"POST /broken/{run}")
        later = await mesh.send("orders", f"POST /later/{run}-later")
        never = await mesh.send("orders", "POST /refuse/503")
        nested = await mesh.send("orders", f"POST /twice/{run}-twice")
        assert await broken.result(timeout=20) == "attempt 2"
        assert await later.result(timeout=20) == "later"
        assert (sdk.seen.of(run), sdk.seen.of(f"{run}-later")) == ([1, 2], [1, 2])
        assert await nested.result(timeout=20) == "done"
        # Handled twice; but what it asked for was done once, though it asked for it twice each time.
        assert sdk.seen.of(f"{run}-twice") == [1, 2]
        assert len(sdk.seen.of(f"{run}-twice-nested")) == 2
        await sdk.seen.count(f"{run}-twice-event", 1)
        await sdk.seen.count(f"{run}-twice-many-event", 2)
        await mesh.publish("nested.happened", {"run": f"{run}-after"})
        await sdk.seen.count(f"{run}-after-event", 1)
        assert len(sdk.seen.of(f"{run}-twice-event")) == 1
        assert len(sdk.seen.of(f"{run}-twice-many-event")) == 2
        problem = await refused(never.result(timeout=30))
        assert (problem.code, problem.status) == ("sold-out", 503)
        assert (await sdk.dead_letter(never.id))["attempts"] == 2


# --- nested calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", ["outer", "outer-in-thread"])
async def test_nested_calls_inherit_deadline_and_trace(sdk: Rig, run: str, outer: str) -> None:
    trace = uuid4().hex
    fields = {"traceparent": f"00-{trace}-{'1' * 16}-01", "baggage": "user=1"}
    async with sdk.mesh() as mesh:
        call = partial(mesh.call, "orders", f"POST /{outer}/{run}", headers=fields)
        found = await call(timeout=10)
        assert found["outer"]["deadline"] is not None
        assert found["inner"]["deadline"] == found["outer"]["deadline"]
        assert found["inner"]["trace"] == found["outer"]["trace"] == trace
        assert found["inner"]["baggage"] == "user=1"
        assert (
            found["inner"]["key"] == found["inner"]["id"]
        )  # a waited call without a key is handled once: nothing to remember
        keyed = await call(timeout=10, idempotency_key=run)
        assert keyed["inner"]["key"] not in (keyed["inner"]["id"], run)


# --- events -------------------------------------------------------------------------------------------------------------------


async def test_events_reach_their_handlers_old_ones_upgraded(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        told = await mesh.publish(
            "payments.settled@2", SettledV2(payment=run, amount=2.5), subject="grün & so", id="e-1"
        )
        assert told.problem is None
        assert told.subscribers is None
        await mesh.publish("payments.settled@1", SettledV1(payment=run, cents=150))
        seen = await sdk.seen.count(run, 2)
        assert sorted(event.amount for event, _ in seen) == [1.5, 2.5]
        (about,) = [about for event, about in seen if event.amount == 2.5]
        assert (about.type, about.id, about.source, about.subject) == (
            "payments.settled",
            "e-1",
            "/checkout",
            "grün & so",
        )
        assert (await mesh.publish("nobody.listens", {})).subscribers is False


async def test_events_that_are_not_what_they_should_be_are_dead(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        told = await mesh.publish("payments.settled@2", {"payment": run})
        letter = await sdk.dead_letter(told.id)
        assert (letter["reason"], letter["status"]) == ("rejected", 422)


async def test_many_events_in_their_order(sdk: Rig, run: str) -> None:
    events = [{"run": run, "key": f"k{number % 7}", "number": number} for number in range(1200)]
    async with sdk.mesh() as mesh:
        fates: list[Published] = await mesh.publish_many("stock.moved", events, key=lambda event: event["key"])
        assert len(fates) == 1200
        assert all(fate.problem is None for fate in fates)
        assert len({fate.id for fate in fates}) == 1200
        seen = await sdk.seen.count(run, 2400)
    by_key: dict[str, list[Any]] = defaultdict(list)
    for key, number, phase in seen:
        by_key[key].append((number, phase))
    for at in range(7):
        assert by_key[f"k{at}"] == list(product(range(at, 1200, 7), ("begin", "end")))  # in order, one at a time


async def test_some_of_many_are_refused(sdk: Rig, run: str) -> None:
    events = [{"run": run, "key": "k" * length, "number": length} for length in (1, 2000, 2)]
    async with sdk.mesh() as mesh:
        many = partial(mesh.publish_many, "stock.moved", events, key=lambda event: event["key"])
        fates = await many(partial=True)
        assert [None if fate.problem is None else fate.problem.code for fate in fates] == [None, "bad-request", None]
        await sdk.seen.count(run, 4)
        problem = await refused(many())
        assert (problem.code, problem.fields["published"]) == ("bad-request", 2)
        large = [bytes(800_000), bytes(5 * 2**20), b"small"]  # each alone: together they are more than a sidecar takes
        fates = await mesh.publish_many("nobody.listens", large, partial=True)
        assert [fate.problem is None for fate in fates] == [True, False, False]
        assert await mesh.publish_many("stock.moved", []) == []


async def test_filters_patterns_and_every_instance(sdk: Rig, run: str) -> None:
    async with sdk.mesh() as mesh:
        await mesh.publish("parcels.sent", {"run": run}, subject="slow")
        await mesh.publish("parcels.sent", {"run": run}, subject="express")
        await mesh.publish("parcels.lost", {"run": run}, subject="express")
        await mesh.publish("notes.written", run + "-note")
        await sdk.seen.count(run + "-note", 1)
        seen = await sdk.seen.count(run, 2)
        assert sorted(seen) == [("parcels.lost.v1", "express"), ("parcels.sent.v1", "express")]


# --- who is there -------------------------------------------------------------------------------------------------------------


async def test_who_is_there(sdk: Rig) -> None:
    async with sdk.mesh() as mesh:
        assert {"orders", "checkout"} <= {service.name for service in await mesh.services()}
        found = await mesh.service("orders")
        (version,) = found.versions
        assert (version.version, version.topic, version.instances, version.ready) == ("2.0.0", "orders.v2", 1, 1)
        assert (found.ready, found.stale) == (1, False)


async def test_an_instance_speaks_for_itself_and_others_watch(sdk: Rig) -> None:
    async with sdk.mesh("orders") as own, sdk.mesh() as mesh:
        await own.describe(metadata={"zone": "a"}, capacity=8)
        said = await own.self()
        assert said["metadata"] == {"zone": "a"}
        assert said["capacity"] == 8
        changes = mesh.watch("orders")
        async with asyncio.timeout(20):
            assert (await anext(changes)).ready == 1
            await own.pause("a walk", seconds=60)
            async for view in changes:
                if dict(view.versions[0].states) == {"paused": 1}:
                    break
            await own.resume()
            async for view in changes:
                if view.ready == 1:
                    break
        await changes.aclose()
        await own.describe(capacity=64)
        with pytest.raises(ValueError, match="Not a name"):
            await anext(mesh.watch("Not a name"))
