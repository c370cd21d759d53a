"""Publishers and subscribers for the event suite: the sidecar's own parts over a broker of the suite, and an app that answers as
the test says."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.core import names, topology
from meshq.core.events import parse_event
from meshq.core.headers import carry
from meshq.core.http import Failed, Headers, HttpRequest, HttpResponse
from meshq.core.names import parse_version
from meshq.core.policy import Retry
from meshq.core.subscription_parsing import parse
from meshq.core.subscriptions import Subscription
from meshq.ports import Broker, Store
from meshq.sending_events import Publishing
from meshq.sending_handover import Handover
from meshq_sidecar.counting import WorkCounts
from meshq_sidecar.gate import Gate
from meshq_sidecar.identity import Identity
from meshq_sidecar.local_app import LocalApp
from meshq_sidecar.once import OncePerKey
from meshq_sidecar.own_policy import OwnPolicy
from meshq_sidecar.settling import Settler
from meshq_sidecar.subscriptions import Subscriptions
from meshq_sidecar.work import Work
from tests.contract.broker_rigs import SECONDS, BrokerRig, Recorder
from tests.doubles import Counted

OK = HttpResponse(200, [], b"")


class Posted(NamedTuple):
    """One event as the app got it."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes | None
    instance: str


class AnsweringApp:
    """`ports.HttpClient`: an app that answers each event as the test says, the next turn of the loop."""

    def __init__(self, instance: str, posted: Recorder[Posted]) -> None:
        self._instance = instance
        self._posted = posted
        self.answer: Callable[[Posted], HttpResponse | Failed | None] = lambda _: OK
        """None: not yet; the test calls what is in `open`."""
        self.open: list[tuple[Posted, Callable[[HttpResponse | Failed], None]]] = []

    def request(
        self, request: HttpRequest, timeout: float, done: Callable[[HttpResponse | Failed], None]
    ) -> Callable[[], None]:
        assert request.method == b"POST"
        headers = {name.decode().lower(): value.decode() for name, value in request.headers}
        posted = Posted(request.target.decode(), headers, request.body, self._instance)
        answer = self.answer(posted)
        if answer is None:
            self.open.append((posted, done))
        else:
            asyncio.get_running_loop().call_soon(done, answer)
        self._posted(posted)
        return lambda: None

    async def close(self) -> None: ...


class Member:
    """One instance: what its sidecar has for events. `posted` records what its app got, for several of them in one."""

    def __init__(
        self,
        broker: Broker,
        store: Store,
        service: str,
        instance: str,
        posted: Recorder[Posted],
        version: str = "1.0.0",
    ) -> None:
        self.broker = broker
        self.store = store
        clock, self.metrics = SystemClock(), Counted()
        self.clock = clock
        identity = Identity(service, parse_version(version), instance)
        self.topic = names.topic(service, identity.version.major)
        self.app = AnsweringApp(instance, posted)
        local = LocalApp(self.app, clock, self.metrics, Gate(16), "", 10.0, lambda: None, WorkCounts())
        once = OncePerKey(store, clock, self.metrics, str(identity), 60.0)
        settler = Settler(broker, clock, self.metrics, str(identity), lambda: self.work.check_idle())
        self.work = Work(
            broker,
            local,
            clock,
            self.metrics,
            identity,
            20,
            OwnPolicy(lambda: None, Retry(3, (1.0,)), proves=broker.user == service),
            settler,
            once,
            store,
            lambda *_: None,
            lambda *_: None,
            lambda: 0.0,
        )
        self.subscriptions = Subscriptions(broker, store, clock, self.work, self.topic, instance)
        self._once = once
        self.publishing = Publishing(Handover(broker, clock, lambda _: None).publish, clock, self.metrics, service)

    async def open(self, *subscriptions: Subscription, log: tuple[str, ...] = ()) -> "Member":
        await self.broker.declare(topology.shared() + topology.dead(self.topic))
        await self.subscriptions.open(subscriptions, [parse_event(event) for event in log])
        self.work.resume()
        return self

    async def close(self) -> None:
        """As a sidecar that is stopped: what it copied another may go on with at once."""
        await self.subscriptions.close()
        await self.die()

    async def die(self) -> None:
        """As one that is killed, as far as others can see."""
        self.work.stop()
        await self.work.close()
        await self._once.close()
        await self.broker.close()

    async def publish(self, event: str, body: bytes | None = b"{}", **headers: str) -> HttpResponse:
        """`ce_type="x"` is the field `ce-type: x`."""
        fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return await self.post(event, body, fields)

    async def publish_batch(self, event: str, events: list[Any], **headers: str) -> HttpResponse:
        body = json.dumps(events).encode()
        return await self.publish(event, body, content_type="application/cloudevents-batch+json", **headers)

    async def post(self, event: str, body: bytes | None, headers: Headers, method: bytes = b"POST") -> HttpResponse:
        request = HttpRequest(method, f"/v1/publish/{event}".encode(), headers, body)
        answer: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
        self.publishing.publish(request, carry(headers), request.target, answer.set_result)
        async with asyncio.timeout(SECONDS):
            return await answer


class Mesh:
    """Members over one broker and one store; all that their apps got is in `posted`."""

    def __init__(self, rig: BrokerRig) -> None:
        self.rig = rig
        self.posted = Recorder[Posted]()
        self._store = EmbeddedStoreHub(SystemClock())
        self._members: list[Member] = []

    async def member(
        self,
        service: str,
        instance: str,
        *subscriptions: Subscription,
        log: tuple[str, ...] = (),
        version: str = "1.0.0",
    ) -> Member:
        store = self._store.connect()
        await store.open()
        member = Member(await self.rig.connect(), store, service, instance, self.posted, version)
        self._members.append(member)
        return await member.open(*subscriptions, log=log)

    async def close(self) -> None:
        for member in self._members:
            await member.close()
        await self._store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def subscription(
    name: str = "settled", event: str = "payments.settled", path: str = "/on/settled", mode: str = "shared", **more: Any
) -> Subscription:
    """`start` stands for `from`, which is a word of Python."""
    if "start" in more:
        more["from"] = more.pop("start")
    key = "events" if "*" in event or "#" in event else "event"
    return parse({key: event, "path": path, "mode": mode, **more}, name)


def numbers(posted: list[Posted]) -> list[int]:
    """What was published as its number."""
    return [int(each.body or b"-1") for each in posted]
