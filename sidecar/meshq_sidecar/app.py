"""Puts one sidecar together, in the order in which things depend on each other; stopping reads as the reverse."""

import asyncio
import logging
import random
import socket
from contextlib import suppress
from typing import Any

from meshq import __version__
from meshq.adapters.http_client import Client
from meshq.adapters.http_probe import probe
from meshq.adapters.http_server import Limits as HttpLimits
from meshq.adapters.http_server import Server
from meshq.adapters.metrics import CONTENT_TYPE, PrometheusMetrics
from meshq.adapters.spool import DiskSpool
from meshq.calling import Caller
from meshq.core import names, topology
from meshq.core.breaker import Circuit
from meshq.core.instances import Instance, Load, State
from meshq.ports import Broker, BrokerState, Clock, Registry, Store
from meshq.sending import Sender
from meshq.sending_events import Publishing
from meshq.settings import NOT_YET, Settings
from meshq.tasks import Tasks
from meshq_sidecar.admin import Admin
from meshq_sidecar.api import Api, Handlers
from meshq_sidecar.backlog import Backlog
from meshq_sidecar.drain import Drain
from meshq_sidecar.gate import Gate
from meshq_sidecar.health import Health
from meshq_sidecar.identity import Identity
from meshq_sidecar.inbound import Inbound
from meshq_sidecar.listening import Listening
from meshq_sidecar.local_app import LocalApp
from meshq_sidecar.membership import Membership
from meshq_sidecar.once import LEASE_MARGIN, OncePerKey
from meshq_sidecar.outbound import Outbound
from meshq_sidecar.passthrough import PassThrough
from meshq_sidecar.requests import Requests
from meshq_sidecar.results import Results
from meshq_sidecar.settling import Settler
from meshq_sidecar.spooling import SpoolForwarder
from meshq_sidecar.subscriptions import Subscriptions
from meshq_sidecar.subscriptions_api import SubscriptionsApi
from meshq_sidecar.work import Source, Work

logger = logging.getLogger(__name__)

APP_HOST = "127.0.0.1"
PROBE_TIMEOUT = 2.0
LAST_ANSWERS = 1.0
"""Seconds at the least for the answers that this app still waits for when the sidecar stops."""
LEAVE_TIMEOUT = 0.5
"""Seconds for telling the registry; the mesh finds out by itself if it takes longer."""
MOST_PREFETCH = 500


class Sidecar:
    """One sidecar with the adapters it is given. `settings.instance` is set. Use: `start`, later `drain`, `stop`. Raises
    meshq.adapters.spool.SpoolUnusable."""

    def __init__(self, settings: Settings, broker: Broker, registry: Registry, store: Store, clock: Clock) -> None:
        self.settings = settings
        self._broker = broker
        self._registry = registry
        self._store = store
        self._clock = clock
        self._metrics = PrometheusMetrics()
        self._tasks = Tasks()
        self._identity = Identity(settings.service, settings.service_version, settings.instance)
        self._own_topic = names.topic(settings.service, settings.service_version.major)
        self._topics = tuple(names.topic(settings.service, major) for major in settings.majors)
        self._proves = broker.user == settings.service

        self.membership = Membership(registry, clock, self._instance(), self._load, lambda: None)
        self.health = Health(self._probe, self._on_health)
        self._make_outgoing()
        self._make_incoming()
        self._make_interface()

        self._was_publishing = False
        broker.on_state(self._count_reconnects)
        self._gauges()

    # --- the parts ----------------------------------------------------------------------------------------------------------

    def _make_outgoing(self) -> None:
        settings, broker, clock, metrics = self.settings, self._broker, self._clock, self._metrics
        self._backlog = Backlog(broker)
        self._requests = Requests(self._store, settings.service)
        self.spool = None if settings.spool_dir is None else DiskSpool(settings.spool_dir, settings.spool_limit, clock)
        self._forwarder = (
            None
            if self.spool is None
            else SpoolForwarder(self.spool, broker, clock, metrics, self._own_topic, str(self._identity))
        )
        self.caller = Caller(
            broker, clock, metrics, lambda: self.membership.picture, settings.service, settings.instance, self._backlog
        )
        self.sender = Sender(
            broker,
            clock,
            metrics,
            lambda: self.membership.picture,
            settings.service,
            self.caller,
            self._tasks,
            self._requests.accepted,
            has_app=settings.app_port is not None,
            spool=self._forwarder,
            always_spool=settings.ack == "spool",
            backlog=self._backlog,
        )

    def _make_incoming(self) -> None:
        settings, broker, clock, metrics = self.settings, self._broker, self._clock, self._metrics
        most = settings.app_concurrency
        self._app = Client(APP_HOST, settings.app_port or 0, max_response=settings.max_body, max_connections=most)
        local = LocalApp(
            self._app, clock, metrics, Gate(most), settings.api_token, settings.app_timeout, self.health.refused
        )
        self._once = OncePerKey(self._store, clock, metrics, str(self._identity), settings.app_timeout + LEASE_MARGIN)
        settler = Settler(broker, clock, metrics, str(self._identity), lambda: self.work.check_idle())
        prefetch = min(MOST_PREFETCH, 4 * most)
        self.inbound = Inbound(
            broker,
            local,
            clock,
            metrics,
            self._identity,
            self._topics,
            prefetch,
            settings.retry.attempts,
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
            prefetch,
            settings.retry,
            settler,
            self._once,
            self._store,
            self._results.take,
            self.inbound.take,
            random.random,
        )
        self._subscriptions = Subscriptions(broker, self._store, clock, self.work, self._own_topic, settings.instance)
        self._drain = Drain(self.inbound, self.work, lambda: self.membership.set_state(State.DRAINING))

    def _make_interface(self) -> None:
        settings = self.settings
        self._subscriptions_api = SubscriptionsApi(self._subscriptions, listens=settings.app_port is not None)
        handlers = Handlers(
            self._requests.handle,
            Publishing(self.sender.publish, self._clock, self._metrics, settings.service).handle,
            self._subscriptions_api.handle,
            self._drain.handle,
            self._drain.handle_wait,
        )
        api = Api(lambda: self.membership.picture, self._about_self, handlers, has_token=bool(settings.api_token))
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
        )
        self._admin = Admin(self._checks, self._metrics.render, CONTENT_TYPE)
        self._listening = Listening(Server(HttpLimits(max_body=settings.max_body)), Server(HttpLimits(max_body=1)))

    # --- life ---------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen first: a port that is taken is found before anything was told to anybody. Raises PortTaken."""
        settings = self.settings
        await self._listening.open(settings, self._outbound, self._admin)
        for name in NOT_YET:
            if getattr(settings, name):
                logger.warning("MESHQ_%s is set, but this version does not serve it yet", name.upper())
        await self._declare()
        await self._registry.open()
        await self._store.open()
        self._tasks.start(self.membership.keep(), "keep the registration")
        self._tasks.start(self.membership.follow(), "follow the registry")
        self._tasks.start(self._backlog.watch(), "look at what waits")
        await self._broker.open()
        await self._subscriptions.open(settings.subscribe, settings.log_events)
        if settings.app_port is not None:
            self._tasks.start(self.health.run(), "probe the app")
        else:
            self.membership.set_state(State.READY)
        logger.info(
            "%s %s as %s: apps on port %d, admin on %d",
            settings.service, settings.service_version, settings.instance, settings.port, settings.admin_port,
        )  # fmt: skip

    async def _declare(self) -> None:
        """Before the broker is opened, so that all of it is asserted on the first connection."""
        settings = self.settings
        wanted = topology.shared() + topology.dead(self._own_topic)
        wanted += topology.results(settings.service)
        for topic in self._topics:
            wanted += topology.service(topic, settings.ordered)
        await self._broker.declare(wanted)
        self.work.add(Source(topology.results_queue(settings.service), self._own_topic, results=True))
        for topic in self._topics:
            self.work.add(Source(topology.work_queue(topic), topic))
            for partition in range(topology.PARTITIONS if settings.ordered else 0):
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

    async def _probe(self) -> str:
        port = self.settings.app_port
        assert port is not None
        return (await probe(APP_HOST, port, self.settings.app_health, PROBE_TIMEOUT)).detail

    def _on_health(self, well: bool, reason: str) -> None:
        if self._drain.begun:
            return
        if well:
            logger.info("the app on port %d is ready", self.settings.app_port)
            self.membership.set_state(State.READY)
            self.inbound.resume()
            self.work.resume()
        else:
            logger.warning("the app is not ready: %s; messages stay in the queue", reason)
            self.membership.set_state(State.UNHEALTHY)
            self.inbound.pause()
            self.work.pause()

    def _instance(self) -> Instance:
        identity = self._identity
        return Instance(
            identity.service,
            identity.instance,
            identity.version,
            self.settings.majors,
            State.STARTING if self._topics else State.READY,
            address=f"{socket.gethostname()}:{self.settings.port}",
        )

    def _load(self) -> Load:
        return Load(self._drain.in_flight, self.settings.app_concurrency if self._topics else 0)

    def _checks(self) -> dict[str, str]:
        """What /readyz shows. Once the registry has answered, its absence does not count: the last picture serves."""
        broker = self._broker.state
        checks = {"broker": broker.fault or ("" if broker.publishing and broker.consuming else "connecting")}
        checks["registry"] = "" if self.membership.pictured and not self.membership.fenced else self.membership.fault
        if self._topics:
            checks["app"] = "" if self.health.well else self.health.reason
        if self._drain.begun:
            checks["drain"] = "draining"
        return checks

    def _about_self(self) -> dict[str, Any]:
        instance = self.membership.instance
        priorities, spool = self._broker.priorities, self.spool
        return {
            "service": instance.service,
            "version": str(instance.version),
            "instance": instance.id,
            "state": instance.state.value,
            "topics": list(self._topics),
            "inFlight": self._drain.in_flight,
            "capacity": self._load().capacity,
            "pending": len(self.caller) + len(self.sender),
            "checks": {name: fault or "ok" for name, fault in self._checks().items()},
            "identity": "proved"
            if self._proves
            else "claimed: the broker's user is not named as the service, so nothing is proved",
            "priorities": None if priorities is None else priorities.value,
            "circuit": self.work.circuit.value,
            "subscriptions": len(self._subscriptions),
            "spool": None
            if spool is None
            else {"waiting": spool.waiting, "bytes": spool.bytes, "fault": spool.fault or "ok"},
            "meshq": __version__,
        }

    def _count_reconnects(self, state: BrokerState) -> None:
        if self._was_publishing and not state.publishing:
            self._metrics.count("broker_lost")
        self._was_publishing = state.publishing

    def _gauges(self) -> None:
        gauge = self._metrics.gauge
        gauge("outbound_in_flight", "Calls of this app that wait for their answer", lambda: len(self.caller))
        gauge("outbound_unconfirmed", "Durable messages that the broker has not confirmed", lambda: len(self.sender))
        gauge("inbound_in_flight", "Messages at the app", lambda: self._drain.in_flight)
        gauge("app_ready", "Whether the app is ready", lambda: float(self.health.well or not self._topics))
        gauge("circuit_open", "Whether the app is given no durable messages", self._circuit_open)
        gauge("broker_publishing", "Whether messages can be published", lambda: float(self._broker.state.publishing))
        gauge("broker_consuming", "Whether messages can be consumed", lambda: float(self._broker.state.consuming))
        gauge("consumers", "Queues consumed", self._consumers)
        gauge("registry_instances", "Instances in the picture", lambda: self.membership.picture.instance_count)
        gauge("registry_stale", "Whether the picture may be old", lambda: float(bool(self.membership.fault)))
        spool = self.spool
        if spool is not None:
            gauge("spool_messages", "Messages on this disk that the broker has not yet", lambda: spool.waiting)
            gauge("spool_bytes", "Bytes that the spool takes on the disk", lambda: spool.bytes)
            gauge("spool_lost", "Messages lost to a damaged disk", lambda: len(spool.losses))
        self._metrics.info(
            version=__version__, service=self.settings.service, service_version=str(self.settings.service_version)
        )

    def _circuit_open(self) -> float:
        return float(self.work.circuit is not Circuit.CLOSED)

    def _consumers(self) -> float:
        return (len(self._topics) if self.inbound.consuming else 0) + self.work.consuming
