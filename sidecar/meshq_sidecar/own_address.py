"""Where other pods would find this one: its own address, learnt without a word to anybody but the resolver.

The kernel says which source address it would use towards a destination as soon as a UDP socket is connected to it, and connecting
such a socket sends nothing. The way to the registry is the one that counts in a pod with several networks.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

RESOLVE_SECONDS = 1.0
ANYWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses kept for documentation (RFC 5737, RFC 3849): nobody is there, but the default route leads there."""
_DISCARD = 9


async def own_address(registry_url: str) -> str:
    """An IP address. A loopback one only where there is no other."""
    loopback = "127.0.0.1"
    registry, here = await asyncio.gather(_resolved(_hosts(registry_url)), _resolved([socket.gethostname()]))
    for candidate in (*registry, *ANYWHERE, *here):
        source = _source_towards(candidate)
        if source and not ipaddress.ip_address(source).is_loopback:
            return source
        loopback = source or loopback
    return loopback


def endpoint(address: str, port: int) -> str:
    """`10.1.2.3:80`, `[fd00::1]:80`"""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _hosts(url: str) -> list[str]:
    """Of a URL with one or several, `redis://u:p@h1:1,h2,[::1]:2/0`; none of `embedded:`."""
    found = []
    for host in urlsplit(url).netloc.rpartition("@")[2].split(","):
        with suppress(ValueError):
            found.append(urlsplit(f"//{host}").hostname or "")
    return [host for host in found if host]


async def _resolved(hosts: Sequence[str]) -> list[str]:
    """Their addresses, as far as they are known within RESOLVE_SECONDS."""
    loop = asyncio.get_running_loop()
    found: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(RESOLVE_SECONDS):
            for host in hosts:
                with suppress(OSError, UnicodeError):
                    found += [str(info[4][0]) for info in await loop.getaddrinfo(host, None, type=socket.SOCK_DGRAM)]
    return found


def _source_towards(address: str) -> str:
    """ "" where no route leads there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect((address, _DISCARD))
            return str(trial.getsockname()[0]).partition("%")[0]
    except OSError:
        return ""
