"""A sender (`checkout`) and a receiver (`orders`), each as its app.py puts it together but without sockets, of which one can be
killed between any two things that it does. The broker, the store, the apps and the disks live on, or the whole machine's one
process dies (`meshq dev`): then what was not on its disk is lost."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.adapters.spool import DiskSpool
from meshq.calling import Caller
from meshq.core import topology
from meshq.core.callreq import Call
from meshq.core.headers import carry
from meshq.core.http import Failed, HttpRequest, HttpResponse, header
from meshq.core.instances import Service, Snapshot
from meshq.core.message import DeadLetter, Fault, Response, decode
from meshq.core.names import parse_version
from meshq.core.policy import Retry
from meshq.ports import Delivery, Publication, Published
from meshq.sending import Sender
from meshq.sending_events import Publishing
from meshq.tasks import Tasks
from meshq_sidecar.identity import Identity
from meshq_sidecar.job import Source
from meshq_sidecar.requests import Requests
from meshq_sidecar.results import Results
from meshq_sidecar.spooling import SpoolForwarder
from tests.doubles import Counted
from tests.mortal import Fuse, MortalBroker, MortalClient, MortalSpool, MortalStore
from tests.receiver import Receiver
from tests.still_disk import StillDisk
from tests.virtual_time import pass_time

VERSION = parse_version("2.1.0")
PICTURE = Snapshot(1, {"orders": Service("orders", {2: VERSION}), "checkout": Service("checkout", {2: VERSION})})
EVENT = "payments.settled.v1"
RETRY = Retry(3, (1.0, 2.0))
LEASE = 20.0
"""Of a claim on an idempotency key: the next may handle it so long after its owner died."""
STEP = 0.73
"""Seconds between two looks: not at the moment at which a delay is over, when a message is in no queue."""
LONGEST = 600.0
"""Seconds until everything is handled or dead."""


class Victim(Enum):
    SENDER = "the sender"
    RECEIVER = "the receiver"
    ALL = "everything"


class Handled(NamedTuple):
    """One request at an app."""

    service: str
    name: str
    """What the sender calls the message: its body."""
    ident: str
    key: str
    answer: HttpResponse | Failed
    headers: dict[str, str]


class App:
    """Answers what it is asked as the test has written down, and remembers it. It is not part of any sidecar."""

    def __init__(self, world: "CrashWorld", service: str) -> None:
        self._world = world
        self._service = service

    def __call__(self, request: HttpRequest, answered: Callable[[HttpResponse | Failed], None]) -> None:
        world, name = self._world, (request.body or b"").decode()
        headers = {n.decode().lower(): v.decode() for n, v in request.headers}
        count = world.count(self._service, name)
        script = world.script.get(name, [])
        answer = script[min(count, len(script) - 1)] if script else 200
        if isinstance(answer, int):
            # Each handling has an answer of its own, so that one can tell whose answer somebody got.
            answer = HttpResponse(answer, [(b"Content-Type", b"text/plain")], f"{name} {count + 1}".encode())
        ident, key = headers["meshq-message-id"], headers.get("meshq-key", "")
        world.handled.append(Handled(self._service, name, ident, key, answer, headers))
        world.later(lambda: answered(answer))


class Process:
    """One sidecar, which lives until its fuse has burnt."""

    def __init__(self, world: "CrashWorld", service: str, fuse: Fuse, number: int) -> None:
        self.fuse = fuse
        self._world = world
        self._service = service
        clock = world.clock
        self.client = world.hub.connect(service)
        self.broker = MortalBroker(self.client, fuse)
        store = MortalStore(world.store_hub.connect(), fuse)
        metrics = Counted()
        self._tasks = Tasks()
        instance = f"{service}-{number}"
        self.requests = Requests(store, service)
        host = f"{service}.mesh"
        self.results = Results(store, clock, metrics, service, host, self.requests.called, proves=True)
        self.receiver = Receiver(
            self.broker,
            store,
            clock,
            MortalClient(App(world, service), fuse),
            identity=Identity(service, VERSION, instance),
            topics=(f"{service}.v2",),
            retry=RETRY,
            lease=LEASE,
            take_result=self.results.take,
        )
        self.caller = Caller(self.broker, clock, metrics, lambda: PICTURE, service, instance)
        self.spool = self.forwarder = None
        if world.spool_path is not None and service == "checkout":
            self.spool = DiskSpool(world.spool_path, 2**20, clock)
            world.disk.add_spool(self.spool, fuse.cross)
            spool = MortalSpool(self.spool, fuse)
            who = f"{service}/2.1.0/{instance}"
            self.forwarder = SpoolForwarder(spool, self.broker, clock, metrics, f"{service}.v2", who)
        self.sender = Sender(
            self.broker,
            clock,
            metrics,
            lambda: PICTURE,
            service,
            self.caller,
            self._tasks,
            self.requests.accepted,
            has_app=True,
            spool=self.forwarder,
        )
        self._publishing = Publishing(self.sender.publish, clock, metrics, service)

    async def start(self) -> None:
        topic, work = f"{self._service}.v2", self.receiver.work
        await self.client.open()
        wanted = topology.shared() + topology.service(topic, ordered=True) + topology.results(self._service)
        work.add(Source(topology.results_queue(self._service), topic, results=True))
        work.add(Source(topology.work_queue(topic), topic))
        for p in range(topology.PARTITIONS):
            work.add(Source(topology.key_queue(topic, p), topic, ordered=True))
        if self._service == "orders":
            wanted += topology.subscription(topic, "settled", EVENT)
            work.add(Source(topology.subscription_queue(topic, "settled"), topic, path=b"/on/settled"))
        await self.client.declare(wanted)
        self.receiver.inbound.resume()
        work.resume()
        if self.forwarder is not None:
            self.forwarder.start()

    def call(self, call: Call, done: Callable[[HttpResponse], None]) -> None:
        """As the app asks its sidecar; `done` is what comes back to the app."""
        if self.fuse.cross("a request of the app"):
            respond = lambda response: done(response) if self.fuse.cross("respond") else None
            (self.caller.call if call.durable is None else self.sender.send)(call, respond)

    def publish(self, request: HttpRequest, done: Callable[[HttpResponse], None]) -> None:
        if self.fuse.cross("an event of the app"):
            respond = lambda response: done(response) if self.fuse.cross("respond") else None
            self._publishing.publish(request, carry(request.headers), request.target, respond)

    @property
    def settled(self) -> bool:
        """Nothing is on its way out of it."""
        spooled = self.spool is not None and self.spool.waiting
        return not (spooled or len(self.sender) or len(self.caller) or len(self.receiver.settler))


def immortal() -> Fuse:
    return Fuse(None, lambda: None)


class CrashWorld:
    """`crossings`: which of the victim's crossings is the first that does not happen; None: nobody dies."""

    def __init__(
        self, folder: Path, disk: StillDisk, victim: Victim, crossings: int | None, *, spool: bool = False
    ) -> None:
        self.clock = ManualClock()
        self.disk = disk
        self.victim = victim
        self.spool_path = folder / "spool" if spool else None
        self._folder = folder
        self.script: dict[str, list[int | HttpResponse]] = {}
        """By name of a message, what the app answers to it, each time; the last repeats."""
        self.handled: list[Handled] = []
        self.accepted: dict[str, str] = {}
        """By name, the id of what was answered with 202."""
        self.answers: dict[str, HttpResponse] = {}
        """By name, what a waited call was answered with."""
        self.dead: list[DeadLetter] = []
        self.sent: list[str] = []
        """Names, in the order in which they were sent."""
        self.injected: list[Published] = []
        self.died = False
        self.tasks = Tasks()
        """Of the test itself."""
        self.mortal = Fuse(crossings, self._on_death)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._processes: list[Process] = []
        self._open(self._fuse_of(Victim.ALL))

    # --- life and death -----------------------------------------------------------------------------------------------------

    def _open(self, fuse: Fuse) -> None:
        """The broker and the store: in memory where they outlive everybody."""
        lasting = self.victim is Victim.ALL
        self.hub = EmbeddedHub(self._folder / "broker.db" if lasting else None, self.clock)
        self.store_hub = EmbeddedStoreHub(self.clock, self._folder / "store.db" if lasting else None)
        if lasting:
            self.disk.add_hub(self.hub, fuse.cross)

    def _fuse_of(self, who: Victim) -> Fuse:
        """The mortal one, for whoever is to die."""
        return self.mortal if self.victim in (who, Victim.ALL) else immortal()

    @staticmethod
    def later(function: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(function)

    def _on_death(self) -> None:
        self.died = True
        # The operating system closes what it had open, a moment later.
        self.later(self._bury)

    def _bury(self) -> None:
        for process in self._processes:
            if not process.fuse.alive:
                process.client.drop("killed by the test")
                if process.spool is not None:
                    self.disk.kill_spool(process.spool)
                    process.spool = None
        if self.victim is Victim.ALL:
            self.disk.kill_hub(self.hub)
            self.disk.kill_store(self.store_hub)

    async def start(self) -> None:
        self.sender = await self._start("checkout", self._fuse_of(Victim.SENDER))
        self.receiver = await self._start("orders", self._fuse_of(Victim.RECEIVER))
        await self.hub_ready()

    async def hub_ready(self) -> None:
        self.operator = self.hub.connect("operator")
        await self.operator.open()

    async def _start(self, service: str, fuse: Fuse) -> Process:
        process = Process(self, service, fuse, len(self._processes))
        self._processes.append(process)
        await process.start()
        return process

    async def recover(self) -> None:
        """A new process in the place of the dead."""
        await pass_time(0.5)
        if self.victim is Victim.ALL:
            self._open(immortal())
        if not self.sender.fuse.alive:
            self.sender = await self._start("checkout", immortal())
        if not self.receiver.fuse.alive:
            self.receiver = await self._start("orders", immortal())
        if self.victim is Victim.ALL:
            await self.hub_ready()

    async def drain(self) -> None:
        """Until nothing waits anywhere but among the dead. Raises TimeoutError."""
        quiet = 0
        for _ in range(int(LONGEST / STEP)):
            if self.died and not (self.sender.fuse.alive and self.receiver.fuse.alive):
                await self.recover()
            await pass_time(STEP)
            names = [name for name in self.hub.queue_names if not name.endswith(".dead") and name != topology.LOST]
            left = [s for s in self.hub.stats(names) if s.ready or s.in_flight]
            quiet = 0 if left or not (self.sender.settled and self.receiver.settled) else quiet + 1
            if quiet == 3:
                self.mortal.disarm()
                return
        raise TimeoutError(f"still there: {left}")

    async def finish(self) -> None:
        for name in (*(f"meshq.{s}.v2.dead" for s in ("checkout", "orders")), topology.LOST):
            self.operator.subscribe(name, 1000, self._take_dead)
        await pass_time(1)

    async def close(self) -> None:
        """Of what still runs the event loop sees to the end."""
        for process in self._processes:
            process.fuse.alive = False
            if process.spool is not None:
                self.disk.kill_spool(process.spool)
        if self.victim is Victim.ALL:
            self.disk.kill_hub(self.hub)
            self.disk.kill_store(self.store_hub)
        else:
            await self.hub.close()

    def _take_dead(self, delivery: Delivery) -> None:
        for message in decode(delivery.body):
            assert isinstance(message, DeadLetter), f"{message} lies in {delivery.queue}"
            self.dead.append(message)
        delivery.ack()

    # --- what happens -------------------------------------------------------------------------------------------------------

    def count(self, service: str, name: str) -> int:
        """How often it was handled before."""
        self._counts[service, name] += 1
        return self._counts[service, name] - 1

    def send(self, name: str, call: Call) -> None:
        """Its body is its name, if it has none."""
        self.sent.append(name)
        body = call.body or name.encode()
        self.sender.call(call._replace(body=body), lambda response: self._on_answer(name, response))

    def emit(self, name: str, *headers: tuple[bytes, bytes]) -> None:
        self.sent.append(name)
        request = HttpRequest(b"POST", b"/v1/publish/payments.settled@1", list(headers), name.encode())
        self.sender.publish(request, lambda response: self._on_answer(name, response))

    def inject(self, publication: Publication) -> None:
        """What another publisher sends; `injected` is what became of it, if he was told."""
        self.operator.publish(publication, self.injected.append)

    def _on_answer(self, name: str, response: HttpResponse) -> None:
        assert name not in self.answers, "answered twice"
        self.answers[name] = response
        if response.status == 202:
            ident = header(response.headers, b"meshq-message-id")
            assert ident is not None
            self.accepted[name] = ident.decode()

    async def result(self, name: str) -> Response | Fault | None:
        """What `GET /v1/requests/<id>` has to answer with."""
        record = await self.store_hub.connect().request("checkout", self.accepted[name])
        if record is None or record.result is None:
            return None
        (message,) = decode(record.result)
        assert isinstance(message, Response | Fault)
        return message

    def times(self, name: str, service: str = "orders") -> int:
        return self._counts[service, name]

    def by_key(self) -> dict[str, list[tuple[str, bool]]]:
        """By ordering key, what was handled, in order, and whether that was the end of it."""
        found: dict[str, list[tuple[str, bool]]] = defaultdict(list)
        for each in self.handled:
            if each.key:
                last = each.headers["meshq-attempt"] == str(RETRY.attempts)
                ended = last or (isinstance(each.answer, HttpResponse) and each.answer.status < 500)
                found[each.key].append((each.name, ended))
        return found
