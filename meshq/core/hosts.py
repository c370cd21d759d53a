"""Whose request it is, by its Host: the mesh's own API on loopback, a service of the mesh, or a stranger's."""

import ipaddress
from enum import Enum

from meshq.core.errors import Code, refuse
from meshq.core.names import BadName, HostName, bare_host, parse_host
from meshq.core.selectors import Address, major_selector


class Whose(Enum):
    LOCAL = "local"  # localhost or a loopback address
    STRANGER = "stranger"  # anything else outside the mesh


def read_host(host: str, domain: str) -> Address | Whose:
    """`host` as in a Host field, port and all. Raises Refused for a malformed name under the mesh's own domain."""
    try:
        name = parse_host(host, domain)
    except BadName as error:
        raise refuse(Code.BAD_ADDRESS, str(error)) from error
    if name is not None:
        return _address(name)
    return Whose.LOCAL if _is_loopback(host) else Whose.STRANGER


def is_foreign(origin: str, domain: str) -> bool:
    """Whether a request with this `Origin` was made by a web page from elsewhere. `null` (a sandboxed page, a file) is."""
    scheme, separator, host = origin.partition("://")
    if not separator or scheme not in ("http", "https"):
        return True
    try:
        return parse_host(host, domain) is None and not _is_loopback(host)
    except BadName:
        return True


def _address(name: HostName) -> Address:
    if name.instance is not None:
        raise refuse(
            Code.BAD_ADDRESS,
            f"{name.instance}.{name.service} is one instance: calls go to a service's queue, not to an instance; call {name.service}",
        )
    return Address(name.service, None if name.major is None else major_selector(name.major))


def _is_loopback(host: str) -> bool:
    """By the text alone: no name is ever looked up."""
    name = bare_host(host)
    if name is None or name == "localhost":
        return name is not None
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    # Not every version of Python sees through ::ffff:127.0.0.1 by itself.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
