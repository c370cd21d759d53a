"""Where an instance itself is, out of what it told the registry: for names and for people, never for calls."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from meshq.core.instances import Instance


def ips_of(instance: Instance) -> list[str]:
    """The IP addresses that an instance told of itself, each once: of its endpoints, else where its sidecar is. Names are never
    looked up."""
    for told in (instance.endpoints.values(), [instance.address]):
        found = dict.fromkeys(ip for ip in (_ip(_host_port(each)[0]) for each in told) if ip)
        if found:
            return list(found)
    return []


def http_port(instance: Instance) -> int | None:
    """Where its app itself speaks HTTP; None where that was not told."""
    host, port = _host_port(instance.endpoints.get("http", ""))
    return port if port and _ip(host) else None


def _host_port(endpoint: str) -> tuple[str, int | None]:
    """Of `10.0.0.7:8080`, `[fd00::7]:8080`, a bare address or a URL."""
    if endpoint.count(":") > 1 and "[" not in endpoint and "//" not in endpoint:
        return endpoint, None
    try:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def _ip(host: str) -> str:
    """The address in its usual form; "" for what is none of one machine."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return ""
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return "" if ip.is_unspecified or ip.is_multicast or "%" in host else str(ip)


def reversed_ip(name: Sequence[str]) -> str:
    """The labels of `7.0.0.10.in-addr.arpa` -> `10.0.0.7`; "" for what is no whole address."""
    try:
        if list(name[-2:]) == ["in-addr", "arpa"] and len(name) == 6:
            return str(ipaddress.IPv4Address(".".join(reversed(name[:4]))))
        if list(name[-2:]) == ["ip6", "arpa"] and len(name) == 34 and all(len(nibble) == 1 for nibble in name[:32]):
            digits = "".join(reversed(name[:32]))
            return str(ipaddress.IPv6Address(bytes.fromhex(digits)))
    except ValueError:
        pass
    return ""
