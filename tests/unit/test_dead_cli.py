"""`meshq dead` and `meshq call --async`: what they print, and their exit codes."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from meshq.cli import dead_tables, writing
from meshq.cli.main import app
from meshq.core import dead, topology
from meshq.core.dead import MAX_REPLAYS
from tests.dead_mesh import BILLING, ORDERS, DeadMesh, dead_mesh

NOW = datetime(2026, 11, 22, 10, 5, 0, tzinfo=UTC)


def told(story: Callable[[DeadMesh], Awaitable[None]]) -> None:
    async def run() -> None:
        async with dead_mesh() as mesh:
            await story(mesh)

    asyncio.run(run())


# --- tables -------------------------------------------------------------------------------------------------------------------

LETTER: dict[str, Any] = {
    "id": "0123456789abcdef0123456789abcdef", "topic": "orders.v2", "at": "2026-11-22T10:00:00.000Z", "reason": "rejected",
    "status": 422, "attempts": 1, "instance": "host-a", "path": "/list?x=1", "size": 2000,
}  # fmt: skip
OTHER = {
    **LETTER, "id": "order-17", "topic": None, "at": None, "reason": "queue-gone", "status": None, "attempts": None,
    "path": "/" + "x" * 60, "size": 3 * 2**20,
}  # fmt: skip


def test_a_table_of_letters() -> None:
    lines = [line.rstrip() for line in str(writing.as_text(dead_tables.letters([LETTER, OTHER], NOW))).splitlines()]
    assert lines == [
        "ID            TOPIC      REASON      STATUS  TRIES    AGE     SIZE  PATH",
        "0123456789ab  orders.v2  rejected       422      1  5m00s  2.0 KiB  /list?x=1",
        f"order-17      -          queue-gone       -      -      -  3.0 MiB  /{'x' * 46}…",
    ]


def test_a_usual_row_fits_into_eighty_columns() -> None:
    row = {**LETTER, "reason": "no-such-version", "path": "/pay/17"}
    assert max(len(line) for line in str(writing.as_text(dead_tables.letters([row], NOW))).splitlines()) <= 80


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    evil = "\x1b[2J\x9b2J\u202egnp"
    shown = str(writing.as_text(dead_tables.letters([{**LETTER, "path": evil, "reason": evil}], NOW)))
    assert not set(shown) & set("\x1b\x9b\u202e")
    full = {
        **LETTER, "detail": evil, "excerpt": evil, "queue": evil, "servedBy": evil, "sender": evil, "headers": [[evil, evil]],
        "body": evil, "bodyEncoding": "text", "bodyCut": False, "method": "POST", "path": evil, "key": evil,
    }  # fmt: skip
    assert not set(dead_tables.letter(full, NOW)) & set("\x1b\x9b\u202e")


# --- list and show ------------------------------------------------------------------------------------------------------------


def test_list() -> None:
    async def story(mesh: DeadMesh) -> None:
        for number in (30, 20, 10):
            await mesh.bury(number, dead.ATTEMPTS if number == 20 else dead.REJECTED)
        await mesh.bury(5, topic=BILLING)
        ran = await mesh.meshq("dead", "list", "orders.v2", "-o", "json")
        assert ran.code == 0
        assert [list(row) for row in ran.json] == [
            ["id", "topic", "at", "reason", "status", "attempts", "instance", "path", "size"]
        ] * 3
        assert [(row["reason"], row["path"]) for row in ran.json] == [
            ("rejected", "/orders/30"), ("attempts", "/orders/20"), ("rejected", "/orders/10"),
        ]  # fmt: skip
        ran = await mesh.meshq("dead", "list", "-o", "yaml", "--since", "25m")
        assert [row["topic"] for row in YAML(typ="safe").load(ran.out)] == [ORDERS, ORDERS, BILLING]
        ran = await mesh.meshq("dead", "list", "orders.v2", "--reason", "attempts")
        assert [line.split()[2] for line in ran.out.splitlines()] == ["REASON", "attempts"]
        ran = await mesh.meshq("dead", "list", "--limit", "1")
        assert ran.err == "and 3 more: --limit shows more of them, --reason and --since narrow down\n"
        ran = await mesh.meshq("dead", "list", "lost")
        assert (ran.code, ran.out, ran.err) == (0, "", "no dead letters\n")

    told(story)


def test_show() -> None:
    async def story(mesh: DeadMesh) -> None:
        await mesh.bury(2)
        await mesh.bury(1, headers=[(b"X-Number", b"1"), (b"Content-Type", b"text/plain")], body=b"first\nsecond\n")
        ran = await mesh.meshq("dead", "show", "orders.v2", f"{1:032x}", "-o", "json")
        assert (ran.json["method"], ran.json["sender"], ran.json["body"]) == ("POST", "shop", "first\nsecond\n")
        ran = await mesh.meshq("dead", "show", "orders.v2", "-o", "json")
        assert [letter["path"] for letter in ran.json] == ["/orders/2", "/orders/1"]
        ran = await mesh.meshq("dead", "show", "orders.v2", f"{1:032x}")
        head, fields, body = ran.out.split("\n\n")
        assert "reason       rejected, status 422\n" in head
        assert "request      POST /orders/1\n" in head
        assert (fields, body) == ("X-Number: 1\nContent-Type: text/plain", "first\nsecond\n")
        ran = await mesh.meshq("dead", "show", "orders.v2", "nobody")
        assert (ran.code, ran.err) == (1, "meshq: orders.v2 has no dead letter nobody\n")

    told(story)


# --- replay and drop ----------------------------------------------------------------------------------------------------------


def test_replay() -> None:
    async def story(mesh: DeadMesh) -> None:
        await mesh.bury(2, replays=MAX_REPLAYS)
        await mesh.bury(1)
        ran = await mesh.meshq("dead", "replay", "orders.v2", "--dry-run")
        assert (ran.code, ran.out.splitlines()[-1]) == (0, "1 would be replayed, 1 kept")
        assert await mesh.ready(topology.work_queue(ORDERS)) == 0
        ran = await mesh.meshq("dead", "replay", "orders.v2")
        assert (ran.code, ran.out.splitlines()[-1], ran.err) == (
            1,
            "1 replayed, 1 kept",
            "meshq: 1 kept: `detail` says why\n",
        )
        assert "--force does it again (loop)" in ran.out
        ran = await mesh.meshq("dead", "replay", "orders.v2", f"{2:032x}", "--force", "--to", "billing@1", "-o", "json")
        assert (ran.code, ran.json["done"], ran.json["letters"][0]["queue"]) == (0, 1, "meshq.billing.v1.work")
        assert await mesh.ready(topology.work_queue(BILLING)) == 1
        ran = await mesh.meshq("dead", "replay", "orders.v2", "--reason", "rejected")
        assert (ran.code, ran.out) == (0, "0 replayed\n")

    told(story)


def test_drop() -> None:
    async def story(mesh: DeadMesh) -> None:
        for number in (4, 3, 2, 1):
            await mesh.bury(number, dead.ATTEMPTS if number == 4 else dead.REJECTED)
        ran = await mesh.meshq("dead", "drop", "orders.v2", "--limit", "1", "--dry-run")
        assert ran.out.splitlines()[-1] == "1 would be dropped, 3 more left"
        ran = await mesh.meshq("dead", "drop", "orders.v2", "--reason", "attempts")
        assert (ran.code, ran.out) == (0, "1 dropped\n")
        ran = await mesh.meshq("dead", "drop", "orders.v2", f"{3:032x}", "nobody")
        assert (ran.code, ran.out, ran.err) == (1, "1 dropped\n", "meshq: orders.v2 has no dead letter nobody\n")
        ran = await mesh.meshq("dead", "drop", "orders.v2", "--since", "90s", "-o", "json")
        assert (ran.code, [letter["path"] for letter in ran.json["letters"]]) == (0, ["/orders/1"])
        ran = await mesh.meshq("dead", "drop", "orders.v2", "--all")
        assert (ran.code, ran.out) == (0, "1 dropped\n")
        assert await mesh.ready(topology.dead_queue(ORDERS)) == 0

    told(story)


@pytest.mark.parametrize("what", ["drop", "replay"])
def test_on_a_terminal_all_of_them_are_asked_for(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    from meshq.cli import dead as command

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(command, "sys", type("sys", (), {"stdin": Terminal()}))

    async def story(mesh: DeadMesh) -> None:
        await mesh.bury(1)
        ran = await mesh.meshq("dead", what, "orders.v2")
        assert (ran.code, await mesh.ready(topology.dead_queue(ORDERS))) == (1, 1)
        assert f"{what} all dead letters of orders.v2? [y/N]" in ran.err
        ran = await mesh.meshq("dead", what, "orders.v2", "--all")
        assert (ran.code, await mesh.ready(topology.dead_queue(ORDERS))) == (0, 0)

    told(story)


def test_a_topic_that_nobody_knows_is_1() -> None:
    async def story(mesh: DeadMesh) -> None:
        for arguments in (
            ["list", "order.v2"],
            ["show", "order.v2", "x"],
            ["replay", "order.v2"],
            ["drop", "order.v2"],
        ):
            ran = await mesh.meshq("dead", *arguments)
            said = "meshq: there are no dead letters of order.v2; topics known: billing.v1, orders.v2\n"
            assert (ran.code, ran.out, ran.err) == (1, "", said)

    told(story)


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["replay"],
        ["drop"],
        ["nothing"],
        ["list", "orders"],
        ["list", "orders.v2", "extra"],
        ["list", "orders.v2", "--since", "yesterday"],
        ["list", "orders.v2", "--limit", "0"],
        ["replay", "orders.v2", "--to", "Orders"],
        ["drop", "orders.v2", "--to", "orders@2"],
        ["list", "-o", "xml"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["dead", *arguments])
    assert (result.exit_code, result.output.startswith("Usage: ")) == (2, True)


@pytest.mark.parametrize(
    "arguments", [["list"], ["show", "orders.v2"], ["replay", "orders.v2"], ["drop", "orders.v2", "--all"]]
)
def test_without_a_mesh_it_is_69(arguments: list[str], free_port: int) -> None:
    result = CliRunner().invoke(app, ["dead", *arguments, "--control", f"http://127.0.0.1:{free_port}"])
    assert (result.exit_code, "cannot be reached" in result.stderr) == (69, True)


# --- call --async -------------------------------------------------------------------------------------------------------------


def test_a_call_that_is_not_waited_for() -> None:
    async def story(mesh: DeadMesh) -> None:
        ran = await mesh.meshq("call", "orders@2", "/list", "--async", "-d", "x")
        assert ran.code == 0
        assert (list(ran.json), ran.json["topic"]) == (["id", "status", "topic"], ORDERS)
        ran = await mesh.meshq("call", "orders@2", "/list", "--async", "-o", "table")
        assert ran.out.splitlines()[0].split() == ["ID", "STATUS", "TOPIC"]
        assert ran.out.splitlines()[1].split()[1:] == ["accepted", ORDERS]
        assert await mesh.ready(topology.work_queue(ORDERS)) == 2
        ran = await mesh.meshq("call", "nobody", "/", "--async")
        assert (ran.code, ran.err.endswith("(unknown-service)\n")) == (1, True)
        ran = await mesh.meshq("call", "orders@2", "/", "-o", "json")
        assert ran.code == 2

    told(story)
