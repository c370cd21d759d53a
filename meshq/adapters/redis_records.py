"""What stands in Redis of an instance, written and read (redis_scripts/service/common.lua has the layout)."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import msgpack

from meshq.core.instances import Instance, Load, Orders, Pause, State, visible_state
from meshq.core.names import Version, parse_version
from meshq.core.policy import Policy
from meshq.core.policy_parsing import parse_policy, policy_as_json

NO_METADATA: Mapping[str, str] = MappingProxyType({})


class Record(NamedTuple):
    """What an instance said of itself when it registered."""

    version: Version
    majors: tuple[int, ...]
    address: str
    endpoints: Mapping[str, str]
    ttl_ms: int


class Entry(NamedTuple):
    """An instance as readers are to see it."""

    instance: Instance
    expired: bool
    """Its lease ran out, and it was not given up."""
    unsaid: bool
    """That, or that a pause ended, was not counted as a change yet."""
    late: bool
    """It could be given up."""


# --- writing ----------------------------------------------------------------------------------------------------------------


def record(instance: Instance, process: str = "") -> bytes:
    """`process` is the token of the one that registers it."""
    return _packed(
        {
            "version": str(instance.version),
            "order": version_order(instance.version),
            "majors": instance.majors,
            "address": instance.address,
            "endpoints": dict(instance.endpoints),
            "ttl": instance.ttl_ms,
            "process": process,
        }
    )


def metadata(about: Mapping[str, str]) -> bytes:
    return _packed(dict(sorted(about.items()))) if about else b""


def pause(wanted: Pause | None) -> bytes:
    return b"" if wanted is None else _packed({"reason": wanted.reason, "until": wanted.until_ms})


def load(reported: Load) -> str:
    return f"{reported.in_flight} {reported.capacity}"


def policy(wanted: Policy | None) -> str:
    return "" if wanted is None else json.dumps(policy_as_json(wanted), ensure_ascii=False)


def version_order(version: Version) -> str:
    """Text that compares, byte by byte, as versions do by precedence. It has no colon in it.

    A pre-release is below its release ("!" and digits are below "~"); a numeric field is below another, and compares by
    its length first; "!" is below everything that a field can have, so that fewer fields are below more.
    """
    numbers = f"{version.major:010d}{version.minor:010d}{version.patch:010d}"
    if not version.pre:
        return numbers + "~"
    fields = (f"0{len(f):03d}{f}" if f.isdecimal() else f"1{f}" for f in version.pre)
    return numbers + "".join(f"{field}!" for field in fields) + "!"


def _packed(content: object) -> bytes:
    packed: bytes = msgpack.packb(content)
    return packed


# --- reading ----------------------------------------------------------------------------------------------------------------


def read(
    service: str, ident: bytes, fields: Mapping[bytes, bytes], deadlines: Mapping[bytes, bytes], now_ms: int
) -> Entry:
    """`deadlines` has those that were not given up. Raises ValueError, KeyError, TypeError for what cannot be read."""
    known = _record(fields[ident])
    generation, state, _, in_flight, capacity, ttl, out = fields[ident + b":status"].split()
    gone = ident not in deadlines
    deadline = int(out) if gone else int(float(deadlines[ident]))
    expired = now_ms >= deadline
    wanted = fields.get(ident + b":wants")
    own, orders, over = (None, Orders(), False) if wanted is None else _wants(wanted, now_ms)
    about = fields.get(ident + b":meta")
    told = State(state.decode())
    instance = Instance(
        service,
        ident.decode(),
        known.version,
        known.majors,
        visible_state(told, own, orders, now_ms, expired=expired, evicted=gone),
        known.address,
        NO_METADATA if about is None else _texts(about),
        Load(int(in_flight), int(capacity)),
        deadline - int(ttl),
        int(generation),
        known.endpoints,
        known.ttl_ms,
        own,
        orders,
    )
    unsaid = over or (expired and not gone and out == b"0")
    return Entry(instance, expired and not gone, unsaid, not gone and now_ms >= deadline + int(ttl))


# One and the same from one picture to the next, nearly always: so what was read is remembered.


@lru_cache(maxsize=16_384)
def _record(packed: bytes) -> Record:
    content = _unpacked(packed)
    version, majors, address = (content[name] for name in ("version", "majors", "address"))
    endpoints, ttl = content.get("endpoints", {}), content.get("ttl", 0)
    right = (
        isinstance(version, str)
        and isinstance(majors, list)
        and all(type(major) is int for major in majors)
        and isinstance(address, str)
        and type(ttl) is int
    )
    if not right:
        raise ValueError("a field has the wrong type")
    return Record(parse_version(version), tuple(majors), address, _only_texts(endpoints), ttl)


@lru_cache(maxsize=16_384)
def _texts(packed: bytes) -> Mapping[str, str]:
    return _only_texts(_unpacked(packed))


def _only_texts(content: object) -> Mapping[str, str]:
    if not isinstance(content, dict) or not all(isinstance(text, str) for pair in content.items() for text in pair):
        raise ValueError("not a map of texts")
    return MappingProxyType(content)


def _wants(packed: bytes, now_ms: int) -> tuple[Pause | None, Orders, bool]:
    """Its own pause, and what an operator wants; without pauses that are over, and whether there were any."""
    content = _unpacked(packed)
    found = [_pause(content.get(who)) for who in ("own", "operator")]
    own, operator = (wanted if wanted is not None and wanted.holds(now_ms) else None for wanted in found)
    return own, Orders(operator, drain=bool(content.get("drain"))), [own, operator] != found


def _pause(content: Any) -> Pause | None:
    if content is None:
        return None
    until = content.get("until")
    return Pause(str(content["reason"]), None if until is None else int(until))


def _unpacked(packed: bytes) -> dict[Any, Any]:
    try:
        content = msgpack.unpackb(packed)
    except (msgpack.UnpackException, RecursionError) as error:
        raise ValueError("not msgpack") from error
    if not isinstance(content, dict):
        raise ValueError("not a map")  # noqa: TRY004 - what cannot be read is one kind of fault
    return content


@lru_cache(maxsize=1024)
def read_policy(service: str, text: bytes) -> Policy:
    """Raises ValueError."""
    return parse_policy(service, json.loads(text))


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
