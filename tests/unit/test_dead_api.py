"""Dead letters in the control API: its paths, what it takes, what it refuses."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshq.core import dead, topology
from meshq.core.dead import MAX_REPLAYS
from tests.dead_mesh import BILLING, ORDERS, DeadMesh, dead_mesh

ROW = ["id", "topic", "at", "reason", "status", "attempts", "instance", "path", "size"]


def told(story: Callable[[DeadMesh], Awaitable[None]]) -> None:
    async def run() -> None:
        async with dead_mesh() as mesh:
            await story(mesh)

    asyncio.run(run())


async def numbers(mesh: DeadMesh, query: str = "") -> list[int]:
    answer = await mesh.ask("GET", f"/v1/dead{query}")
    assert answer.status == 200, answer.body
    return [int(row["id"], 16) for row in json.loads(answer.body)]


def test_a_list_and_what_narrows_it() -> None:
    async def story(mesh: DeadMesh) -> None:
        for number in (30, 20, 10):
            await mesh.bury(number, dead.ATTEMPTS if number == 20 else dead.REJECTED)
        await mesh.bury(5, topic=BILLING)
        answer = await mesh.ask("GET", "/v1/dead")
        assert [list(row) for row in json.loads(answer.body)] == [ROW] * 4
        assert answer.get(b"meshq-more") == b"0"
        assert await numbers(mesh) == [30, 20, 10, 5]
        assert await numbers(mesh, "?topic=billing.v1") == [5]
        assert await numbers(mesh, "/orders.v2") == [30, 20, 10]
        assert await numbers(mesh, "/orders.v2?reason=attempts") == [20]
        assert await numbers(mesh, "?since=25m") == [20, 10, 5]
        assert await numbers(mesh, f"?id={10:032x}&id={5:032x}") == [10, 5]
        assert await numbers(mesh, "/lost") == []
        limited = await mesh.ask("GET", "/v1/dead/orders.v2?limit=2")
        assert (len(json.loads(limited.body)), limited.get(b"meshq-more")) == (2, b"1")

    told(story)


def test_one_whole() -> None:
    async def story(mesh: DeadMesh) -> None:
        await mesh.bury(1, body=b"x" * 100_000)
        shown = json.loads((await mesh.ask("GET", f"/v1/dead/orders.v2/{1:032x}")).body)
        assert (len(shown["body"]), shown["bodyCut"], shown["size"], shown["copies"]) == (65536, True, 100_000, 1)
        whole = json.loads((await mesh.ask("GET", f"/v1/dead/orders.v2/{1:032x}?all=true")).body)
        assert (len(whole["body"]), whole["bodyCut"]) == (100_000, False)
        (listed,) = json.loads((await mesh.ask("GET", "/v1/dead/orders.v2?full=true")).body)
        assert {**listed, "copies": 1} == shown
        missing = await mesh.ask("GET", "/v1/dead/orders.v2/nobody")
        assert (missing.status, json.loads(missing.body)["detail"]) == (404, "orders.v2 has no dead letter 'nobody'")

    told(story)


def test_replay_and_drop() -> None:
    async def story(mesh: DeadMesh) -> None:
        for number in (3, 2, 1):
            await mesh.bury(number, replays=MAX_REPLAYS if number == 2 else 0)
        said = {"all": True, "dryRun": True}
        dry = json.loads((await mesh.ask("POST", "/v1/dead/orders.v2/replay", said, Meshq_Api="1")).body)
        assert {name: dry[name] for name in list(dry)[:-1]} == {
            "dryRun": True, "done": 2, "kept": 1, "more": 0, "missing": [], "fault": None,
        }  # fmt: skip
        assert await numbers(mesh, "/orders.v2") == [3, 2, 1]
        one = {"ids": [f"{3:032x}", "x"], "limit": 5, "since": "1h", "reason": "rejected"}
        done = json.loads((await mesh.ask("POST", "/v1/dead/orders.v2/replay", one, Meshq_Api="1")).body)
        assert (done["done"], done["missing"]) == (1, ["x"])
        assert [*done["letters"][0]] == [*ROW, "outcome", "queue", "detail"]
        assert await mesh.ready(topology.work_queue(ORDERS)) == 1
        forced = {"all": True, "force": True, "to": "billing@1"}
        done = json.loads((await mesh.ask("POST", "/v1/dead/orders.v2/replay", forced, Meshq_Api="1")).body)
        assert (done["done"], await mesh.ready(topology.work_queue(BILLING))) == (2, 2)
        await mesh.bury(4)
        done = json.loads((await mesh.ask("POST", "/v1/dead/orders.v2/drop", {"all": True}, Meshq_Api="1")).body)
        assert (done["done"], done["letters"][0]["outcome"]) == (1, "dropped")
        assert await numbers(mesh) == []

    told(story)


@pytest.mark.parametrize("what", ["replay", "drop"])
@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        ({"all": True}, {}, 403, "needs the header Meshq-Api: 1"),
        ({"all": True}, {"Meshq_Api": "yes"}, 403, "needs the header Meshq-Api: 1"),
        ({"all": True}, {"Meshq_Api": "1", "Origin": "http://evil.example"}, 403, "a page of"),
        (None, {"Meshq_Api": "1"}, 400, "say which are meant"),
        ({"limit": 5}, {"Meshq_Api": "1"}, 400, "say which are meant"),
        ({"all": False}, {"Meshq_Api": "1"}, 400, "say which are meant"),
        ({"every": True}, {"Meshq_Api": "1"}, 400, "'every' is not one of ids, reason"),
        ({"all": 1}, {"Meshq_Api": "1"}, 400, "all is not a true or false"),
        ({"ids": "one"}, {"Meshq_Api": "1"}, 400, "ids is not a list"),
        ({"ids": [1]}, {"Meshq_Api": "1"}, 400, "ids is a list of at most 1000 texts"),
        ({"since": "yesterday"}, {"Meshq_Api": "1"}, 400, "since: 'yesterday' is neither"),
        ({"all": True, "limit": 0}, {"Meshq_Api": "1"}, 400, "limit: '0' is not a number above 0"),
        (b"{", {"Meshq_Api": "1"}, 400, "the body is not JSON"),
        (b"[" * 100_000, {"Meshq_Api": "1"}, 400, "the body is not JSON"),
        (b"[]", {"Meshq_Api": "1"}, 400, "the body is not a JSON object"),
    ],
)
def test_what_is_not_meant_so_changes_nothing(
    what: str, body: Any, headers: dict[str, str], status: int, said: str
) -> None:
    async def story(mesh: DeadMesh) -> None:
        await mesh.bury(1)
        answer = await mesh.ask("POST", f"/v1/dead/orders.v2/{what}", body, **headers)
        assert (answer.status, said in json.loads(answer.body)["detail"]) == (status, True), answer.body
        assert await numbers(mesh) == [1]

    told(story)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/dead", 405),
        ("DELETE", "/v1/dead/orders.v2", 405),
        ("POST", f"/v1/dead/orders.v2/{1:032x}", 405),
        ("PUT", "/v1/dead/orders.v2/replay", 405),
        ("GET", "/v1/dead/", 404),
        ("GET", "/v1/dead/orders.v2/x/y", 404),
        ("GET", "/v1/dead/orders.v2/", 404),
        ("GET", "/v1/deadly", 404),
        ("GET", "/v1/dead?colour=red", 400),
        ("GET", "/v1/dead?limit=-1", 400),
        ("GET", "/v1/dead?limit=1e3", 400),
        ("GET", "/v1/dead?since=soon", 400),
        ("GET", "/v1/dead/orders", 400),
        ("GET", "/v1/dead/order.v2", 404),
        ("GET", "/v1/dead/%0d%0a.v2", 400),
    ],
)
def test_what_is_not_there(method: str, path: str, status: int) -> None:
    async def story(mesh: DeadMesh) -> None:
        assert (await mesh.ask(method, path, Meshq_Api="1")).status == status

    told(story)


def test_queues_count_dead_letters() -> None:
    async def story(mesh: DeadMesh) -> None:
        for number in (3, 2, 1):
            await mesh.bury(number)
        rows = json.loads((await mesh.ask("GET", "/v1/queues")).body)
        assert {(row["topic"], row["dead"]) for row in rows} == {(ORDERS, 3), (BILLING, 0)}
        held = await mesh.client.hold(topology.dead_queue(ORDERS), 2)
        rows = json.loads((await mesh.ask("GET", "/v1/queues")).body)
        assert {(row["topic"], row["dead"]) for row in rows} == {(ORDERS, 3), (BILLING, 0)}, (
            "looked at, and still there"
        )
        await held.release()

    told(story)


def test_a_call_that_is_not_waited_for() -> None:
    async def story(mesh: DeadMesh) -> None:
        answer = await mesh.ask("POST", "/v1/call/orders@2/list", b"x", Prefer="respond-async")
        assert (answer.status, answer.get(b"location")) == (202, None), "there is nothing here to ask for the result"
        accepted = json.loads(answer.body)
        assert (accepted["status"], accepted["topic"]) == ("accepted", ORDERS)
        assert await mesh.ready(topology.work_queue(ORDERS)) == 1
        refused = await mesh.ask("POST", "/v1/call/orders@7/list", b"x", Prefer="respond-async")
        assert refused.status == 404

    told(story)
