"""The operator's side of versions and instances, from end to end: `meshq route`, `pause`, `resume`, `drain`, `retire`, and containers
that register without a sidecar; over a dev mesh, and directly over RabbitMQ and Redis."""

import json
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.desk import Desk, until
from tests.e2e.dev_mesh import (
    DEADLINE_SECONDS,
    Answer,
    Dev,
    ask,
    command,
    echo,
    environment,
    free_ports,
    running,
    write_mesh,
)
from tests.servers.processes import free_port
from tests.servers.rabbitmq import Cluster

SETTLED = {"subscribe": [{"name": "settled", "event": "payments.settled@1", "path": "/on/settled"}]}


class Scene(NamedTuple):
    """A mesh that runs orders 1 and 2 and somebody who calls them, and the command line at it."""

    dev: Dev
    desk: Desk
    sidecar: str
    """URL of the caller's."""

    def call(self, address: str = "orders", path: str = "/x", **headers: str) -> Answer:
        return ask(self.sidecar, "GET", f"/v1/call/{address}{path}", **headers)

    def served_by(self, count: int, address: str = "orders") -> list[str]:
        """The majors that served so many calls."""
        answers = [self.call(address) for _ in range(count)]
        assert {answer.status for answer in answers} == {200}
        return [answer.headers["Meshq-Served-By"].split("/")[1].partition(".")[0] for answer in answers]

    def look(self, path: str) -> Any:
        """What the control API of the dev mesh says."""
        return ask(self.dev.control, "GET", path).body

    def instance(self, version: str) -> dict[str, Any]:
        (found,) = (each for each in self.look("/v1/instances?service=orders") if each["version"] == version)
        return dict(found)

    def state(self, version: str) -> str:
        return str(self.instance(version)["state"])

    def reasons(self) -> set[str]:
        """Why orders 1 cannot be retired."""
        return {each["kind"] for each in self.look("/v1/retire/orders@1")["reasons"]}


def apps(first: int, *, with_old: bool = True) -> list[dict[str, Any]]:
    old = [echo("orders", first + 20, version="1.4.0", **SETTLED)] if with_old else []
    return [echo("shop", first), echo("orders", first + 10, version="2.0.0"), *old]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("routes") / "mesh"
    first = free_ports()
    write_mesh(folder, *apps(first), mesh="trial")
    with running(folder, "--control-port", "0") as dev:
        dev.wait_for("all 3 apps are ready")
        yield Scene(dev, Desk(folder), f"http://127.0.0.1:{first}")


@contextmanager
def real_servers(
    folder: Path, rabbitmq: Cluster, broker_url: str, redis_url: str, first: int, **how: Any
) -> Iterator[Scene]:
    """The same with sidecars that are processes of their own, and a command line that needs no control API."""
    write_mesh(folder, *apps(first, **how), mesh="trial", broker=broker_url, registry=redis_url)
    direct = {
        "MESHQ_BROKER_URL": broker_url,
        "MESHQ_REGISTRY_URL": redis_url,
        "MESHQ_MESH": "trial",
        "MESHQ_MANAGEMENT_URL": rabbitmq.management_url,
    }
    with running(folder, "--control-port", "0", MESHQ_MANAGEMENT_URL=rabbitmq.management_url) as dev:
        dev.wait_for("all . apps are ready")
        yield Scene(dev, Desk(folder.parent, **direct), f"http://127.0.0.1:{first}")


# --- routes -----------------------------------------------------------------------------------------------------------------


def weights_are_changed_live(scene: Scene) -> None:
    desk = scene.desk
    until(lambda: set(scene.served_by(5)) == {"2"})  # the latest, without a policy, once the caller's sidecar sees it
    told = desk.good("route", "set", "orders", "--weight", "1=100", "--weight", "2=0")
    assert told.splitlines()[0] == "weights: not set -> {1: 100, 2: 0}"
    until(lambda: set(scene.served_by(1)) == {"1"})
    assert set(scene.served_by(20)) == {"1"}
    assert set(scene.served_by(3, "orders@2")) == {"2"}, "who names a version has it"
    desk.good("route", "set", "orders", "--weight", "1=50", "--weight", "2=50")
    until(lambda: set(scene.served_by(1)) == {"2"})
    split = scene.served_by(200)
    assert 50 < split.count("1") < 150, "half of them, and more than seven standard deviations aside"
    shown = desk.good("route", "show", "orders")
    assert desk.json("route", "show") == [desk.json("route", "show", "orders")]
    desk.good("route", "clear", "orders")
    until(lambda: set(scene.served_by(5)) == {"2"})
    desk.good("route", "set", "orders", "--file", "-", stdin=shown)
    assert desk.json("route", "show", "orders")["weights"] == {"1": 50, "2": 50}
    desk.good("route", "clear", "orders")


def test_weights_in_a_dev_mesh(embedded: Scene) -> None:
    weights_are_changed_live(embedded)


def test_watching_shows_a_change_when_it_comes(embedded: Scene) -> None:
    """Paused meanwhile, and seen without a look in between that was too late."""
    watching = subprocess.Popen(
        command("instances", "orders", "-o", "json", "--watch"),
        cwd=embedded.dev.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    try:
        assert [each["state"] for each in json.loads(watching.stdout.readline())] == ["ready", "ready"]
        ident = embedded.instance("2.0.0")["id"]
        embedded.desk.good("pause", ident)
        lines = iter(watching.stdout.readline, "")
        assert next(row for row in lines if "paused" in row)
        embedded.desk.good("resume", ident)
        assert next(row for row in lines if "paused" not in row)
    finally:
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=DEADLINE_SECONDS)
    assert watching.returncode == 0


# --- instances --------------------------------------------------------------------------------------------------------------


def an_instance_is_paused_resumed_and_drained(scene: Scene) -> None:
    desk = scene.desk
    ident = scene.instance("2.0.0")["id"]
    assert desk.good("pause", ident, "--reason", "new disk").startswith(f"orders/{ident} is paused")
    until(lambda: scene.state("2.0.0") == "paused")
    assert scene.instance("2.0.0")["pause"]["reason"] == "new disk"
    until(lambda: scene.call("orders@2", Meshq_Timeout="300ms").status == 504)
    assert set(scene.served_by(3, "orders@1")) == {"1"}, "others go on"
    desk.good("resume", ident)
    until(lambda: scene.call("orders@2", Meshq_Timeout="5s").status == 200)
    assert scene.state("2.0.0") == "ready"
    desk.good("pause", ident, "--for", "1s")
    until(lambda: scene.state("2.0.0") == "ready")
    assert desk.good("drain", ident, "--wait") == f"orders/{ident} is drained\n"
    assert scene.state("2.0.0") == "draining"
    assert scene.call("orders@2", Meshq_Timeout="300ms").status in (503, 504)
    assert scene.dev.pids()["orders@2"], "its app stays"
    assert scene.look("/v1/dead/orders.v2") == [], "nothing was burnt"


# --- containers without a sidecar ---------------------------------------------------------------------------------------------


RECORD = json.dumps({"version": "3.0.0", "endpoints": {"http": "10.0.0.7:8080"}, "ttl": "1s"})


def a_container_registers(desk: Desk, control: str, token: str) -> None:
    path = "/v1/services/mailer/instances/pod-7"
    made = ask(control, "PUT", path, RECORD, Meshq_Token=token)
    assert (made.status, made.body["ttl"], made.body["orders"]) == (201, 1, {"pause": None, "drain": False})
    assert ask(control, "PUT", path, RECORD, Authorization=f"Bearer {token}").status == 200
    (shown,) = desk.json("instances", "mailer")
    assert (shown["id"], shown["version"], shown["endpoints"]) == ("pod-7", "3.0.0", {"http": "10.0.0.7:8080"})
    for wrong in (token[::-1], ""):
        refused = ask(control, "PUT", path, RECORD, Meshq_Token=wrong)
        assert (refused.status, refused.headers["Meshq-Error"]) == (403, "denied")
    desk.until(lambda said: not said or said[0]["state"] in ("suspect", "down"), "instances", "mailer")
    back = ask(control, "PUT", path, RECORD, Meshq_Token=token)
    assert (back.status in (200, 201), back.body["state"]) == (True, "ready")
    assert ask(control, "DELETE", path, Meshq_Token=token).status == 204
    assert desk.json("instances", "mailer") == []


def test_a_container_registers_in_a_dev_mesh(embedded: Scene) -> None:
    token = embedded.desk.good("control", "token", "mailer").strip()
    secret = embedded.dev.folder / ".meshq" / "control.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    a_container_registers(embedded.desk, embedded.dev.control, token)


def test_an_instance_in_a_dev_mesh(embedded: Scene) -> None:
    """The last of them: it drains one for good."""
    an_instance_is_paused_resumed_and_drained(embedded)


# --- retiring ---------------------------------------------------------------------------------------------------------------


def in_use(scene: Scene) -> None:
    """While it runs there is everything that stands in the way, and each thing is named."""
    desk = scene.desk
    ident = scene.instance("1.4.0")["id"]
    assert scene.call("orders@1").status == 200
    assert desk.json("call", "orders@1", "/missing", "--async")["topic"] == "orders.v1"
    until(lambda: len(scene.look("/v1/dead/orders.v1")) == 1)
    desk.good("pause", ident)
    until(lambda: scene.call("orders@1", Meshq_Timeout="300ms").status == 504)
    assert desk.json("call", "orders@1", "/x", "--async")["status"] == "accepted"
    desk.good("route", "set", "orders", "--weight", "1=10", "--weight", "2=90")
    everything = {"instances", "callers", "messages", "deadLetters", "subscriptions", "policy"}
    until(lambda: scene.reasons() == everything)
    named = desk.run("retire", "orders@1", "--force")
    assert named.returncode == 1
    for each in (ident, "shop", "meshq.orders.v1.work", "meshq.orders.v1.dead", "subscription settled", "weight 10"):
        assert each in named.stdout
    desk.good("resume", ident)
    until(lambda: "messages" not in scene.reasons())


def retired(scene: Scene) -> None:
    """Its instances are gone; of what is left one thing after the other goes, and then it does."""
    desk = scene.desk
    until(lambda: "instances" not in scene.reasons())
    assert {"deadLetters", "subscriptions", "policy"} <= scene.reasons()
    assert desk.run("retire", "orders@1", "--force").returncode == 1, "dead letters are never passed over"
    assert desk.json("dead", "drop", "orders.v1")["done"] == 1
    until(lambda: "deadLetters" not in scene.reasons())
    desk.good("route", "set", "orders", "--weight", "1=0", "--weight", "2=100")
    assert scene.reasons() <= {"subscriptions", "callers"}
    assert "orders.v1 is retired" in desk.good("retire", "orders@1", "--force")
    assert [each["topic"] for each in scene.look("/v1/services/orders")["versions"]] == ["orders.v2"]
    until(lambda: not any(row["topic"] == "orders.v1" for row in scene.look("/v1/queues?all=true")))
    assert desk.run("retire", "orders@1").stderr == "meshq: orders has no v1; it has v2\n"
    assert scene.call("orders").status == 200


def test_retired_in_a_dev_mesh(tmp_path: Path) -> None:
    """A dev mesh keeps its queues and versions from one run to the next."""
    first = free_ports()
    folder = tmp_path / "mesh"
    for with_old, scene in ((True, in_use), (False, retired)):
        write_mesh(folder, *apps(first, with_old=with_old))
        with running(folder, "--control-port", "0") as dev:
            dev.wait_for("all . apps are ready")
            scene(Scene(dev, Desk(folder), f"http://127.0.0.1:{first}"))


# --- over RabbitMQ and Redis --------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq
@pytest.mark.redis
@pytest.mark.timeout(300)  # a mesh of processes each, and a process for each command
def test_over_real_servers(tmp_path: Path, rabbitmq: Cluster, broker_url: str, redis_url: str) -> None:
    first = free_ports()
    with real_servers(tmp_path / "mesh", rabbitmq, broker_url, redis_url, first) as scene:
        weights_are_changed_live(scene)
        an_instance_is_paused_resumed_and_drained(scene)


@pytest.mark.rabbitmq
@pytest.mark.redis
@pytest.mark.long
@pytest.mark.timeout(300)
def test_retired_over_real_servers(tmp_path: Path, rabbitmq: Cluster, broker_url: str, redis_url: str) -> None:
    first = free_ports()
    with real_servers(tmp_path / "mesh", rabbitmq, broker_url, redis_url, first) as scene:
        in_use(scene)
    with real_servers(tmp_path / "mesh", rabbitmq, broker_url, redis_url, first, with_old=False) as scene:
        retired(scene)


# --- the server by itself -----------------------------------------------------------------------------------------------------


@contextmanager
def served(*arguments: str, **env: str) -> Iterator[str]:
    """`meshq control`, and its URL."""
    port = free_port()
    process = subprocess.Popen(
        command("control", "--port", str(port), *arguments), env=environment(**env), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        assert any("control API of mesh trial on" in line for line in process.stderr)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_the_control_api_as_a_server(tmp_path: Path, rabbitmq: Cluster, broker_url: str, redis_url: str) -> None:
    env = {
        "MESHQ_BROKER_URL": broker_url,
        "MESHQ_REGISTRY_URL": redis_url,
        "MESHQ_MANAGEMENT_URL": rabbitmq.management_url,
        "MESHQ_MESH": "trial",
        "MESHQ_CONTROL_SECRET": "0123456789abcdef",
    }
    token = Desk(tmp_path, MESHQ_CONTROL_SECRET="0123456789abcdef", MESHQ_MESH="trial").good(
        "control", "token", "mailer"
    )
    with served(**env) as first, served("--listen", "0.0.0.0", "--allow-host", "control.shop", **env) as second:
        a_container_registers(Desk(tmp_path, MESHQ_CONTROL_URL=first), second, token.strip())
        path = "/v1/services/mailer/instances/pod-8"
        record = json.dumps({"version": "3.0.0", "ttl": "30s"})
        for control, status in ((first, 201), (second, 200), (first, 200)):  # replicas share nothing but the registry
            assert ask(control, "PUT", path, record, Meshq_Token=token.strip()).status == status
        assert ask(second, "GET", "/v1/services", Host="control.shop").status == 200
        assert ask(first, "GET", "/v1/services", Host="control.shop").status == 421
        refused = Desk(tmp_path, MESHQ_CONTROL_URL=second).run("pause", "pod-8")
        assert (refused.returncode, "MESHQ_API_TOKEN" in refused.stderr) == (1, True)
        desk = Desk(tmp_path, MESHQ_CONTROL_URL=first)
        desk.good("pause", "pod-8", "--reason", "moved")
        told = ask(second, "PUT", path, record, Meshq_Token=token.strip()).body
        assert (told["state"], told["orders"]["pause"]["reason"]) == ("paused", "moved")


def test_a_port_that_is_taken_is_64(embedded: Scene, tmp_path: Path, free_port: int) -> None:
    port = embedded.dev.control.rpartition(":")[2]
    urls = {"MESHQ_BROKER_URL": f"amqp://127.0.0.1:{free_port}", "MESHQ_REGISTRY_URL": f"redis://127.0.0.1:{free_port}"}
    ended = Desk(tmp_path, **urls).run("control", "--port", port)
    assert ended.returncode == 64
    assert f"127.0.0.1 port {port}" in ended.stderr
