"""The app's calls out: by which way ever, one that nobody waits for goes to the sender, any other to the caller; and the
sidecar's own API is changed by nobody who only fetches a URL."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from meshq.core.callreq import Call, Durable
from meshq.core.headers import Carried
from meshq.core.http import Headers, HttpResponse
from meshq.core.selectors import parse_address
from meshq.ports import Exchange
from meshq_sidecar.api import Api, Handlers
from meshq_sidecar.outbound import Outbound
from tests.one_exchange import OneExchange, field

ASYNC = (b"Prefer", b"respond-async")
API = (b"Meshq-Api", b"1")


class Sent:
    """Takes calls and answers none."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.given_up = 0

    def take(self, call: Call, done: Callable[[HttpResponse], None]) -> Callable[[], None]:
        self.calls.append(call)
        return self._give_up

    call = send = take

    def _give_up(self) -> None:
        self.given_up += 1


class World:
    def __init__(self, token: str = "") -> None:
        self.caller, self.sender = Sent(), Sent()
        self.handled: list[tuple[str, bytes]] = []
        handlers = Handlers(*(self._handler(name) for name in Handlers._fields))
        api = Api(handlers, has_token=bool(token))
        self.outbound = Outbound(
            self.caller,  # type: ignore[arg-type]
            self.sender,  # type: ignore[arg-type]
            api.handle,
            lambda *_: None,
            domain="mesh",
            token=token,
            intercept={8081: parse_address("billing@1")},
            passthrough=(),
            captured={"orders": "orders", "orders.shop": "orders"}.get,
        )

    def _handler(self, name: str) -> Callable[[Exchange, Carried, bytes], None]:
        def handle(exchange: Exchange, carried: Carried, target: bytes) -> None:
            self.handled.append((name, target))
            exchange.respond(HttpResponse(200, []))

        return handle

    def ask(self, method: str, target: str, headers: Headers | None = None, port: int | None = None) -> OneExchange:
        exchange = OneExchange(method, target, headers, b"body")
        (self.outbound.handle if port is None else self.outbound.handle_intercepted(port))(exchange)
        return exchange

    def answer(self, method: str, target: str, *headers: tuple[bytes, bytes]) -> HttpResponse:
        return asyncio.run(self.ask(method, target, [*headers]).answer())


@pytest.mark.parametrize(
    ("target", "host", "port", "service"),
    [
        ("/v1/call/orders@2/a?b", b"localhost:3600", None, "orders@2"),
        ("/a?b", b"v2.orders.mesh", None, "orders@2"),
        ("http://v2.orders.mesh/a?b", b"v2.orders.mesh", None, "orders@2"),
        ("/a?b", b"localhost:8081", 8081, "billing@1"),
    ],
)
def test_by_every_way_in_a_call_may_be_durable(target: str, host: bytes, port: int | None, service: str) -> None:
    world = World()
    waited = world.ask("POST", target, [(b"Host", host)], port)
    durable = world.ask("POST", target, [(b"Host", host), ASYNC, (b"Meshq-Delay", b"1s")], port)
    assert [(call.address, call.target, call.durable) for call in world.caller.calls + world.sender.calls] == [
        (parse_address(service), b"/a?b", None),
        (parse_address(service), b"/a?b", Durable(delay=1)),
    ]
    waited.hang_up()
    durable.hang_up()
    assert (world.caller.given_up, world.sender.given_up) == (1, 1)


class TestNamed:
    """The ports of MESHQ_HOST_PORTS."""

    def ask(
        self, target: str, *headers: tuple[bytes, bytes], method: str = "GET", token: str = ""
    ) -> tuple[World, OneExchange]:
        world, exchange = World(token), OneExchange(method, target, [*headers], b"")
        world.outbound.handle_named(exchange)
        return world, exchange

    @pytest.mark.parametrize(
        ("target", "host", "service"),
        [
            ("/a?b", b"orders.mesh", "orders"),
            ("/a?b", b"V2.Orders.Mesh:8080", "orders@2"),
            ("/a?b", b"orders.localhost:80", "orders"),
            ("/a?b", b"orders", "orders"),
            ("/a?b", b"ORDERS.shop.:80", "orders"),
            ("http://orders.shop/a?b", b"orders.shop", "orders"),
        ],
    )
    def test_a_service_by_its_name(self, target: str, host: bytes, service: str) -> None:
        world, _ = self.ask(target, (b"Host", host), token="secret")
        (call,) = world.caller.calls
        assert (call.address, call.target) == (parse_address(service), b"/a?b")
        assert (b"Host", host) in call.headers

    @pytest.mark.parametrize(
        ("target", "host", "code"),
        [
            ("/v1/self", b"localhost", "misdirected"),
            ("/v1/self", b"127.0.0.1:80", "misdirected"),
            ("/", b"billing.shop", "misdirected"),
            ("/", b"evil.example", "misdirected"),
            ("/", b"", "misdirected"),
            ("http://evil.example/", b"evil.example", "misdirected"),
            ("https://orders.shop/", b"orders.shop", "misdirected"),
            ("http://[/", b"orders.shop", "bad-request"),
            ("/", b"a_b.mesh", "bad-address"),
        ],
    )
    def test_nobody_else(self, target: str, host: bytes, code: str) -> None:
        world, exchange = self.ask(target, (b"Host", host))
        assert field(exchange.responses[0], "meshq-error") == code
        assert not world.caller.calls

    def test_no_tunnel(self) -> None:
        _, exchange = self.ask("orders.mesh:80", (b"Host", b"orders.mesh"), method="CONNECT")
        assert exchange.responses[0].status == 421

    @pytest.mark.parametrize(
        ("origin", "status"),
        [
            (b"http://evil.example", 403),
            (b"null", 403),
            (b"https://orders.shop", 403),
            (b"http://orders.shop:80", None),
        ],
    )
    def test_pages_of_the_mesh_only(self, origin: bytes, status: int | None) -> None:
        world, exchange = self.ask("/", (b"Host", b"orders.mesh"), (b"Origin", origin))
        assert [response.status for response in exchange.responses] == ([] if status is None else [status])
        assert len(world.caller.calls) == (status is None)


def test_a_page_from_elsewhere_may_not_call_an_intercepted_port_either() -> None:
    world = World()
    exchange = world.ask("POST", "/", [(b"Host", b"localhost:8081"), (b"Origin", b"http://evil.example")], port=8081)
    assert [response.status for response in exchange.responses] == [403]
    assert not world.caller.calls


@pytest.mark.parametrize("target", ["/a?b", "http://orders.shop/a?b"])
def test_captured_names_are_taken_on_the_sidecars_own_port_too(target: str) -> None:
    world = World()
    world.ask("GET", target, [(b"Host", b"orders.shop")])
    (call,) = world.caller.calls
    assert (call.address, call.target) == (parse_address("orders"), b"/a?b")


def test_a_bad_field_is_answered() -> None:
    answer = World().answer("POST", "/v1/call/orders/", ASYNC, (b"Meshq-Delay", b"soon"))
    assert (answer.status, field(answer, "meshq-error")) == (400, "bad-header")


@pytest.mark.parametrize(
    ("method", "target", "handler"),
    [
        ("POST", "/v1/publish/a.b@1?c", "publish"),
        ("GET", "/v1/requests/abc", "requests"),
        ("DELETE", "/v1/requests/abc", "requests"),
        ("GET", "/v1/subscriptions", "subscriptions"),
        ("PUT", "/v1/subscriptions/a", "subscriptions"),
        ("POST", "/v1/self/drain", "drain"),
        ("GET", "/v1/self/drain/wait?timeout=1s", "drain_wait"),
    ],
)
def test_each_path_has_its_handler(method: str, target: str, handler: str) -> None:
    world = World()
    assert world.answer(method, target, API).status == 200
    assert world.handled == [(handler, target.encode())]


CHANGES = [
    ("DELETE", "/v1/requests/abc"),
    ("PUT", "/v1/subscriptions/a"),
    ("DELETE", "/v1/subscriptions/a"),
    ("POST", "/v1/self/drain"),
    ("POST", "/v1/self/pause"),
    ("PATCH", "/v1/self"),
]


@pytest.mark.parametrize(("method", "target"), CHANGES)
@pytest.mark.parametrize("headers", [(), ((b"Meshq-Api", b"0"),), ((b"Meshq-Token", b"anything"),)])
def test_the_sidecar_is_not_changed_by_the_way(method: str, target: str, headers: tuple[Any, ...]) -> None:
    world = World()
    answer = world.answer(method, target, *headers)
    assert (answer.status, field(answer, "meshq-error")) == (403, "denied")
    assert "Meshq-Api: 1" in json.loads(answer.body)["detail"]
    assert not world.handled


@pytest.mark.parametrize(("method", "target"), CHANGES)
def test_where_there_is_a_token_it_is_enough_and_needed(method: str, target: str) -> None:
    world = World(token="secret")
    assert world.answer(method, target, API).status == 403
    assert world.answer(method, target, (b"Meshq-Token", b"secret")).status != 403


def test_what_is_read_and_what_is_sent_needs_no_such_field() -> None:
    world = World()
    for method, target in [
        ("GET", "/v1/self"),
        ("HEAD", "/v1/services"),
        ("GET", "/v1/requests/abc"),
        ("POST", "/v1/publish/a"),
    ]:
        assert world.answer(method, target).status == 200, target


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("GET", "/v1/self/drain", "POST"),
        ("POST", "/v1/self/drain/wait", "GET, HEAD"),
        ("DELETE", "/v1/services", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_has_not(method: str, target: str, allow: str) -> None:
    answer = World().answer(method, target, API)
    assert (answer.status, field(answer, "allow")) == (405, allow)


@pytest.mark.parametrize("target", ["/", "/v1", "/v1/", "/v1/requests", "/v1/subscriptionsx", "/v1/self/x", "/v2/self"])
def test_a_path_that_is_none(target: str) -> None:
    answer = World().answer("GET", target)
    assert (answer.status, field(answer, "content-type")) == (404, "application/problem+json")
