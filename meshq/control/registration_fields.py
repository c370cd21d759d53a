"""What a container without a sidecar says of itself, read: JSON of `PUT /v1/services/<service>/instances/<id>`."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from meshq.control.bodies import read_duration_ms
from meshq.core import names
from meshq.core.errors import Code, refuse
from meshq.core.instances import TTL_MS, Instance, Load, State
from meshq.core.names import BadName, Version
from meshq.core.self_requests import MAX_METADATA, MAX_PAIRS

KEYS = ("version", "endpoints", "ttl", "metadata", "capacity", "inFlight", "state")
MIN_TTL_MS, MAX_TTL_MS = 1000, 600_000
MAX_ENDPOINTS = 16
MAX_ENDPOINT = 300
MAX_LOAD = 1_000_000
STATES = (State.READY, State.STARTING, State.UNHEALTHY, State.PAUSED, State.DRAINING)
"""Those that one can say of oneself."""

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9-]{0,14}", re.ASCII)  # as a service in an SRV record has it (RFC 6335 5.1)
_ENDPOINT = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9-]{0,14})://)?(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?(?:/[!-~]*)?",
    re.ASCII,
)
_USUAL = "http"
"""What an endpoint of a list is called that is no URL."""


def read(service: str, ident: str, said: dict[str, Any]) -> Instance:
    """Every text in `said` can be written in UTF-8 (bodies.read_map). Raises Refused with everything that is wrong."""
    faults: list[str] = []

    def take(key: str, read_one: Callable[[Any], T], default: T) -> T:
        if said.get(key) is None:
            return default
        try:
            return read_one(said[key])
        except ValueError as error:
            faults.append(f"{key}: {error}")
            return default

    try:
        names.check_instance(ident)
    except BadName as error:
        faults.append(str(error))
    if said.get("version") is None:
        faults.append("version: is required, such as 2.3.1")
    no_endpoints: dict[str, str] = {}
    endpoints = take("endpoints", _endpoints, no_endpoints)
    instance = Instance(
        service,
        ident,
        take("version", _version, Version(0, 0, 0)),
        (),
        take("state", _state, State.READY),
        address=_address(endpoints),
        metadata=take("metadata", _metadata, {}),
        load=Load(take("inFlight", _count, 0), take("capacity", _count, 0)),
        endpoints=endpoints,
        ttl_ms=take("ttl", _ttl_ms, TTL_MS),
    )
    if faults:
        raise refuse(Code.BAD_REQUEST, "; ".join(faults))
    return instance


def _version(value: Any) -> Version:
    return names.parse_version(str(value))


def _state(value: Any) -> State:
    for state in STATES:
        if value == state.value:
            return state
    raise ValueError(f"{str(value)[:40]!r} is not one of {', '.join(state.value for state in STATES)}")


def _ttl_ms(value: Any) -> int:
    ttl_ms = read_duration_ms(value)
    if not MIN_TTL_MS <= ttl_ms <= MAX_TTL_MS:
        raise ValueError(f"{value} is not between 1s and 10m")
    return ttl_ms


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_LOAD:
        raise ValueError(f"{str(value)[:40]} is not a number between 0 and {MAX_LOAD:,}")
    return value


def _metadata(value: Any) -> dict[str, str]:
    """As much as an app may tell of itself through its sidecar (core/self_requests)."""
    if not isinstance(value, dict):
        raise ValueError('give an object such as {"zone": "a"}')  # noqa: TRY004
    for name, text in value.items():
        if not name or not name.isprintable():
            raise ValueError(f"{name[:40]!r} is not a printable name")
        if not isinstance(text, str):
            raise ValueError(f"{name[:40]!r} is not a text")  # noqa: TRY004
    size = sum(len(text.encode()) for pair in value.items() for text in pair)
    if len(value) > MAX_PAIRS or size > MAX_METADATA:
        raise ValueError(
            f"at most {MAX_PAIRS} names and {MAX_METADATA} bytes in all; this would be {len(value)} and {size}"
        )
    return dict(value)


# --- endpoints --------------------------------------------------------------------------------------------------------------


def _endpoints(value: Any) -> dict[str, str]:
    """`{"http": "10.0.0.7:8080"}`, or `["http://10.0.0.7:8080"]`, where each is called by its scheme."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        named = list(value.items())
    elif isinstance(value, list):
        named = [(_name_of(_matched(each)), each) for each in value]
    else:
        raise ValueError('give a map such as {"http": "10.0.0.7:8080"}, or a list of URLs')  # noqa: TRY004
    if len(named) > MAX_ENDPOINTS:
        raise ValueError(f"there are more than {MAX_ENDPOINTS}")
    found: dict[str, str] = {}
    for name, endpoint in named:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name[:40]!r} is not the name of a protocol: up to 15 lower-case letters, digits and hyphens"
            )
        if name in found:
            raise ValueError(f"two are called {name}: give a map, with a name for each")
        match = _matched(endpoint)
        if match["port"] is None and match["scheme"] is None:
            raise ValueError(f"{endpoint!r} has no port")
        found[name] = endpoint
    return found


def _matched(endpoint: Any) -> re.Match[str]:
    match = _ENDPOINT.fullmatch(endpoint) if isinstance(endpoint, str) and len(endpoint) <= MAX_ENDPOINT else None
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) <= 65535):
        raise ValueError(f"{str(endpoint)[:80]!r} is not an endpoint such as 10.0.0.7:8080 or http://10.0.0.7:8080")
    return match


def _name_of(match: re.Match[str]) -> str:
    return match["scheme"] or _USUAL


def _address(endpoints: dict[str, str]) -> str:
    """Where it is, for people: the first endpoint's host and port."""
    if not endpoints:
        return ""
    match = _matched(next(iter(endpoints.values())))
    return match["host"] if match["port"] is None else f"{match['host']}:{match['port']}"
