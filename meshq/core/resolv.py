"""What a pod's /etc/resolv.conf says: which resolvers there are, and what its cluster calls services (INTERFACE part 3.5)."""

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

MOST_SERVERS = 3
"""glibc reads so many nameservers (resolv.conf(5), MAXNS), so the app has never asked a later one."""
CLUSTER_DOMAIN = "cluster.local"
"""What kubeadm and the managed clusters call theirs."""
DNS_PORT = 53
LOOPBACK = ("127.0.0.1", "::1")


class ResolvConf(NamedTuple):
    servers: tuple[str, ...] = ()
    """IP addresses, those of IPv6 perhaps with `%interface`."""
    search: tuple[str, ...] = ()


class Cluster(NamedTuple):
    """Where in which cluster a pod is."""

    namespace: str | None
    """None: the search list does not tell. Full names of any namespace are then the cluster's own."""
    domain: str = CLUSTER_DOMAIN


def read_resolv_conf(text: str) -> ResolvConf:
    """As resolv.conf(5) has it: the last `search` or `domain` counts. What cannot be read is left out."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and _is_address(words[1]):
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(word.rstrip(".").lower() for word in words[1:] if word.strip("."))
    return ResolvConf(tuple(servers[:MOST_SERVERS]), search)


def upstream(servers: Iterable[str], own_port: int) -> tuple[str, ...]:
    """`servers` without this sidecar itself, which listens on loopback at `own_port`; resolv.conf means port 53 alone. 0.0.0.0 and ::
    are this machine too. 127.0.0.53 is not us: we listen on 127.0.0.1 alone."""
    return tuple(server for server in servers if own_port != DNS_PORT or not _is_ours(server))


def cluster_of(search: Iterable[str]) -> Cluster:
    """From a search list as the kubelet writes it: `shop.svc.cluster.local svc.cluster.local cluster.local`."""
    for domain in search:
        namespace, _, rest = domain.partition(".")
        kind, _, cluster = rest.partition(".")
        if namespace and kind == "svc" and cluster:
            return Cluster(namespace, cluster)
    return Cluster(None)


def service_of(name: str, cluster: Cluster) -> str | None:
    """The service that the cluster would mean by `name` (lower case, no dot at its end); None for a name of another form:
    `orders`, `orders.shop`, `orders.shop.svc`, `orders.shop.svc.cluster.local`."""
    service, dot, rest = name.partition(".")
    if not rest:
        return None if dot else service or None
    namespace, _, end = rest.partition(".")
    if end not in ("", "svc", f"svc.{cluster.domain}"):
        return None
    if cluster.namespace is None:
        return service if end else None  # orders.shop might be a host of the Internet
    return service if namespace == cluster.namespace else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_ours(server: str) -> bool:
    address = ipaddress.ip_address(server)
    address = getattr(address, "ipv4_mapped", None) or address
    return str(address) in LOOPBACK or address.is_unspecified
