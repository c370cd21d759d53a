"""Puts one sidecar together, in the order in which things depend on each other; stopping reads as the reverse."""

import asyncio
import logging
import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from meshq.adapters.dns import DnsServer, Forwarder, system_resolv_conf
from meshq.adapters.http_client import Client
from meshq.adapters.http_probe import probe
from meshq.adapters.http_server import Limits as HttpLimits
from meshq.adapters.http_server import Server
from meshq.adapters.metrics import CONTENT_TYPE, PrometheusMetrics
from meshq.adapters.picture_file import PictureFile, cache_folder
from meshq.adapters.spool import DiskSpool
from meshq.calling import Caller
from meshq.core import names, topology
from meshq.core.instances import Load
from meshq.core.policy import Policy
from meshq.core.reports import Report, bounded
from meshq.core.resolv import DNS_PORT, upstream
from meshq.core.topology import Topology
from meshq.ports import Broker, BrokerState, Clock, Registry, Store
from meshq.sending import Sender
from meshq.sending_events import Publishing
from meshq.settings import Settings
from meshq.tasks import Tasks
from meshq.waking import Waking
from meshq_sidecar.admin import Admin
from meshq_sidecar.api import Api, Handlers
from meshq_sidecar.backlog import Backlog
from meshq_sidecar.capacity import Capacity, prefetch_of
from meshq_sidecar.counting import WorkCounts
from meshq_sidecar.drain import Drain
from meshq_sidecar.easing import Easing
from meshq_sidecar.gate import Gate
from meshq_sidecar.health import Health, Probed
from meshq_sidecar.identity import Identity
from meshq_sidecar.inbound import Inbound
from meshq_sidecar.job import Source
from meshq_sidecar.links import Links
from meshq_sidecar.listening import Listening, has_ipv6_loopback
from meshq_sidecar.local_app import LocalApp
from meshq_sidecar.naming import Naming, zone_of
from meshq_sidecar.once import LEASE_MARGIN, OncePerKey
from meshq_sidecar.outbound import Outbound
from meshq_sidecar.own_policy import OwnPolicy
from meshq_sidecar.passthrough import PassThrough
from meshq_sidecar.place import Place
from meshq_sidecar.requests import Requests
from meshq_sidecar.results import Results
from meshq_sidecar.self_api import SelfApi
from meshq_sidecar.settling import Settler
from meshq_sidecar.spooling import SpoolForwarder
from meshq_sidecar.status import Parts, Status
from meshq_sidecar.subscriptions import Subscriptions
from meshq_sidecar.subscriptions_api import SubscriptionsApi
from meshq_sidecar.work import Work

logger = logging.getLogger(__name__)

APP_HOST = "127.0.0.1"
PROBE_TIMEOUT = 2.0
LAST_ANSWERS = 1.0
"""Seconds at the least for the answers that this app still waits for when the sidecar stops."""
LEAVE_TIMEOUT = 0.5
"""Seconds for telling the registry; the mesh finds out by itself if it takes longer."""
TOO_MANY_REQUESTS = 429


class Sidecar:
    """One sidecar with the adapters it is given; `listening` None: on its ports. `chance` gives numbers from 0 to 1, for delays that
    keep crowds apart. `settings.instance` is set. Use: `start`, later `drain`, `stop`. Raises meshq.adapters.spool.SpoolUnusable."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        registry: Registry,
        store: Store,
        clock: Clock,
        *,
        listening: Listening | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self._broker = broker
        self._registry = registry
        self._store = store
        self._clock = clock
        self._chance = chance
        self._metrics = PrometheusMetrics()
        self._tasks = Tasks()
        self._counts = WorkCounts()
        self._identity = Identity(settings.service, settings.service_version, settings.instance)
        self._own_topic = names.topic(settings.service, settings.service_version.major)
        self._majors = settings.majors_of_link
        self._topics = tuple(names.topic(settings.service, major) for major in self._majors)
        self._serves = settings.app_port is not None
        """An app takes messages; without a port, from when it opened a link for that."""
        self._linked = asyncio.Event()
        """It opened such a link once."""
        self._proves = broker.user == settings.service

        self._place = Place(
            settings,
            registry,
            clock,
            _picture_file(settings),
            start=self._consume,
            stop=self._consume_none,
            drain=lambda: self._drain.begin(),
            load=self._load,
            report=self._report,
            usage=lambda: self.caller.usage,
        )
        self.pictures = self._place.pictures
        self.membership = self._place.membership
        self.health = Health(self._probe, self._on_health, lambda less: self._easing.ease(less))
        self._make_naming()
        self._make_outgoing()
        self._make_incoming()
        self._make_interface(listening)

        self._was_publishing = False
        broker.on_state(self._count_reconnects)
        self._status.measure(self._metrics)

    # --- the parts ----------------------------------------------------------------------------------------------------------

    def _make_naming(self) -> None:
        settings, resolv_conf = self.settings, system_resolv_conf()
        zone = zone_of(settings, resolv_conf.search, v6=has_ipv6_loopback())
        self._naming = Naming(zone, lambda: self.pictures.picture)
        self._resolvers = upstream(resolv_conf.servers, settings.dns_port)
        forwarder = Forwarder([(server, DNS_PORT) for server in self._resolvers], self._clock)
        self._name_server = DnsServer(self._naming.names, forwarder)

    def _make_outgoing(self) -> None:
        settings, broker, clock, metrics = self.settings, self._broker, self._clock, self._metrics
        self._backlog = Backlog(broker, self._backlog_limit)
        self._requests = Requests(self._store, settings.service)
        self.spool = None if settings.spool_dir is None else DiskSpool(settings.spool_dir, settings.spool_limit, clock)
        self._forwarder = (
            None
            if self.spool is None
            else SpoolForwarder(self.spool, broker, clock, metrics, self._own_topic, str(self._identity))
        )
        wake = Waking(self._registry, clock, self._tasks).wake
        self.caller = Caller(
            broker,
            clock,
            metrics,
            lambda: self.pictures.picture,
            settings.service,
            settings.instance,
            self._backlog,
            wake,
        )
        self.sender = Sender(
            broker,
            clock,
            metrics,
            lambda: self.pictures.picture,
            settings.service,
            self.caller,
            self._tasks,
            self._requests.accepted,
            has_app=settings.app_port is not None,
            spool=self._forwarder,
            always_spool=settings.ack == "spool",
            backlog=self._backlog,
            wake=wake,
        )

    def _make_incoming(self) -> None:
        settings, broker, clock, metrics = self.settings, self._broker, self._clock, self._metrics
        most = settings.app_concurrency
        port = settings.app_port
        client = None if port is None else Client(APP_HOST, port, max_response=settings.max_body, max_connections=most)
        self._app = Links(client, settings.max_body, self._on_links)
        gate = Gate(most)
        local = LocalApp(
            self._app,
            clock,
            metrics,
            gate,
            settings.api_token,
            settings.app_timeout,
            self.health.refused,
            self._counts,
        )
        policy = OwnPolicy(self._own_policy, settings.retry, proves=self._proves)
        self._once = OncePerKey(self._store, clock, metrics, str(self._identity), settings.app_timeout + LEASE_MARGIN)
        settler = Settler(
            broker, clock, metrics, str(self._identity), lambda: self.work.check_idle(), self.caller.denial
        )
        self.inbound = Inbound(
            broker,
            local,
            clock,
            metrics,
            self._identity,
            self._topics,
            prefetch_of(most),
            policy,
            settler,
            self._once,
        )
        host = f"{settings.service}.{settings.domain}"
        self._results = Results(
            self._store, clock, metrics, settings.service, host, self._requests.called, proves=self._proves
        )
        self.work = Work(
            broker,
            local,
            clock,
            metrics,
            self._identity,
            prefetch_of(most),
            policy,
            settler,
            self._once,
            self._store,
            self._results.take,
            self.inbound.take,
            self._chance,
        )
        self._easing = Easing(most, Capacity(gate, self.inbound, self.work, most).set)
        self._subscriptions = Subscriptions(broker, self._store, clock, self.work, self._own_topic, settings.instance)
        self._drain = Drain(self.inbound, self.work, lambda: self._place.duty.note(draining=True))

    def _make_interface(self, listening: Listening | None) -> None:
        settings = self.settings
        self._listening = listening or Listening(
            Server(HttpLimits(max_body=settings.max_body)), Server(HttpLimits(max_body=1)), self._name_server
        )
        self._status = Status(
            Parts(
                settings=settings,
                topics=self._topics,
                serves=lambda: self._serves,
                links=lambda: len(self._app),
                proves=self._proves,
                broker=self._broker,
                caller=self.caller,
                sender=self.sender,
                drain=self._drain,
                health=self.health,
                inbound=self.inbound,
                work=self.work,
                place=self._place,
                load=self._load,
                subscriptions=self._subscriptions,
                spool=self.spool,
                lost=lambda: 0 if self.spool is None else len(self.spool.losses),
                dns=self._about_names,
                dns_queries=lambda: self._name_server.counts,
            )
        )
        self._subscriptions_api = SubscriptionsApi(self._subscriptions, listens=settings.app_port is not None)
        own = SelfApi(
            self._status.as_json,
            self._place.pauses,
            lambda: self.membership.instance.metadata,
            self.membership.describe,
            self._easing.limit,
            settings.instance,
        )
        handlers = Handlers(
            requests=self._requests.handle,
            publish=Publishing(self.sender.publish, self._clock, self._metrics, settings.service).handle,
            subscriptions=self._subscriptions_api.handle,
            services=self._place.services.handle,
            self_=own.handle,
            pause=own.handle_pause,
            resume=own.handle_resume,
            drain=self._drain.handle,
            drain_wait=self._drain.handle_wait,
            link=self._app.accept,
        )
        api = Api(handlers, has_token=bool(settings.api_token))
        self._passthrough = PassThrough(lambda ip, port: Client(ip, port, max_response=settings.max_body))
        self._outbound = Outbound(
            self.caller,
            self.sender,
            api.handle,
            self._passthrough.forward,
            domain=settings.domain,
            token=settings.api_token,
            intercept=settings.intercept,
            passthrough=settings.passthrough,
            captured=self._naming.captured,
        )
        self._app.open(self._outbound.handle)
        self._admin = Admin(self._status.checks, self._metrics.render, CONTENT_TYPE)

    # --- life ---------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen first: a port that is taken is found before anything was told to anybody. Raises PortTaken."""
        settings = self.settings
        await self._listening.open(settings, self._outbound, self._admin)
        self._naming.say_what_is_missing(settings, self._resolvers)
        await self._declare()
        await self._registry.open()
        await self._store.open()
        await self._place.open(self._tasks)
        self._tasks.start(self._backlog.watch(), "look at what waits")
        await self._broker.open()
        if self._forwarder is not None:
            self._forwarder.start()
        await self._subscriptions.open(settings.subscribe, settings.log_events)
        if settings.app_port is None:
            self._tasks.start(self._serve_links(), "serve the app's links")
        else:
            await self._place.look()
            self._tasks.start(self.health.run(), "probe the app")
        logger.info(
            "%s %s as %s: apps on port %d, admin on %d, DNS on %d",
            settings.service, settings.service_version, settings.instance,
            settings.port, settings.admin_port, settings.dns_port,
        )  # fmt: skip

    async def _declare(self) -> None:
        """Before the broker is opened, so that all of it is asserted on the first connection."""
        settings = self.settings
        wanted = topology.shared() + topology.dead(self._own_topic)
        wanted += topology.results(settings.service)
        if settings.app_port is not None:
            wanted += self._queues()
        await self._broker.declare(wanted)
        self.work.add(Source(topology.results_queue(settings.service), self._own_topic, results=True))
        if settings.app_port is not None:
            self._add_sources()

    def _queues(self) -> Topology:
        """What an app that takes messages takes them from."""
        ordered = self.settings.ordered
        return sum((topology.service(topic, ordered) for topic in self._topics), Topology())

    def _add_sources(self) -> None:
        for topic in self._topics:
            self.work.add(Source(topology.work_queue(topic), topic))
            for partition in range(topology.PARTITIONS if self.settings.ordered else 0):
                self.work.add(Source(topology.key_queue(topic, partition), topic, ordered=True))

    @property
    def in_flight(self) -> int:
        """Messages at the app."""
        return self._drain.in_flight

    async def drain(self) -> None:
        """Take nothing new in, give back what has not started, wait for what runs and for this app's own calls, at most
        MESHQ_DRAIN_TIMEOUT. Outbound calls still go: the app may need them to finish."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.drain_timeout
        self._drain.begin()
        if not await self._drain.wait(self.settings.drain_timeout):
            logger.warning("%d requests still at the app after MESHQ_DRAIN_TIMEOUT", self._drain.in_flight)
        self._place.services.close()  # not before: whoever reads again would be answered at once, again and again
        await self._listening.close_to_the_app(max(LAST_ANSWERS, until - loop.time()))
        if self._forwarder is not None:
            await self._forwarder.close(max(0.0, until - loop.time()))

    async def stop(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await self.membership.leave()
        await self._listening.close(LAST_ANSWERS if len(self.caller) else 0.1)
        await self._drain.close()
        await self._subscriptions_api.close()
        await self._subscriptions.close()
        await self._tasks.close()
        await self._place.close()
        await self._passthrough.close()
        await self._app.close()
        await self._work_closed()
        await self._broker.close()
        if self.spool is not None:
            await self.spool.close()
        await self._store.close()
        await self._registry.close()

    async def _work_closed(self) -> None:
        await self.work.close()
        await self._once.close()
        await self._results.close()
        await self._requests.close()

    # --- what the parts ask of each other -----------------------------------------------------------------------------------

    def _own_policy(self) -> Policy | None:
        return self.pictures.picture.policies.get(self.settings.service)

    def _backlog_limit(self, service: str) -> int | None:
        policy = self.pictures.picture.policies.get(service)
        return None if policy is None else policy.backlog_limit

    def _on_links(self, serve: bool) -> None:
        """The app opened the first link that takes messages, or closed the last."""
        if not serve:
            logger.info("the app has no link open that takes messages")
            if not self._drain.begun:  # then it is we who say goodbye
                self.health.refused()
            return
        logger.info("the app takes messages over its link, as %s", ", ".join(self._topics))
        self._serves = self.sender.has_app = self._subscriptions_api.listens = True
        self._linked.set()
        self.health.look()

    async def _serve_links(self) -> None:
        """The app has no port, and so is taken for one that only calls out, until it opened a link that takes messages: maybe before
        this sidecar has started, which is why this waits for both."""
        await self._linked.wait()
        self.membership.serve(self._majors)
        self._place.duty.note(serves=True)
        await self._broker.declare(self._queues())
        self._add_sources()
        await self._place.look()
        await self.health.run()

    async def _probe(self) -> Probed:
        port = self.settings.app_port
        if port is None or self._app.serves:
            return await self._app.probe(PROBE_TIMEOUT)
        found = await probe(APP_HOST, port, self.settings.app_health, PROBE_TIMEOUT)
        return Probed(wants_less=True) if found.status == TOO_MANY_REQUESTS else Probed(found.detail)

    def _on_health(self, well: bool, reason: str) -> None:
        if well:
            logger.info(
                "the app is ready, %s", "over its link" if self._app.serves else f"on port {self.settings.app_port}"
            )
        else:
            logger.warning("the app is not ready: %s; messages stay in the queue", reason)
        self._place.duty.note(well=well, ever_well=self.health.ever_well)

    def _consume(self) -> None:
        self.inbound.resume()
        self.work.resume()

    def _consume_none(self) -> None:
        self.inbound.pause()
        self.work.pause()

    @property
    def _slots(self) -> int:
        """Messages that the app works on at once."""
        return self._easing.now if self._serves else 0

    def _load(self) -> Load:
        return Load(self._drain.in_flight, self._slots)

    def _report(self) -> Report:
        spooled = {} if self._forwarder is None else self._forwarder.counts.by_topic
        return bounded(self._counts.by_topic(), self.caller.calls(), spooled, self._slots)

    def _about_names(self) -> dict[str, Any]:
        about = self._naming.as_json(self.settings.dns_port, self._resolvers)
        return {**about, "fault": self._listening.without_names or "ok"}

    @property
    def fault(self) -> str:
        """Why it, or its app, is not ready; "" when all is well."""
        return next((fault for fault in self._status.checks().values() if fault), "")

    def _count_reconnects(self, state: BrokerState) -> None:
        if self._was_publishing and not state.publishing:
            self._metrics.count("broker_lost")
        self._was_publishing = state.publishing


def _picture_file(settings: Settings) -> PictureFile | None:
    """None for a registry inside this process, which keeps its own, and where no folder is known."""
    folder = settings.spool_dir or cache_folder(os.environ)
    if settings.registry_url == "embedded:" or folder is None:
        return None
    return PictureFile(folder, settings.registry_url, settings.mesh, private=settings.spool_dir is None)
