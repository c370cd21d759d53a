"""A whole sidecar, in this process on the embedded broker, and an app that reaches it over links."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.core.http import HttpRequest, HttpResponse
from meshq.linking import LinkExchange
from meshq.sdk.link_transport import LinkWay
from meshq.sdk.problem import Problem
from meshq.sdk.reach import Reach
from meshq.sdk.transport import NoLink, NotSent, Transport
from meshq.settings import load, with_instance
from meshq_sidecar.app import Sidecar
from tests.doubles import until
from tests.http_tools import LOOPS, PATIENCE, Handler, connected, serving, within
from tests.link_rig import GET, Served, ok
from tests.servers.processes import free_port

ASK = b"GET /v1/link HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: meshq-link/1\r\n"


class World:
    """The sidecar of `orders`, which has no port unless `settings` say so."""

    def __init__(self, **settings: str) -> None:
        self.port = free_port()
        self._variables = {
            "MESHQ_SERVICE": "orders",
            "MESHQ_SERVICE_VERSION": "2.0.0",
            "MESHQ_BROKER_URL": "embedded:",
            "MESHQ_REGISTRY_URL": "embedded:",
            "MESHQ_PORT": str(self.port),
            "MESHQ_ADMIN_PORT": str(free_port()),
            "MESHQ_DNS_PORT": str(free_port()),
            "MESHQ_DRAIN_TIMEOUT": "5s",
            **{f"MESHQ_{name.upper()}": value for name, value in settings.items()},
        }
        clock = SystemClock()
        self._hub = EmbeddedHub(None, clock)
        self.gate = asyncio.Event()
        """The broker can be reached."""
        self.gate.set()
        given = with_instance(load(self._variables))
        broker = Late(self._hub.connect("orders"), self.gate)
        registry, store = EmbeddedRegistryHub(clock).connect(), EmbeddedStoreHub(clock).connect()
        self.sidecar = Sidecar(given, broker, registry, store, clock)  # type: ignore[arg-type]
        self._ways: list[LinkWay] = []

    async def link(self, handle: Callable[[LinkExchange], None] | None = None, token: str = "") -> LinkWay:
        way = LinkWay(Reach("127.0.0.1", self.port, token), handle)
        await way.open()
        self._ways.append(way)
        return way

    async def self(self, way: LinkWay) -> dict[str, Any]:
        answer = await way.ask(HttpRequest(b"GET", b"/v1/self", [], None), PATIENCE)
        found: dict[str, Any] = json.loads(answer.body)
        return found

    async def known(self) -> None:
        """Its own picture of the mesh shows it as one that serves and is ready: calls to it find it."""
        await until(lambda: self.state == "ready" and self._pictured())

    def _pictured(self) -> bool:
        service = self.sidecar.pictures.picture.services.get("orders")
        return service is not None and any(each.majors for each in service.instances)

    async def serving(self, handle: Callable[[LinkExchange], None]) -> LinkWay:
        """A link that takes messages, once they come."""
        way = await self.link(handle)
        await self.known()
        return way

    @property
    def state(self) -> str:
        return str(self.sidecar.membership.instance.state.value)

    async def close(self) -> None:
        await self.sidecar.stop()
        for way in self._ways:
            await way.close()
        await self._hub.close()


class Late:
    """`ports.Broker` whose `open` waits for the gate."""

    def __init__(self, broker: Any, gate: asyncio.Event) -> None:
        self._broker = broker
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def open(self) -> None:
        await self._gate.wait()
        await self._broker.open()


@asynccontextmanager
async def running(**settings: str) -> AsyncIterator[World]:
    world = World(**settings)
    await world.sidecar.start()
    try:
        yield world
    finally:
        await world.close()


def scene(story: Callable[[], Awaitable[None]], loop: str = "uvloop") -> None:
    async def told() -> None:
        async with asyncio.timeout(2 * PATIENCE):
            await story()

    LOOPS[loop](told())


def call(path: bytes = b"/x", body: bytes | None = b"") -> HttpRequest:
    return HttpRequest(b"POST", b"/v1/call/orders" + path, [], body)


def answering(exchange: LinkExchange) -> None:
    exchange.respond(ok(exchange.request.target))


# --- an app without a port ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_an_app_without_a_port_serves_from_its_first_link_on(loop: str) -> None:
    async def story() -> None:
        async with running(serves="1,2") as world:
            caller = await world.link()
            found = await world.self(caller)
            assert (found["topics"], found["links"], found["capacity"]) == ([], 1, 0)
            assert world.sidecar.membership.instance.majors == ()
            put = HttpRequest(b"PUT", b"/v1/subscriptions/a", [(b"Meshq-Api", b"1")], b'{"event": "a.b", "path": "/a"}')
            assert (await caller.ask(put, PATIENCE)).status == 400
            worker = await world.link(answering)
            assert (await caller.ask(put, PATIENCE)).status in (201, 202)
            await world.known()
            assert (await caller.ask(call(), PATIENCE)).body == b"/x"
            found = await world.self(caller)
            assert (found["topics"], found["links"], found["state"]) == (["orders.v1", "orders.v2"], 2, "ready")
            assert world.sidecar.membership.instance.majors == (1, 2)

            worker.leave()
            await worker.gone()
            await until(lambda: world.state == "unhealthy")
            waiting = asyncio.ensure_future(caller.ask(call(b"/later"), PATIENCE))
            found = await world.self(caller)
            assert (found["links"], found["consuming"], found["inFlight"]) == (1, False, 0)
            await world.link(answering)
            assert (await waiting).body == b"/later"
            assert world.state == "ready"

    scene(story, loop)


def test_a_link_opened_while_the_sidecar_starts() -> None:
    async def story() -> None:
        world = World()
        world.gate.clear()
        starting = asyncio.ensure_future(world.sidecar.start())
        served = Served()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await world.link(served)
                    break
                except OSError:  # it does not listen yet
                    await asyncio.wait({starting}, timeout=0.01)
        assert not starting.done()
        world.gate.set()
        await starting
        await world.known()
        caller = await world.link()
        answer = asyncio.ensure_future(caller.ask(call(), PATIENCE))
        await until(lambda: served.asked)
        served.asked[0].respond(ok())
        assert (await answer).status == 200
        probing = [
            task for task in asyncio.all_tasks() if task.get_name() in ("serve the app's links", "probe the app")
        ]
        assert len(probing) == 1
        await world.close()

    scene(story)


def test_a_link_that_is_gone_before_it_could_be_served() -> None:
    async def story() -> None:
        world = World()
        world.gate.clear()
        starting = asyncio.ensure_future(world.sidecar.start())
        await until(lambda: world.sidecar._listening._server._listeners)  # type: ignore[attr-defined]
        gone = await world.link(answering)
        await gone.close()
        world.gate.set()
        await starting
        await until(lambda: world.sidecar.health.reason == "the app has no link open")
        assert world.state == "starting"
        caller = await world.serving(answering)
        assert (await caller.ask(call(), PATIENCE)).status == 200
        await world.close()

    scene(story)


def test_it_stops_while_a_link_is_being_taken_up() -> None:
    async def story() -> None:
        world = World()
        await world.sidecar.start()
        way = await world.link(answering)
        await world.close()
        await within(way.gone())

    scene(story)


# --- several, and a port ----------------------------------------------------------------------------------------------------------------


def test_workers_share_the_work_and_one_may_leave() -> None:
    async def story() -> None:
        async with running(app_concurrency="8") as world:
            one, two = Served(), Served()
            leaving = await world.serving(one)
            await world.link(two)
            caller = await world.link()
            calls = [asyncio.ensure_future(caller.ask(call(), PATIENCE)) for _ in range(8)]
            await until(lambda: len(one.asked) + len(two.asked) == 8)
            assert len(one.asked) == len(two.asked) == 4
            leaving.leave()
            for exchange in one.asked + two.asked:
                exchange.respond(ok())
            assert [answer.status for answer in await asyncio.gather(*calls)] == [200] * 8
            await within(leaving.gone())
            last = asyncio.ensure_future(caller.ask(call(), PATIENCE))
            await until(lambda: len(two.asked) == 5)
            two.asked[4].respond(ok())
            assert (await last).status == 200
            assert world.state == "ready"

    scene(story)


def test_a_link_goes_before_the_port_and_the_port_has_it_again_after() -> None:
    async def story() -> None:
        handler = Handler()
        async with serving(handler) as (_, port), running(app_port=str(port)) as world:
            caller = await world.link()

            async def by_port(count: int) -> None:
                asking = asyncio.ensure_future(caller.ask(call(), PATIENCE))
                await handler.asked(count)
                handler.answer(count - 1, b"port")
                assert (await asking).body == b"port"

            await by_port(1)
            worker = await world.link(answering)
            assert (await caller.ask(call(), PATIENCE)).body == b"/x"
            await worker.close()
            await by_port(2)
            await until(lambda: world.state == "ready")

    scene(story)


# --- the end ----------------------------------------------------------------------------------------------------------------------------


def test_draining_takes_nothing_new_and_finishes_what_links_have() -> None:
    async def story() -> None:
        async with running() as world:
            served = Served()
            worker = await world.serving(served)
            caller = await world.link()
            first = asyncio.ensure_future(caller.ask(call(b"/first"), PATIENCE))
            await until(lambda: served.asked)
            drain = HttpRequest(b"POST", b"/v1/self/drain", [(b"Meshq-Api", b"1")], None)
            answer = await worker.ask(drain, PATIENCE)
            assert (answer.status, json.loads(answer.body)["inFlight"]) == (202, 1)
            late = asyncio.ensure_future(caller.ask(HttpRequest(b"POST", b"/v1/call/orders/late", [(b"Meshq-Timeout", b"1s")], b""), PATIENCE))  # fmt: skip
            ending = asyncio.ensure_future(world.sidecar.drain())
            assert (await late).status == 504
            assert len(served.asked) == 1
            # A handler that finishes may still ask: the sidecar has said no goodbye yet.
            assert (await worker.ask(HttpRequest(b"GET", b"/v1/services", [], None), PATIENCE)).status == 200
            served.asked[0].respond(ok(b"done"))
            assert (await first).body == b"done"
            await within(ending)
            await within(asyncio.gather(worker.gone(), caller.gone()))
            with pytest.raises(NotSent):
                await worker.ask(GET, PATIENCE)

    scene(story)


def test_what_a_sidecar_that_leaves_was_asked_it_answers_though_more_is_asked() -> None:
    """The next request waits for another sidecar; the link that has those before it is not closed for its sake."""

    async def story() -> None:
        async with running() as world:
            worker = await world.serving(answering)
            await worker.close()
            reach = Reach("127.0.0.1", world.port, health_timeout=2)
            transport = Transport(reach, lambda: LinkWay(reach, None), lambda: LinkWay(reach, None))
            waits = call()._replace(headers=[(b"Meshq-Timeout", b"1500ms")])
            first = asyncio.ensure_future(transport.ask(waits, PATIENCE))
            await until(lambda: len(world.sidecar.caller) == 1)
            ending = asyncio.ensure_future(world.sidecar.drain())
            await until(lambda: transport.way is None)
            with pytest.raises(Problem, match="unavailable"):
                await transport.ask(waits, PATIENCE)
            assert (await first).status == 504
            await within(ending)
            await transport.close()

    scene(story)


def test_a_call_that_waits_is_answered_before_the_links_are_closed() -> None:
    async def story() -> None:
        async with running() as world:
            caller = await world.link()
            request = HttpRequest(b"GET", b"/v1/call/nobody/", [(b"Meshq-Timeout", b"700ms")], None)
            waiting = asyncio.ensure_future(caller.ask(request, PATIENCE))
            await caller.ask(HttpRequest(b"GET", b"/v1/self", [], None), PATIENCE)
            ending = asyncio.ensure_future(world.sidecar.drain())
            assert (await waiting).status in (404, 504)
            await within(ending)

    scene(story)


# --- who may open one, and where --------------------------------------------------------------------------------------------------------


async def asked(port: int, head: bytes) -> bytes:
    """The status line of the answer to `head`."""
    async with connected(port) as peer:
        peer.send(head + b"\r\n")
        first, _ = await peer.head()
        return first


def test_who_may_open_a_link() -> None:
    async def story() -> None:
        async with running(api_token="secret-of-16-chars") as world:
            token = b"Meshq-Token: secret-of-16-chars\r\n"
            assert b" 101 " in await asked(world.port, ASK + token)
            assert b" 403 " in await asked(world.port, ASK)
            assert b" 403 " in await asked(world.port, ASK + token + b"Origin: https://evil.example\r\n")
            assert b" 101 " in await asked(world.port, ASK.replace(b"localhost", b"127.0.0.1:3600") + token)
            assert b" 421 " in await asked(world.port, ASK.replace(b"localhost", b"evil.example") + token)
            assert b" 405 " in await asked(world.port, ASK.replace(b"GET", b"POST") + token)
            with pytest.raises(NoLink, match="403"):
                await world.link(token="another")
            way = await world.link(token="secret-of-16-chars")
            assert (await way.ask(HttpRequest(b"GET", b"/v1/self", [], None), PATIENCE)).status == 403  # each says it
            shown = HttpRequest(b"GET", b"/v1/self", [(b"Meshq-Token", b"secret-of-16-chars")], None)
            assert (await way.ask(shown, PATIENCE)).status == 200

    scene(story)


def test_elsewhere_upgrade_is_ignored() -> None:
    """By the Host of a service, and on intercepted and host ports, /v1/link is a path of that service's app."""

    async def story() -> None:
        intercepted, named = free_port(), free_port()
        async with running(intercept=f"{intercepted}=orders", host_ports=str(named)) as world:
            await world.serving(answering)
            by_mesh_host = ASK.replace(b"localhost", b"orders.mesh")
            assert b" 200 " in await asked(world.port, by_mesh_host)
            assert b" 200 " in await asked(named, by_mesh_host)
            assert b" 200 " in await asked(intercepted, ASK)
            assert b" 421 " in await asked(named, ASK)

    scene(story)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HttpRequest(b"GET", b"/v1/self", [(b"Host", b"evil.example")], None), 421),
        (HttpRequest(b"GET", b"/v1/self", [(b"Origin", b"https://evil.example")], None), 403),
        (HttpRequest(b"GET", b"http://orders.mesh/x", [], None), 400),
        (HttpRequest(b"CONNECT", b"/", [], None), 421),
        (HttpRequest(b"POST", b"/v1/self/drain", [], None), 403),
        (HttpRequest(b"GET", b"/v1/link", [(b"Connection", b"Upgrade"), (b"Upgrade", b"meshq-link/1")], None), 503),
        (HttpRequest(b"GET", b"/", [(b"Host", b"orders.mesh")], None), 200),
        (HttpRequest(b"GET", b"/v1/call/orders/x", [(b"Host", b"localhost"), (b"host", b"evil.example")], None), 400),
        (HttpRequest(b"GET", b"/v1/call/orders/x\r\nEvil: 1", [], None), 400),
        (HttpRequest(b"GET", b"/v1/call/orders/x", [(b"A", b"b\r\nEvil: 1")], None), 400),
        (HttpRequest(b"PUT", b"/v1/call/orders/x", [], bytes(4 * 2**20 + 1)), 413),
        (HttpRequest(b"PUT", b"/v1/call/orders/x", [], bytes(17 * 2**20)), 413),
    ],
)
def test_a_request_over_a_link_may_do_what_one_over_http_may(request_: HttpRequest, status: int) -> None:
    async def story() -> None:
        async with running() as world:
            await world.serving(answering)
            caller = await world.link()
            assert (await caller.ask(request_, PATIENCE)).status == status
            assert (await caller.ask(call(), PATIENCE)).status == 200

    scene(story)


def test_what_the_mesh_says_nobody_else_can_say_over_a_link() -> None:
    async def story() -> None:
        served = Served()
        async with running() as world:
            await world.serving(served)
            caller = await world.link()
            fields = [(b"Meshq-Caller", b"admin"), (b"Connection", b"x-a"), (b"X-A", b"1"), (b"Content-Length", b"9")]
            request = HttpRequest(b"POST", b"/v1/call/orders/x", [*fields, (b"Transfer-Encoding", b"chunked")], b"body")
            asking = asyncio.ensure_future(caller.ask(request, PATIENCE))
            await until(lambda: served.asked)
            seen = [name.lower() for name, _ in served.asked[0].request.headers]
            assert not {b"connection", b"x-a", b"content-length", b"transfer-encoding"} & set(seen)
            assert (b"Meshq-Caller", b"admin") not in served.asked[0].request.headers
            assert served.asked[0].request.body == b"body"
            served.asked[0].respond(HttpResponse(200, [(b"Connection", b"close"), (b"Keep-Alive", b"1")], b""))
            answer = await asking
            assert not {b"connection", b"keep-alive"} & {name.lower() for name, _ in answer.headers}

    scene(story)


def test_bodies_over_the_limit_in_both_directions() -> None:
    async def story() -> None:
        async with running(max_body="1000") as world:
            await world.serving(lambda exchange: exchange.respond(ok(bytes(len(exchange.request.body or b"") + 1))))
            caller = await world.link()
            assert (await caller.ask(call(body=bytes(999)), PATIENCE)).status == 200
            assert (await caller.ask(call(body=bytes(1000)), PATIENCE)).status == 502
            assert (await caller.ask(call(body=bytes(1001)), PATIENCE)).status == 413

    scene(story)


def test_a_sidecar_that_is_gone_is_an_error_at_once() -> None:
    async def story() -> None:
        async with running() as world:
            way = await world.link()
            waits = HttpRequest(b"GET", b"/v1/self/drain/wait?timeout=30s", [], None)
            waiting = asyncio.ensure_future(way.ask(waits, PATIENCE))
            await world.self(way)
            assert len(way.descriptors) == 1
            await world.sidecar._app.close()
            with pytest.raises(Problem, match="the link broke before the answer came"):
                await waiting
            assert not way.usable
            with pytest.raises(NotSent):
                await way.ask(waits, PATIENCE)

    scene(story)
