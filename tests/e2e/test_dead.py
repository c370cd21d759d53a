"""Dead letters from end to end: an app says that a message is wrong, and the command line finds, shows, replays and drops it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.dev_mesh import DEADLINE_SECONDS, Dev, echo, free_ports, meshq, running, write_mesh
from tests.servers.rabbitmq import Cluster


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("dead") / "mesh"
    write_mesh(folder, echo("orders", free_ports(), version="2.1.0"))
    with running(folder, "--control-port", "0") as dev:
        dev.wait_for("the app is ready")
        yield dev


class Desk:
    """The command line at one mesh."""

    def __init__(self, folder: Path, **env: str) -> None:
        self._folder = folder
        self._env = env

    def json(self, *arguments: str) -> Any:
        done = meshq(*arguments, "-o", "json", cwd=self._folder, **self._env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def until(self, good: Callable[[Any], bool], *arguments: str) -> Any:
        """What a command says, once it is good."""
        until = time.monotonic() + 2 * DEADLINE_SECONDS
        never = threading.Event()
        while not good(said := self.json(*arguments)):
            assert time.monotonic() < until, said
            never.wait(0.1)
        return said

    def one(self, replays: int = 0) -> dict[str, Any]:
        """All that is known of the one letter of orders.v2, once it is there after so many replays."""
        (letter,) = self.until(lambda said: [one["replays"] for one in said] == [replays], "dead", "show", "orders.v2")
        return dict(letter)


def found_brought_back_and_dropped(desk: Desk) -> None:
    accepted = desk.json("call", "orders", "/missing", "--async", "-d", '{"a": 1}', "-H", "X-Extra: yes")
    assert (accepted["status"], accepted["topic"]) == ("accepted", "orders.v2")
    letter = desk.one()
    assert (letter["id"], letter["reason"], letter["status"]) == (accepted["id"], "rejected", 404)
    assert (letter["attempts"], letter["path"], letter["size"]) == (1, "/missing", 8)
    assert (letter["method"], letter["body"], letter["replays"]) == ("POST", '{"a": 1}', 0)
    assert '"path": "/missing"' in letter["excerpt"]
    assert ["X-Extra", "yes"] in letter["headers"]
    (instance,) = desk.json("instances", "orders")
    assert letter["instance"] == instance["id"]
    (row,) = desk.json("dead", "list", "orders.v2")
    assert {name: letter[name] for name in row} == row
    assert row in desk.json("dead", "list")

    replayed = desk.json("dead", "replay", "orders.v2", letter["id"])
    assert (replayed["done"], replayed["kept"]) == (1, 0)
    assert desk.one(replays=1)["at"] > letter["at"]

    # The broker's figures are a few seconds old.
    desk.until(lambda rows: {row["dead"] for row in rows if row["topic"] == "orders.v2"} == {1}, "queues")
    assert desk.json("dead", "drop", "orders.v2", "--reason", "rejected")["done"] == 1
    assert desk.json("dead", "list", "orders.v2") == []


def test_in_a_dev_mesh(mesh: Dev) -> None:
    found_brought_back_and_dropped(Desk(mesh.folder))


def test_a_table_of_a_real_one(mesh: Dev) -> None:
    assert meshq("call", "orders", "/missing", "--async", cwd=mesh.folder).returncode == 0
    Desk(mesh.folder).one()
    done = meshq("dead", "list", cwd=mesh.folder)
    heading, row = done.stdout.splitlines()
    assert heading.split() == ["ID", "TOPIC", "REASON", "STATUS", "TRIES", "AGE", "SIZE", "PATH"]
    assert row.split()[1:5] == ["orders.v2", "rejected", "404", "1"]
    short = row.split()[0]
    assert meshq("dead", "drop", "orders.v2", short, cwd=mesh.folder).stdout == "1 dropped\n"


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_directly_through_broker_and_registry(
    tmp_path: Path, rabbitmq: Cluster, broker_url: str, redis_url: str
) -> None:
    write_mesh(
        tmp_path / "mesh",
        echo("orders", free_ports(), version="2.1.0"),
        mesh="trial",
        broker=broker_url,
        registry=redis_url,
    )
    direct = {
        "MESHQ_BROKER_URL": broker_url,
        "MESHQ_REGISTRY_URL": redis_url,
        "MESHQ_MESH": "trial",
        "MESHQ_MANAGEMENT_URL": rabbitmq.management_url,
    }
    with running(tmp_path / "mesh", "--control-port", "0", MESHQ_MANAGEMENT_URL=rabbitmq.management_url) as dev:
        dev.wait_for("the app is ready")
        desk = Desk(tmp_path, **direct)
        assert desk.json("call", "orders", "/missing", "--async")["topic"] == "orders.v2"
        letter = desk.one()
        assert (letter["reason"], letter["status"]) == ("rejected", 404)
        assert desk.json("dead", "replay", "orders.v2", letter["id"])["done"] == 1
        desk.one(replays=1)
        assert desk.json("dead", "drop", "orders.v2")["done"] == 1
        wrong = meshq("dead", "list", "order.v2", cwd=tmp_path, **direct)
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "no dead letters of order.v2; topics known: orders.v2" in wrong.stderr
