"""Puts `meshq signals` together: the looks at a mesh, who serves what they say, and who acts on it."""

import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from meshq import __version__
from meshq.adapters import choose, tls_serving
from meshq.adapters.http_server import Server
from meshq.adapters.keda_grpc import KedaServer
from meshq.adapters.metrics import CONTENT_TYPE
from meshq.adapters.metrics_signals import SignalMetrics
from meshq.adapters.rabbit_prometheus import RabbitPrometheus
from meshq.adapters.rabbit_stats import RabbitStats
from meshq.core.cluster import ClusterFault
from meshq.core.instances import Instance, Snapshot
from meshq.core.names import instance_id, topic
from meshq.ports import Clock
from meshq.settings import BadSettings, Fault
from meshq.settings_servers import tls_files
from meshq.signals import gauges
from meshq.signals.direct import Direct
from meshq.signals.direct_drains import Drains
from meshq.signals.external_owner import external_metrics_owner
from meshq.signals.http_api import HttpApi
from meshq.signals.keda import Scaler
from meshq.signals.leading import Leading
from meshq.signals.sampler import ListQueues, Sampler
from meshq.signals.settings import SignalsSettings
from meshq.tasks import Tasks

if TYPE_CHECKING:
    from meshq.adapters.kubernetes import Kubernetes

logger = logging.getLogger(__name__)

LAST_ANSWERS = 1.0
"""Seconds for what was asked before the end."""


def kubernetes_of_pod(environment: Mapping[str, str]) -> "Kubernetes":
    """Imported here, because it takes three seconds and more memory than all the rest. Raises ClusterFault outside of a pod."""
    from meshq.adapters.kubernetes import Kubernetes
    from meshq.adapters.kubernetes_access import in_cluster

    return Kubernetes(in_cluster(environment))


class Ports(NamedTuple):
    grpc: int
    http: int
    https: int


class SignalsServer:
    """One replica of the server. `cluster` is asked for, where something of Kubernetes is needed, with the environment. Raises
    BadSettings for what makes no sense."""

    def __init__(
        self,
        settings: SignalsSettings,
        clock: Clock,
        environment: Mapping[str, str] = os.environ,
        cluster: Callable[[Mapping[str, str]], "Kubernetes"] = kubernetes_of_pod,
    ) -> None:
        server, faults = settings.server, list[Fault]()
        tls = tls_files(environment)
        try:
            self._registry = choose.registry(server.registry_url, server.mesh, clock, tls)
            self._store = choose.store(server.registry_url, server.mesh, clock, tls)
        except (ValueError, OSError) as error:
            faults.append(Fault("MESHQ_REGISTRY_URL", str(error)))
        try:
            figures = _figures(settings, clock)
        except ValueError as error:
            faults.append(Fault("MESHQ_BROKER_URL", str(error)))
        try:
            self._tls = (
                None
                if settings.cert is None or settings.key is None
                else tls_serving.load(tls_serving.Files(settings.cert, settings.key, settings.client_ca))
            )
        except OSError as error:
            faults.append(Fault("MESHQ_SIGNALS_CERT", str(error)))
        if faults:
            raise BadSettings(faults)
        self.failed = False
        """Something of it that goes on for ever has ended: what it serves is as it was then, and nobody can see that."""
        self._on_failure: Callable[[], None] = lambda: None
        self._settings = settings
        self._clock = clock
        self._environment = environment
        self._cluster = cluster
        self._role = Leading(self._store, instance_id(socket.gethostname(), secrets.token_hex(3)))
        self._sampler = Sampler(figures.queues, self._registry, clock, role=self._role, missing=figures.fault)
        self._stack = AsyncExitStack()

    async def start(self, listen: str, ports: Ports) -> Ports:
        """Serve; returns the ports, which for 0 are free ones (of HTTPS 0 where it is not served). Raises BadSettings."""
        tasks = Tasks()
        self._stack.push_async_callback(self._store.close)
        self._stack.push_async_callback(self._registry.close)
        self._stack.push_async_callback(tasks.close)
        await self._registry.open()
        await self._store.open()
        bound = await self._serve(listen, ports)
        direct = await self._direct()
        tasks.start(self._for_ever(self._role.run()), "hold the lease of the leader")
        tasks.start(self._for_ever(self._sampler.run()), "look at the mesh")
        if direct is not None:
            tasks.start(self._for_ever(direct.run()), "scale Deployments")
        return bound

    async def close(self) -> None:
        await self._stack.aclose()

    def on_failure(self, callback: Callable[[], None]) -> None:
        """Call back when it has `failed`; one callback, the last one set."""
        self._on_failure = callback

    async def _for_ever(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            self.failed = True
            self._on_failure()
            raise

    async def _serve(self, listen: str, ports: Ports) -> Ports:
        sampler = self._sampler
        metrics = SignalMetrics(
            gauges.GAUGES, gauges.LABELS, lambda: gauges.rows(sampler), lambda: sampler.leading, __version__
        )
        sampler.on_look(metrics.pass_took)
        api = HttpApi(sampler, metrics.render, CONTENT_TYPE)
        keda, http = KedaServer(Scaler(sampler)), Server()
        self._stack.push_async_callback(keda.close)
        self._stack.push_async_callback(http.close, LAST_ANSWERS)
        tls = self._tls
        grpc_port = await _bound("--grpc-port", ports.grpc, lambda port: keda.start(listen, port, tls))
        http_port = await _bound("--http-port", ports.http, lambda port: http.listen(listen, port, api.handle))
        if tls is None or not await self._is_ours():
            return Ports(grpc_port, http_port, 0)
        https = await _bound(
            "--https-port", ports.https, lambda port: http.listen_tls(listen, port, api.handle, tls.context)
        )
        return Ports(grpc_port, http_port, https)

    async def _direct(self) -> Direct | None:
        """The direct mode, if something is to be scaled. Raises BadSettings where that cannot be."""
        if not self._settings.targets:
            return None
        try:
            direct = Direct(self._sampler, self._kubernetes(), self._settings.targets, self._drains())
        except ClusterFault as fault:
            raise BadSettings([Fault("MESHQ_SIGNALS_DIRECT", str(fault))]) from fault
        try:
            conflicts = await direct.conflicts()
        except ClusterFault as fault:
            logger.warning("%s; it is looked at again whenever something is to be scaled", fault)
            return direct
        if conflicts:
            raise BadSettings([Fault("MESHQ_SIGNALS_DIRECT", conflict) for conflict in conflicts])
        return direct

    def _kubernetes(self) -> "Kubernetes":
        """Raises ClusterFault outside of a pod."""
        cluster = self._cluster(self._environment)
        self._stack.push_async_callback(cluster.close)
        return cluster

    async def _is_ours(self) -> bool:
        """Whether nobody else serves the cluster's external metrics, where it is known which Service we are."""
        own = self._settings.service
        if not own:
            return True
        try:
            reason = await external_metrics_owner(self._kubernetes(), own)
        except ClusterFault as fault:
            logger.warning("%s; so it is not known whether somebody else serves the external metrics", fault)
            return True
        if reason:
            logger.error("%s; HTTPS is not served", reason)
        return not reason

    def _drains(self) -> Drains:
        sampler, registry = self._sampler, self._registry
        return Drains(lambda name: instances(sampler.picture, name), registry.order_drain, self._clock)


def instances(picture: Snapshot, name: str) -> Sequence[Instance]:
    """Of a topic."""
    return [
        instance
        for service in picture.services.values()
        for major in service.majors
        if topic(service.name, major) == name
        for instance in service.of_major(major)
    ]


class _Figures(NamedTuple):
    """Of the broker."""

    queues: ListQueues
    fault: Callable[[], str]
    """Why some of them are missing, "" where none is known to be."""


def _figures(settings: SignalsSettings, clock: Clock) -> _Figures:
    """Raises ValueError."""
    broker = settings.server.broker_url
    if settings.prometheus_urls:
        prometheus = RabbitPrometheus(broker, settings.prometheus_urls, clock)
        return _Figures(prometheus.queues, lambda: prometheus.fault)
    return _Figures(RabbitStats(broker, settings.management_url, clock).queues, lambda: "")


async def _bound(option: str, port: int, listen: Callable[[int], Awaitable[int]]) -> int:
    try:
        return await listen(port)
    except OSError as error:
        raise BadSettings([Fault(option, f"port {port}: {error.strerror or error}")]) from error
