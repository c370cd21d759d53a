"""Who may ask a control API what: on loopback, beyond it, with and without the operators' token."""

import pytest

from meshq.control.access import Access
from meshq.control.tokens import Tokens, parse_secrets
from tests.control_mesh import SECRET, ControlMesh, told

TOKEN = {"Meshq_Token": "operators"}
BEYOND = Access("mesh", beyond_loopback=True, hosts=frozenset({"control.shop"}))
GUARDED = Access("mesh", beyond_loopback=True, operator_token="operators")
LOCAL_GUARDED = Access("mesh", operator_token="operators")

LOOKED = ["/v1/services", "/v1/instances", "/v1/routes", "/v1/queues", "/v1/status", "/v1/retire/orders@1"]
DONE = [
    ("GET", "/v1/call/orders/x"),
    ("POST", "/v1/publish/payments.settled"),
    ("GET", "/v1/dead"),
    ("GET", "/v1/dead/orders.v1"),
    ("POST", "/v1/dead/orders.v1/drop"),
    ("PUT", "/v1/logs/payments.settled"),
    ("PUT", "/v1/routes/orders"),
    ("DELETE", "/v1/routes/orders"),
    ("POST", "/v1/instances/host-a/pause"),
    ("POST", "/v1/retire/orders@1"),
]


@pytest.mark.parametrize("access", [BEYOND, GUARDED, LOCAL_GUARDED])
def test_looking_is_free(access: Access) -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        for path in LOOKED:
            assert (await mesh.ask("GET", path)).status == 200

    told(story, access)


def test_beyond_loopback_without_a_token_there_is_only_looking() -> None:
    async def story(mesh: ControlMesh) -> None:
        for method, path in DONE:
            refused = await mesh.ask(method, path, Meshq_Api="1", Meshq_Token="anything")
            assert (refused.status, refused.body["code"]) == (403, "denied")
            assert "MESHQ_API_TOKEN" in refused.body["detail"]

    told(story, BEYOND)


@pytest.mark.parametrize("access", [GUARDED, LOCAL_GUARDED])
def test_with_a_token_it_is_needed_and_enough(access: Access) -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        for method, path in DONE:
            for given in ({"Meshq_Api": "1"}, {"Meshq_Api": "1", "Meshq_Token": "operator"}):
                refused = await mesh.ask(method, path, **given)
                assert (refused.status, refused.body["code"]) == (403, "denied")
            if "/v1/call/" not in path:
                assert (await mesh.ask(method, path, {}, **TOKEN)).status != 403

    told(story, access)


def test_the_command_line_has_the_token_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        refused = await mesh.meshq("pause", "host-a")
        assert (refused.code, "operators' token" in refused.err) == (1, True)
        monkeypatch.setenv("MESHQ_API_TOKEN", "operators")
        assert (await mesh.meshq("pause", "host-a")).code == 0

    told(story, GUARDED)


@pytest.mark.parametrize(
    ("access", "host", "good"),
    [
        (Access("mesh"), "localhost:3590", True),
        (Access("mesh"), "10.0.0.5:3590", False),
        (Access("mesh"), "control.shop", False),
        (BEYOND, "control.shop:3590", True),
        (BEYOND, "CONTROL.shop.", True),
        (BEYOND, "10.0.0.5:3590", True),
        (BEYOND, "[2001:db8::1]:3590", True),
        (BEYOND, "evil.example", False),
        (BEYOND, "control.shop.evil.example", False),
        (BEYOND, "orders.mesh", False),
    ],
)
def test_by_which_names_it_answers(access: Access, host: str, good: bool) -> None:
    async def story(mesh: ControlMesh) -> None:
        answer = await mesh.ask("GET", "/v1/services", host=host)
        assert answer.status == (200 if good else 421)
        if not good and host != "orders.mesh":
            assert "--allow-host" in answer.body["detail"]

    told(story, access)


def test_pages_of_its_own_names_may_ask() -> None:
    async def story(mesh: ControlMesh) -> None:
        for origin, status in (("http://control.shop:3590", 200), ("http://evil.example", 403), ("null", 403)):
            assert (await mesh.ask("GET", "/v1/services", Origin=origin)).status == status

    told(story, BEYOND)


def test_registering_needs_no_operators_token() -> None:
    async def story(mesh: ControlMesh) -> None:
        token = Tokens("shop", [SECRET]).make("orders")
        made = await mesh.ask("PUT", "/v1/services/orders/instances/pod-7", {"version": "1.0.0"}, Meshq_Token=token)
        assert made.status == 201

    told(story, BEYOND)


# --- secrets ------------------------------------------------------------------------------------------------------------------


def test_secrets_are_long_enough() -> None:
    assert parse_secrets("") == ()
    assert parse_secrets(f" {SECRET} , {'x' * 16},") == (SECRET, "x" * 16)
    with pytest.raises(ValueError, match="at least 16 characters"):
        parse_secrets(f"{SECRET},short")


def test_a_token_is_of_one_service_of_one_mesh_under_one_secret() -> None:
    tokens = Tokens("shop", [SECRET])
    token = tokens.make("orders")
    assert len(token) == 64
    assert tokens.make("orders") == token
    assert tokens.is_good("orders", token.encode())
    others = {tokens.make("billing"), Tokens("dev", [SECRET]).make("orders")}
    assert token not in others
    assert Tokens("shop", ["a newer secret ...", SECRET]).is_good("orders", token.encode())
    assert not Tokens("shop", []).is_good("orders", token.encode())
