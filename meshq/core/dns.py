"""The mesh's names as DNS records (INTERFACE part 6), from a picture of the mesh. RFC numbers say where a rule is from.

    orders.mesh, v2.orders.mesh        A, AAAA: loopback, where this sidecar is; TXT: one record for each instance
    <instance>.orders.mesh             A, AAAA: the instance's own address; TXT: of it alone
    _http._tcp.<one of the first>      SRV: that name, at the port which reaches it here; PTR: the instances' endpoints (RFC 6763)
    <instance>._http._tcp.<the same>   SRV: the instance's own name and port; TXT: of it alone
    <address>.in-addr.arpa, .ip6.arpa  PTR: the instances with that address

A name of a service is always there while the service is known, whatever its instances do: its queue takes calls.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from meshq.core.dns_records import NEGATIVE_TTL, Answer, Authority, Kind, Name, Record, Status, Target
from meshq.core.endpoints import http_port, ips_of, reversed_ip
from meshq.core.instances import Instance, Service, Snapshot, State
from meshq.core.names import BadName, HostName, parse_host
from meshq.core.resolv import Cluster, service_of

MOST_RECORDS = 200
"""In one answer. So many TXT records are at most 50 KiB, and a message over TCP has room for 64."""
LOOPBACK_V4, LOOPBACK_V6 = "127.0.0.1", "::1"


class Zone(NamedTuple):
    """What this sidecar is in the names that it answers for."""

    domain: str
    port: int
    """Where an app on this machine reaches the mesh by Host."""
    v6: bool
    """Whether it listens on ::1 as well."""
    cluster: Cluster | None = None
    """Whose own names of services are answered too (MESHQ_DNS_CAPTURE); None: those of none."""
    spared: frozenset[str] = frozenset()
    """Names of services that are never captured: where the broker and the registry are."""


class Names:
    """The names in one picture. `answer` is a pure function of the question."""

    def __init__(self, zone: Zone, picture: Snapshot) -> None:
        self.picture = picture
        self._zone = zone
        self._pictured = picture.revision >= 0

    def answer(self, name: Name, kind: int) -> Answer | None:
        """None: not ours, to be forwarded."""
        top = name[-1] if name else ""
        if top == self._zone.domain:
            return self._of_mesh(name, kind) if self._pictured else Answer(Status.SERVER_FAILURE)
        if top == "localhost":  # RFC 6761 section 6.3
            return self._answered(name, kind, self._loopback(name, kind), ("localhost",))
        if top == "arpa":
            return self._reverse(name, kind)
        if self.captured(".".join(name)) is not None:
            return self._answered(name, kind, self._loopback(name, kind), name)
        return None

    def captured(self, name: str) -> str | None:
        """The mesh's service that the cluster would mean by this host name (lower case); None: none, or capture is off. Before
        there is a picture it is nobody's: the broker and the registry are looked up by such names too."""
        cluster = self._zone.cluster
        service = None if cluster is None else service_of(name, cluster)
        if service is None or service in self._zone.spared:
            return None
        found = self.picture.services.get(service)
        return service if found is not None and found.majors else None  # others are only looked up, never called

    # --- under the mesh's domain ----------------------------------------------------------------------------------------------

    def _of_mesh(self, name: Name, kind: int) -> Answer:
        zone = name[-1:]
        match name[:-1]:
            case ():
                records: Sequence[Record] | None = [self._authority(zone)] if kind == Kind.SOA else []
            case ("_http", "_tcp", *host):
                records = self._host(host, lambda h: self._as_service(name, h, kind))
            case ("_tcp", *host):  # only there because something is below it (RFC 8020)
                records = self._host(host, lambda h: [])
            case (instance, "_http", "_tcp", *host):
                records = self._host(host, lambda h: self._as_endpoint(name, instance, h, kind))
            case host:
                records = self._host(host, lambda h: self._as_host(name, h, kind))
        return self._answered(name, kind, records, zone)

    def _host(
        self, labels: Sequence[str], records: Callable[["_Host"], Sequence[Record] | None]
    ) -> Sequence[Record] | None:
        """None: there is no such host in the mesh."""
        host = self._find(labels)
        return None if host is None else records(host)

    def _find(self, labels: Sequence[str]) -> "_Host | None":
        try:
            name = parse_host(".".join((*labels, self._zone.domain)), self._zone.domain)
        except BadName:
            return None
        service = None if name is None else self.picture.services.get(name.service)
        if name is None or service is None:
            return None
        there = _there(service, name)
        return None if there is None else _Host((*labels, self._zone.domain), there, name.instance is not None)

    def _as_host(self, name: Name, host: "_Host", kind: int) -> list[Record]:
        if kind == Kind.TXT:
            return [_text(name, instance) for instance in _listed(host.instances)]
        return self._addresses(name, host, kind)

    def _addresses(self, name: Name, host: "_Host", kind: int) -> list[Record]:
        if host.single:
            ips = [ip for each in host.instances for ip in ips_of(each)]
            return [Record(name, of, ip) for ip in ips if (of := Kind.AAAA if ":" in ip else Kind.A) == kind]
        return self._loopback(name, kind)

    def _as_service(self, name: Name, host: "_Host", kind: int) -> list[Record]:
        if kind == Kind.TXT:
            return self._as_host(name, host, kind)
        if host.single:
            return self._at_endpoint(name, host.instances[0]) if kind == Kind.SRV else []
        if kind == Kind.SRV:
            return [Record(name, Kind.SRV, Target(self._zone.port, host.name))]
        if kind == Kind.PTR:
            served = [i for i in host.instances if http_port(i) is not None]
            return [Record(name, Kind.PTR, (i.id, *name)) for i in _listed(served)]
        return []

    def _as_endpoint(self, name: Name, ident: str, host: "_Host", kind: int) -> list[Record] | None:
        found = next((i for i in host.instances if i.id == ident and not host.single), None)
        if found is None or http_port(found) is None:
            return None
        if kind == Kind.SRV:
            return self._at_endpoint(name, found)
        return [_text(name, found)] if kind == Kind.TXT else []

    def _at_endpoint(self, name: Name, instance: Instance) -> list[Record]:
        port, own = http_port(instance), (instance.id, instance.service, self._zone.domain)
        return [] if port is None else [Record(name, Kind.SRV, Target(port, own))]

    # --- other names ------------------------------------------------------------------------------------------------------------

    def _loopback(self, name: Name, kind: int) -> list[Record]:
        if kind == Kind.A:
            return [Record(name, Kind.A, LOOPBACK_V4)]
        return [Record(name, Kind.AAAA, LOOPBACK_V6)] if kind == Kind.AAAA and self._zone.v6 else []

    def _reverse(self, name: Name, kind: int) -> Answer | None:
        ip = reversed_ip(name) if kind == Kind.PTR else None
        if not ip:
            return None
        owners = self._owners.get(ip, [("localhost",)] if ip in (LOOPBACK_V4, LOOPBACK_V6) else [])
        return Answer(Status.GOOD, tuple(Record(name, Kind.PTR, owner) for owner in owners)) if owners else None

    @cached_property
    def _owners(self) -> dict[str, list[Name]]:
        """Address -> names of the instances that have it."""
        found: defaultdict[str, list[Name]] = defaultdict(list)
        for service in self.picture.services.values():
            for instance in _not_down(service.instances):
                for ip in ips_of(instance):
                    if len(found[ip]) < MOST_RECORDS:
                        found[ip].append((instance.id, service.name, self._zone.domain))
        return found

    # --- the shapes of answers --------------------------------------------------------------------------------------------------

    def _answered(self, name: Name, kind: int, records: Sequence[Record] | None, zone: Name) -> Answer:
        """`records` None: there is no such name."""
        if records is not None and kind == Kind.ANY:  # RFC 8482 section 4.2
            return Answer(Status.GOOD, (Record(name, Kind.HINFO, ("RFC8482", "")),))
        if not records:
            status = Status.NO_SUCH_NAME if records is None else Status.GOOD
            return Answer(status, authority=(self._authority(zone),))
        return Answer(Status.GOOD, tuple(records), additional=tuple(self._additional(records)))

    def _additional(self, records: Iterable[Record]) -> Iterable[Record]:
        """The addresses of what SRV records name, so that nobody must ask again."""
        for record in records:
            if isinstance(record.data, Target):
                host = self._find(record.data.name[:-1])
                for kind in (Kind.A, Kind.AAAA):
                    yield from [] if host is None else self._addresses(record.data.name, host, kind)

    def _authority(self, zone: Name) -> Record:
        return Record(zone, Kind.SOA, Authority(max(self.picture.revision, 0) & 0xFFFFFFFF), NEGATIVE_TTL)


class _Host(NamedTuple):
    """A host name of the mesh that is there."""

    name: Name
    instances: list[Instance]
    """Behind it, those that are not down."""
    single: bool
    """It names one instance, not a service."""


def _there(service: Service, name: HostName) -> list[Instance] | None:
    """The instances behind a host name of `service`; None where there is no such name."""
    instances = _not_down(service.instances)
    if name.instance is not None:
        return [i for i in instances if i.id == name.instance] or None
    if name.major is None:
        return instances
    served = [i for i in instances if name.major in i.majors]
    return served if served or name.major in service.majors else None


def _not_down(instances: Iterable[Instance]) -> list[Instance]:
    return [instance for instance in instances if instance.state is not State.DOWN]


def _listed(instances: Iterable[Instance]) -> list[Instance]:
    """As many as one answer has room for, ready ones first."""
    return sorted(instances, key=lambda i: (i.state is not State.READY, i.id))[:MOST_RECORDS]


def _text(name: Name, instance: Instance) -> Record:
    """Key and value as RFC 6763 section 6 has them."""
    said = (f"instance={instance.id}", f"version={instance.version}", f"state={instance.state.value}")
    return Record(name, Kind.TXT, tuple(each[:255] for each in said))
