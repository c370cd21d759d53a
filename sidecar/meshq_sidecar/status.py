"""How a sidecar is: the checks of /readyz, `/v1/self`, the gauges. Read off its parts, never kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from meshq import __version__
from meshq.calling import Caller
from meshq.core.breaker import Circuit
from meshq.core.instances import Load
from meshq.ports import Broker, Spool
from meshq.sending import Sender
from meshq.settings import Settings
from meshq_sidecar.drain import Drain
from meshq_sidecar.health import Health
from meshq_sidecar.inbound import Inbound
from meshq_sidecar.place import Place
from meshq_sidecar.subscriptions import Subscriptions
from meshq_sidecar.work import Work


class Gauges(Protocol):
    """Where figures go that are asked for when somebody looks (meshq.adapters.metrics)."""

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None: ...
    def counts(self, name: str, help: str, label: str, value: Callable[[], Mapping[str, int]]) -> None: ...
    def info(self, **labels: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is looked at."""

    settings: Settings
    topics: tuple[str, ...]
    serves: Callable[[], bool]
    """Whether there is an app that takes messages from these topics."""
    links: Callable[[], int]
    proves: bool
    """Whether the broker's user is named as the service."""
    broker: Broker
    caller: Caller
    sender: Sender
    drain: Drain
    health: Health
    inbound: Inbound
    work: Work
    place: Place
    load: Callable[[], Load]
    subscriptions: Subscriptions
    spool: Spool | None
    lost: Callable[[], int]
    """Messages that the spool lost to a damaged disk."""
    dns: Callable[[], dict[str, Any]]
    dns_queries: Callable[[], Mapping[str, int]]


class Status:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def checks(self) -> dict[str, str]:
        """What /readyz shows."""
        parts, broker = self._parts, self._parts.broker.state
        checks = {"broker": broker.fault or ("" if broker.publishing and broker.consuming else "connecting")}
        checks |= parts.place.checks()
        if parts.serves():
            checks["app"] = "" if parts.health.well else parts.health.reason
        if parts.drain.begun:
            checks["drain"] = "draining"
        return checks

    def as_json(self) -> dict[str, Any]:
        """`GET /v1/self`"""
        parts, priorities, spool = self._parts, self._parts.broker.priorities, self._parts.spool
        return {
            **parts.place.as_json(),
            "topics": list(parts.topics) if parts.serves() else [],
            "inFlight": parts.drain.in_flight,
            "capacity": parts.load().capacity,
            "capacityMost": parts.settings.app_concurrency if parts.serves() else 0,
            "pending": len(parts.caller) + len(parts.sender),
            "checks": {name: fault or "ok" for name, fault in self.checks().items()},
            "identity": "proved"
            if parts.proves
            else "claimed: the broker's user is not named as the service, so nothing is proved",
            "dns": parts.dns(),
            "priorities": None if priorities is None else priorities.value,
            "links": parts.links(),
            "circuit": parts.work.circuit.value,
            "subscriptions": len(parts.subscriptions),
            "spool": None
            if spool is None
            else {"waiting": spool.waiting, "bytes": spool.bytes, "fault": spool.fault or "ok"},
            "meshq": __version__,
        }

    def measure(self, to: Gauges) -> None:
        parts, gauge = self._parts, to.gauge
        gauge("outbound_in_flight", "Calls of this app that wait for their answer", lambda: len(parts.caller))
        gauge("outbound_unconfirmed", "Durable messages that the broker has not confirmed", lambda: len(parts.sender))
        gauge("inbound_in_flight", "Messages at the app", lambda: parts.drain.in_flight)
        gauge("app_ready", "Whether the app is ready", lambda: float(parts.health.well or not parts.serves()))
        gauge("links", "Links that the app has open", parts.links)
        gauge("circuit_open", "Whether the app is given no durable messages", self._circuit_open)
        gauge("broker_publishing", "Whether messages can be published", lambda: float(parts.broker.state.publishing))
        gauge("broker_consuming", "Whether messages can be consumed", lambda: float(parts.broker.state.consuming))
        gauge("consumers", "Queues consumed", self._consumers)
        gauge("registry_instances", "Instances in the picture", lambda: parts.place.pictures.picture.instance_count)
        gauge("registry_stale", "Whether the picture may be old", self._stale)
        gauge("service_panic", "Whether every instance of this service is unhealthy", self._panic)
        gauge("paused", "Whether this instance is paused, by itself or by an operator", self._paused)
        gauge("waiting_reads", "Reads of /v1/services that wait for a change", lambda: parts.place.services.waiting)
        spool = parts.spool
        if spool is not None:
            gauge("spool_messages", "Messages on this disk that the broker has not yet", lambda: spool.waiting)
            gauge("spool_bytes", "Bytes that the spool takes on the disk", lambda: spool.bytes)
            gauge("spool_lost", "Messages lost to a damaged disk", parts.lost)
        to.counts("dns_queries", "Queries to mesh DNS by what became of them", "result", parts.dns_queries)
        settings = parts.settings
        to.info(version=__version__, service=settings.service, service_version=str(settings.service_version))

    def _circuit_open(self) -> float:
        return float(self._parts.work.circuit is not Circuit.CLOSED)

    def _consumers(self) -> float:
        calls = len(self._parts.topics) if self._parts.inbound.consuming else 0
        return calls + self._parts.work.consuming

    def _stale(self) -> float:
        pictures = self._parts.place.pictures
        return float(bool(pictures.fault) or pictures.picture.stale)

    def _panic(self) -> float:
        return float(self._parts.place.watching.panic)

    def _paused(self) -> float:
        here = self._parts.place.duty.here
        return float(here.paused or here.ordered_pause)
