"""Containers without a sidecar: registered, renewed and gone by requests to the control API, with a token of their service."""

from typing import Any

import pytest

from meshq.control.tokens import Tokens
from meshq.core.instances import Load, State
from meshq.core.names import Version
from tests.control_mesh import OLD_SECRET, SECRET, ControlMesh, Said, told

PATH = "/v1/services/orders/instances/pod-7"
TOKEN = Tokens("shop", [SECRET]).make("orders")
RECORD: dict[str, Any] = {"version": "2.1.0", "endpoints": {"http": "10.0.0.7:8080"}, "ttl": "30s"}


async def put(mesh: ControlMesh, path: str = PATH, token: str = TOKEN, **record: Any) -> Said:
    return await mesh.ask("PUT", path, {**RECORD, **record}, Meshq_Token=token)


def test_registered_renewed_and_gone() -> None:
    async def story(mesh: ControlMesh) -> None:
        made = await put(mesh)
        assert made.status == 201
        assert made.body == {
            "id": "pod-7",
            "service": "orders",
            "version": "2.1.0",
            "state": "ready",
            "ttl": 30,
            "renewWithin": 10,
            "orders": {"pause": None, "drain": False},
        }
        first = mesh.instance("orders", "pod-7")
        assert (first.version, first.majors, first.ttl_ms) == (Version(2, 1, 0), (), 30_000)
        assert (dict(first.endpoints), first.address) == ({"http": "10.0.0.7:8080"}, "10.0.0.7:8080")
        revision = mesh.registry.snapshot().revision
        again = await put(mesh)
        assert (again.status, again.body) == (200, made.body)
        assert mesh.registry.snapshot().revision == revision, "a renewal alone changes nothing that others see"
        assert mesh.instance("orders", "pod-7").generation == first.generation
        assert (await mesh.ask("DELETE", PATH, Meshq_Token=TOKEN)).status == 204
        assert mesh.registry.snapshot().instance_count == 0
        assert (await mesh.ask("DELETE", PATH, Meshq_Token=TOKEN)).status == 404

    told(story)


def test_it_is_looked_up_and_takes_no_calls() -> None:
    async def story(mesh: ControlMesh) -> None:
        await put(mesh, metadata={"zone": "a"}, capacity=8, inFlight=3)
        (shown,) = (await mesh.ask("GET", "/v1/services/orders/instances")).body
        assert shown == (await mesh.ask("GET", PATH)).body
        assert (shown["endpoints"], shown["metadata"]) == ({"http": "10.0.0.7:8080"}, {"zone": "a"})
        assert (shown["inFlight"], shown["capacity"], shown["address"]) == (3, 8, "10.0.0.7:8080")
        (version,) = (await mesh.ask("GET", "/v1/services")).body[0]["versions"]
        assert version == {"version": "2.1.0", "topic": None, "instances": 1, "ready": 1, "states": {"ready": 1}}
        refused = await mesh.ask("GET", "/v1/call/orders/x")
        assert (refused.status, refused.body["code"]) == (404, "unknown-service")

    told(story)


def test_what_a_renewal_can_change_keeps_the_registration() -> None:
    async def story(mesh: ControlMesh) -> None:
        await put(mesh)
        generation = mesh.instance("orders", "pod-7").generation
        changed = await put(mesh, state="unhealthy", metadata={"zone": "b"}, capacity=4)
        assert (changed.status, changed.body["state"]) == (200, "unhealthy")
        now = mesh.instance("orders", "pod-7")
        assert (now.state, dict(now.metadata), now.load) == (State.UNHEALTHY, {"zone": "b"}, Load(0, 4))
        assert now.generation == generation
        await put(mesh)
        now = mesh.instance("orders", "pod-7")
        assert (now.state, dict(now.metadata), now.generation) == (State.READY, {}, generation)

    told(story)


@pytest.mark.parametrize("changed", [{"version": "2.2.0"}, {"endpoints": {"http": "10.0.0.8:8080"}}, {"ttl": "1m"}])
def test_another_record_is_another_registration(changed: dict[str, Any]) -> None:
    async def story(mesh: ControlMesh) -> None:
        await put(mesh)
        generation = mesh.instance("orders", "pod-7").generation
        assert (await put(mesh, **changed)).status == 200
        assert mesh.instance("orders", "pod-7").generation != generation
        assert len(mesh.service("orders").instances) == 1

    told(story)


def test_what_operators_want_comes_with_the_answer() -> None:
    async def story(mesh: ControlMesh) -> None:
        await put(mesh)
        assert (await mesh.meshq("pause", "pod-7", "--reason", "new disk")).code == 0
        paused = await put(mesh)
        assert (paused.body["state"], paused.body["orders"]) == (
            "paused",
            {"pause": {"reason": "new disk", "until": None}, "drain": False},
        )
        moved = await put(mesh, endpoints={"http": "10.0.0.9:8080"})
        assert moved.body["state"] == "paused", "the next process under this id is paused too"
        assert (await mesh.meshq("resume", "pod-7")).code == 0
        assert (await put(mesh, endpoints={"http": "10.0.0.9:8080"})).body["state"] == "ready"
        assert (await mesh.meshq("drain", "pod-7")).code == 0
        told_to = await put(mesh, endpoints={"http": "10.0.0.9:8080"})
        assert told_to.body["orders"]["drain"] is True
        obeyed = await put(mesh, endpoints={"http": "10.0.0.9:8080"}, state="draining")
        assert obeyed.body["state"] == "draining"

    told(story)


def test_a_pause_does_not_hide_what_it_says_of_itself() -> None:
    async def story(mesh: ControlMesh) -> None:
        await put(mesh)
        await mesh.meshq("pause", "pod-7")
        await put(mesh, state="unhealthy")
        await mesh.meshq("resume", "pod-7")
        assert mesh.instance("orders", "pod-7").state is State.UNHEALTHY

    told(story)


def test_a_registry_that_lost_its_data_is_told_again() -> None:
    async def story(mesh: ControlMesh) -> None:
        await put(mesh)
        mesh.registry.clear()
        assert (await put(mesh)).status == 201
        assert mesh.instance("orders", "pod-7").state is State.READY

    told(story)


def test_an_id_that_a_sidecar_has_is_left_to_it() -> None:
    async def story(mesh: ControlMesh) -> None:
        generation = mesh.register("orders", "pod-7", "2.1.0")
        for refused in (await put(mesh), await mesh.ask("DELETE", PATH, Meshq_Token=TOKEN)):
            assert refused.status == 409
            assert refused.body["detail"].startswith("orders/pod-7 has a sidecar")
        assert mesh.instance("orders", "pod-7").generation == generation

    told(story)


# --- tokens -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Meshq_Token": ""},
        {"Meshq_Token": TOKEN[:-1]},
        {"Meshq_Token": TOKEN.upper()},
        {"Meshq_Token": Tokens("shop", [SECRET]).make("billing")},
        {"Meshq_Token": Tokens("other", [SECRET]).make("orders")},
        {"Meshq_Token": Tokens("shop", ["another secret of ours"]).make("orders")},
        {"Meshq_Token": "\xe9" * 64},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Meshq_Token": "wrong", "Authorization": f"Bearer {TOKEN}"},
        {"Meshq_Api": "1"},
    ],
)
def test_without_its_token_nothing_happens(headers: dict[str, str]) -> None:
    async def story(mesh: ControlMesh) -> None:
        for method in ("PUT", "DELETE"):
            refused = await mesh.ask(method, PATH, RECORD, **headers)
            assert (refused.status, refused.body["code"]) == (403, "denied")
            assert "`meshq control token orders`" in refused.body["detail"]
            assert TOKEN not in refused.body["detail"]
        assert mesh.registry.snapshot().services == {}

    told(story)


def test_without_a_secret_nobody_registers() -> None:
    async def story(mesh: ControlMesh) -> None:
        refused = await put(mesh)
        assert (refused.status, refused.body["code"]) == (403, "denied")
        assert "MESHQ_CONTROL_SECRET" in refused.body["detail"]

    told(story, secrets=())


@pytest.mark.parametrize(
    "headers",
    [
        {"Meshq_Token": TOKEN},
        {"Authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer  {TOKEN}"},
        {"Meshq_Token": Tokens("shop", [OLD_SECRET]).make("orders")},
    ],
)
def test_with_its_token(headers: dict[str, str]) -> None:
    async def story(mesh: ControlMesh) -> None:
        assert (await mesh.ask("PUT", PATH, RECORD, **headers)).status == 201

    told(story)


# --- what it says of itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "endpoints"),
    [
        (
            {"http": "10.0.0.7:8080", "grpc": "[2001:db8::1]:9090"},
            {"http": "10.0.0.7:8080", "grpc": "[2001:db8::1]:9090"},
        ),
        (
            ["http://pod-7.shop/api", "grpc://pod-7:9090"],
            {"http": "http://pod-7.shop/api", "grpc": "grpc://pod-7:9090"},
        ),
        (["10.0.0.7:8080"], {"http": "10.0.0.7:8080"}),
        ("https://10.0.0.7", {"https": "https://10.0.0.7"}),
        ([], {}),
        (None, {}),
    ],
)
def test_endpoints(given: Any, endpoints: dict[str, str]) -> None:
    async def story(mesh: ControlMesh) -> None:
        assert (await put(mesh, endpoints=given)).status == 201
        assert dict(mesh.instance("orders", "pod-7").endpoints) == endpoints

    told(story)


@pytest.mark.parametrize(("ttl", "seconds"), [(None, 15), ("1s", 1), (600, 600), (2.5, 2.5), ("10m", 600)])
def test_ttl(ttl: Any, seconds: float) -> None:
    async def story(mesh: ControlMesh) -> None:
        made = await put(mesh, ttl=ttl)
        assert (made.body["ttl"], made.body["renewWithin"]) == (seconds, round(seconds / 3, 3))

    told(story)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"version": None}, "version: is required"),
        ({"version": "two"}, "version: 'two' is not a SemVer version"),
        ({"ttl": "900ms"}, "ttl: 900ms is not between 1s and 10m"),
        ({"ttl": "11m"}, "ttl: 11m is not between"),
        ({"ttl": True}, "ttl: True is not a duration"),
        ({"ttl": float("inf")}, "is not a duration"),
        ({"state": "down"}, "state: 'down' is not one of ready, starting"),
        ({"state": 1}, "state: '1' is not one of"),
        ({"capacity": -1}, "capacity: -1 is not a number between"),
        ({"metadata": {"a": 1}}, "metadata: 'a' is not a text"),
        ({"metadata": {"a": "x" * 4096}}, "metadata: at most 64 names and 4096 bytes in all; this would be 1 and 4097"),
        ({"metadata": {"a": "\u00e9" * 2048}}, "metadata: at most 64 names and 4096 bytes"),
        ({"metadata": {f"a{n}": "" for n in range(65)}}, "metadata: at most 64 names"),
        ({"metadata": {"": "x"}}, "metadata: '' is not a printable name"),
        ({"metadata": {"a\nb": "x"}}, "is not a printable name"),
        ({"metadata": {"a": "\ud800"}}, "has half of a surrogate pair"),
        ({"metadata": {"\udfff": "a"}}, "has half of a surrogate pair"),
        ({"version": "\ud800"}, "has half of a surrogate pair"),
        ({"endpoints": {"http": "\ud800"}}, "has half of a surrogate pair"),
        ({"endpoints": {"\ud800": "a:1"}}, "has half of a surrogate pair"),
        ({"endpoints": ["\ud800"]}, "has half of a surrogate pair"),
        ({"ttl": "\ud800"}, "has half of a surrogate pair"),
        ({"capacity": "\ud800"}, "has half of a surrogate pair"),
        ({"state": "\ud800"}, "has half of a surrogate pair"),
        ({"\ud800": 1}, "has half of a surrogate pair"),
        ({"metadata": []}, "metadata: give an object"),
        ({"endpoints": {"http": "10.0.0.7"}}, "endpoints: '10.0.0.7' has no port"),
        ({"endpoints": {"http": "10.0.0.7:0"}}, "endpoints: '10.0.0.7:0' is not an endpoint"),
        ({"endpoints": {"http": "user:secret@host:80"}}, "is not an endpoint"),
        ({"endpoints": {"HTTP": "a:1"}}, "endpoints: 'HTTP' is not the name of a protocol"),
        ({"endpoints": {"http": 8080}}, "endpoints: '8080' is not an endpoint"),
        ({"endpoints": ["http://a:1", "http://b:1"]}, "endpoints: two are called http"),
        ({"endpoints": {f"a{n}": "a:1" for n in range(17)}}, "endpoints: there are more than 16"),
        ({"endpoints": 8080}, "endpoints: give a map"),
        ({"vresion": "1"}, "'vresion': no such key"),
    ],
)
def test_what_is_wrong_is_said(record: dict[str, Any], said: str) -> None:
    async def story(mesh: ControlMesh) -> None:
        refused = await put(mesh, **record)
        assert (refused.status, refused.body["code"]) == (400, "bad-request")
        assert said in refused.body["detail"]
        assert mesh.registry.snapshot().services == {}

    told(story)


def test_all_of_it_at_once() -> None:
    async def story(mesh: ControlMesh) -> None:
        refused = await put(
            mesh, version="x", ttl="1h", endpoints="nowhere", state="up", path=PATH.replace("pod-7", "Pod_7")
        )
        for key in ("'Pod_7' is not an instance id", "version:", "ttl:", "endpoints:", "state:"):
            assert key in refused.body["detail"]
        assert (await mesh.ask("PUT", PATH, b"{", Meshq_Token=TOKEN)).body["code"] == "bad-request"
        reserved = await mesh.ask("PUT", "/v1/services/reply/instances/a", RECORD, Meshq_Token=TOKEN)
        assert reserved.body["code"] == "bad-address"
        assert (await mesh.ask("POST", PATH, RECORD, Meshq_Token=TOKEN)).status == 405

    told(story)


def test_as_much_as_a_sidecar_may_tell() -> None:
    async def story(mesh: ControlMesh) -> None:
        told_all = {"zone": "a" * 4086, "x": "\U0001f600"}
        assert (await put(mesh, metadata=told_all)).status == 201, "a whole pair is one character"
        assert dict(mesh.instance("orders", "pod-7").metadata) == told_all

    told(story)
