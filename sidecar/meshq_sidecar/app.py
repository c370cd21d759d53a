"""Puts one sidecar together, in the order in which things depend on each other; stopping reads as the reverse."""

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Any

from meshq import __version__
from meshq.adapters.http_client import Client
from meshq.adapters.http_probe import probe
from meshq.adapters.http_server import Limits as HttpLimits
from meshq.adapters.http_server import Server
from meshq.adapters.metrics import CONTENT_TYPE, PrometheusMetrics
from meshq.calling import Caller
from meshq.core import names, topology
from meshq.core.instances import Instance, Load, State
from meshq.ports import Broker, BrokerState, Clock, HttpHandler, Registry
from meshq.settings import NOT_YET, Settings
from meshq.tasks import Tasks
from meshq_sidecar.admin import Admin
from meshq_sidecar.api import Api
from meshq_sidecar.health import Health
from meshq_sidecar.inbound import Identity, Inbound, Limits
from meshq_sidecar.membership import Membership
from meshq_sidecar.outbound import Outbound
from meshq_sidecar.passthrough import PassThrough

logger = logging.getLogger(__name__)

APP_HOST = "127.0.0.1"
PROBE_TIMEOUT = 2.0
LAST_ANSWERS = 1.0
"""Seconds at the least for the answers that this app still waits for when the sidecar stops."""
LEAVE_TIMEOUT = 0.5
"""Seconds for telling the registry; the mesh finds out by itself if it takes longer."""


class PortTaken(Exception):
    """A port of the sidecar is somebody else's; the message says which setting moves it."""


class Sidecar:
    """One sidecar with the adapters it is given. `settings.instance` is set. Use: `start`, later `drain`, `stop`."""

    def __init__(self, settings: Settings, broker: Broker, registry: Registry, clock: Clock) -> None:
        self.settings = settings
        self._broker = broker
        self._registry = registry
        self._metrics = PrometheusMetrics()
        identity = Identity(settings.service, settings.service_version, settings.instance)
        self._topics = tuple(names.topic(settings.service, major) for major in settings.majors)

        self.membership = Membership(registry, clock, self._instance(identity), self._load, lambda: None)
        self.caller = Caller(
            broker, clock, self._metrics, lambda: self.membership.picture, settings.service, settings.instance
        )
        self._app = Client(
            APP_HOST, settings.app_port or 0, max_response=settings.max_body, max_connections=settings.app_concurrency
        )
        self.health = Health(self._probe, self._on_health)
        self.inbound = Inbound(
            broker,
            self._app,
            clock,
            self._metrics,
            identity,
            self._topics,
            Limits(settings.app_concurrency, settings.app_timeout, settings.retry.attempts),
            settings.api_token,
            self.health.refused,
        )
        self._passthrough = PassThrough(lambda ip, port: Client(ip, port, max_response=settings.max_body))
        self._outbound = Outbound(
            self.caller,
            Api(lambda: self.membership.picture, self._about_self).handle,
            self._passthrough.forward,
            domain=settings.domain,
            token=settings.api_token,
            intercept=settings.intercept,
            passthrough=settings.passthrough,
        )
        self._admin = Admin(self._checks, self._metrics.render, CONTENT_TYPE)
        self._server = Server(HttpLimits(max_body=settings.max_body))
        self._admin_server = Server(HttpLimits(max_body=1))
        self._tasks = Tasks()
        self._draining = False
        self._was_publishing = False
        broker.on_state(self._count_reconnects)
        self._gauges()

    async def start(self) -> None:
        """Listen first: a port that is taken is found before anything was told to anybody. Raises PortTaken."""
        settings = self.settings
        try:
            await self._listen()
        except PortTaken:
            await self._close_servers(0)
            raise
        for name in NOT_YET:
            if getattr(settings, name):
                logger.warning("MESHQ_%s is set, but this version does not serve it yet", name.upper())
        for topic in self._topics:
            await self._broker.declare(topology.calls(topic))
        await self._registry.open()
        self._tasks.start(self.membership.keep(), "keep the registration")
        self._tasks.start(self.membership.follow(), "follow the registry")
        await self._broker.open()
        if self._topics:
            self._tasks.start(self.health.run(), "probe the app")
        else:
            self.membership.set_state(State.READY)
        logger.info(
            "%s %s as %s: apps on port %d, admin on %d",
            settings.service, settings.service_version, settings.instance, settings.port, settings.admin_port,
        )  # fmt: skip

    async def drain(self) -> None:
        """Take nothing new in, give back what has not started, wait for what runs and for this app's own calls, at most
        MESHQ_DRAIN_TIMEOUT. Outbound calls still go: the app may need them to finish."""
        self._draining = True
        self.membership.set_state(State.DRAINING)
        self.inbound.pause()
        idle = asyncio.Event()
        self.inbound.when_idle(idle.set)
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.drain_timeout
        try:
            async with asyncio.timeout_at(until):
                await idle.wait()
        except TimeoutError:
            logger.warning("%d requests still at the app after MESHQ_DRAIN_TIMEOUT", self.inbound.in_flight)
        await self._server.close(max(LAST_ANSWERS, until - loop.time()))

    async def stop(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await self.membership.leave()
        await self._close_servers(LAST_ANSWERS if len(self.caller) else 0.1)
        await self._tasks.close()
        await self._passthrough.close()
        await self._app.close()
        await self._broker.close()
        await self._registry.close()

    # --- listening ----------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        settings = self.settings
        await self._listen_loopback(settings.port, self._outbound.handle, "MESHQ_PORT")
        for port in settings.intercept:
            await self._listen_loopback(port, self._outbound.handle_intercepted(port), "MESHQ_INTERCEPT")
        await self._listen_on(
            self._admin_server, "0.0.0.0", settings.admin_port, self._admin.handle, "MESHQ_ADMIN_PORT"
        )

    async def _listen_loopback(self, port: int, handler: HttpHandler, setting: str) -> None:
        await self._listen_on(self._server, "127.0.0.1", port, handler, setting)
        if _has_ipv6_loopback():
            await self._listen_on(self._server, "::1", port, handler, setting)

    async def _listen_on(self, server: Server, host: str, port: int, handler: HttpHandler, setting: str) -> None:
        try:
            await server.listen(host, port, handler)
        except OSError as error:
            raise PortTaken(
                f"cannot listen on {host}:{port}: {error.strerror or error}. Stop what holds the port, or set {setting} to another"
            ) from error

    async def _close_servers(self, timeout: float) -> None:
        await asyncio.gather(self._server.close(timeout), self._admin_server.close(timeout))

    # --- what the parts ask of each other -----------------------------------------------------------------------------------

    async def _probe(self) -> str:
        port = self.settings.app_port
        assert port is not None
        return (await probe(APP_HOST, port, self.settings.app_health, PROBE_TIMEOUT)).detail

    def _on_health(self, well: bool, reason: str) -> None:
        if self._draining:
            return
        if well:
            logger.info("the app on port %d is ready", self.settings.app_port)
            self.membership.set_state(State.READY)
            self.inbound.resume()
        else:
            logger.warning("the app is not ready: %s; messages stay in the queue", reason)
            self.membership.set_state(State.UNHEALTHY)
            self.inbound.pause()

    def _instance(self, identity: Identity) -> Instance:
        state = State.STARTING if self._topics else State.READY
        return Instance(
            identity.service,
            identity.instance,
            identity.version,
            self.settings.majors,
            state,
            address=f"{socket.gethostname()}:{self.settings.port}",
        )

    def _load(self) -> Load:
        return Load(self.inbound.in_flight, self.settings.app_concurrency if self._topics else 0)

    def _checks(self) -> dict[str, str]:
        """What /readyz shows. Once the registry has answered, its absence does not count: the last picture serves."""
        broker = self._broker.state
        checks = {"broker": broker.fault or ("" if broker.publishing and broker.consuming else "connecting")}
        checks["registry"] = "" if self.membership.pictured and not self.membership.fenced else self.membership.fault
        if self._topics:
            checks["app"] = "" if self.health.well else self.health.reason
        if self._draining:
            checks["drain"] = "draining"
        return checks

    def _about_self(self) -> dict[str, Any]:
        instance = self.membership.instance
        proved = self._broker.user == self.settings.service
        return {
            "service": instance.service,
            "version": str(instance.version),
            "instance": instance.id,
            "state": instance.state.value,
            "topics": list(self._topics),
            "inFlight": self.inbound.in_flight,
            "capacity": self._load().capacity,
            "pending": len(self.caller),
            "checks": {name: fault or "ok" for name, fault in self._checks().items()},
            "identity": "proved"
            if proved
            else "claimed: the broker's user is not named as the service, so nothing is proved",
            "meshq": __version__,
        }

    def _count_reconnects(self, state: BrokerState) -> None:
        if self._was_publishing and not state.publishing:
            self._metrics.count("broker_lost")
        self._was_publishing = state.publishing

    def _gauges(self) -> None:
        gauge = self._metrics.gauge
        gauge("outbound_in_flight", "Calls of this app that wait for their answer", lambda: len(self.caller))
        gauge("inbound_in_flight", "Messages at the app", lambda: self.inbound.in_flight)
        gauge("app_ready", "Whether the app is ready", lambda: float(self.health.well or not self._topics))
        gauge("broker_publishing", "Whether messages can be published", lambda: float(self._broker.state.publishing))
        gauge("broker_consuming", "Whether messages can be consumed", lambda: float(self._broker.state.consuming))
        gauge("consumers", "Queues consumed", lambda: len(self._topics) if self.inbound.consuming else 0)
        gauge("registry_instances", "Instances in the picture", lambda: self.membership.picture.instance_count)
        gauge("registry_stale", "Whether the picture may be old", lambda: float(bool(self.membership.fault)))
        self._metrics.info(
            version=__version__, service=self.settings.service, service_version=str(self.settings.service_version)
        )


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True
