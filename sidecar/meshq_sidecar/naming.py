"""What this sidecar makes of names, for mesh DNS and for the Host of requests alike."""

import logging
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from meshq.core.dns import Names, Zone
from meshq.core.errors import Code, refuse
from meshq.core.instances import EMPTY, Snapshot
from meshq.core.resolv import cluster_of, service_of
from meshq.settings import Settings

logger = logging.getLogger(__name__)

HTTP = 80


class Naming:
    """`picture` gives the latest picture: the same object until there is another."""

    def __init__(self, zone: Zone, picture: Callable[[], Snapshot]) -> None:
        self.zone = zone
        self._picture = picture
        self._names = Names(zone, picture())

    def names(self) -> Names:
        picture = self._picture()
        if picture is not self._names.picture:
            self._names = Names(self.zone, picture)
        return self._names

    def captured(self, host: str) -> str | None:
        """The service of the mesh that the cluster would mean by `host` (lower case); None for any other host. Raises Refused while
        it is not known which those are."""
        cluster = self.zone.cluster
        if cluster is None:
            return None
        if self._picture() is EMPTY:
            service = service_of(host, cluster)
            if service is not None and service not in self.zone.spared:
                raise refuse(
                    Code.UNAVAILABLE, f"the registry has not answered yet, so what {host[:100]!r} is is not known"
                )
        return self.names().captured(host)

    def as_json(self, port: int, resolvers: Sequence[str]) -> dict[str, Any]:
        """For `/v1/self`. `port`: of mesh DNS; `resolvers`: those that the rest is forwarded to."""
        cluster = self.zone.cluster
        return {
            "port": port,
            "resolvers": list(resolvers),
            "capture": None if cluster is None else {"namespace": cluster.namespace, "domain": cluster.domain},
        }

    def say_what_is_missing(self, settings: Settings, resolvers: Sequence[str]) -> None:
        """What works all the same, but perhaps not as somebody meant it."""
        if not resolvers:
            logger.warning(
                "/etc/resolv.conf names no resolver besides this sidecar, so mesh DNS refuses names outside the mesh: "
                "name the cluster's own as the second"
            )
        if self.zone.cluster is None:
            return
        if self.zone.cluster.namespace is None:
            logger.warning(
                "MESHQ_DNS_CAPTURE: /etc/resolv.conf has no search list of a pod, so the namespace is not known: "
                "<service> and <service>.<any namespace>.svc.%s are captured",
                self.zone.cluster.domain,
            )
        if not settings.host_ports:
            logger.warning(
                "MESHQ_DNS_CAPTURE without MESHQ_HOST_PORTS: captured names lead to the loopback address, where only port %d "
                "takes them",
                settings.port,
            )


def zone_of(settings: Settings, search: Sequence[str], *, v6: bool) -> Zone:
    """`search`: the search list of the pod's resolv.conf; `v6`: whether this sidecar listens on ::1."""
    cluster = cluster_of(search) if settings.dns_capture else None
    spared = frozenset[str]()
    if cluster is not None:
        # The broker and the registry are looked up by the same names, and they are not behind the mesh.
        hosts = (*_hosts(settings.broker_url), *_hosts(settings.registry_url), *map(_host, settings.passthrough))
        spared = frozenset(service for host in hosts if (service := service_of(host, cluster)) is not None)
    return Zone(settings.domain, _port(settings), v6, cluster, spared)


def _port(settings: Settings) -> int:
    ports = settings.host_ports
    return HTTP if HTTP in ports else (*ports, settings.port)[0]


def _hosts(url: str) -> list[str]:
    """Of `amqp://user:password@h1,h2:5673/vhost`."""
    netloc = urlsplit(url).netloc.rpartition("@")[2]
    return [_host(each) for each in netloc.split(",") if each]


def _host(text: str) -> str:
    return text.partition(":")[0].rstrip(".").lower()
