"""What an app may ask of its sidecar about itself: the bodies of `POST /v1/self/pause` and `PATCH /v1/self`."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshq.core.durations import parse_duration_ms

MAX_REASON = 200
"""Characters."""
MAX_PAIRS = 64
MAX_METADATA = 4096
"""Bytes of all names and values in UTF-8: every sidecar of the mesh holds them."""
MAX_CAPACITY = 10_000
"""As of MESHQ_APP_CONCURRENCY."""


class PauseRequest(NamedTuple):
    reason: str
    for_ms: int | None
    """None: until it is lifted."""


class Patch(NamedTuple):
    metadata: Mapping[str, str | None]
    """What changes; None takes a name out."""
    capacity: int | None
    sets_capacity: bool
    """`capacity` None with this: what the settings say again."""


def parse_pause(body: bytes | None) -> PauseRequest:
    """`{"reason": "...", "for": "5m"}`, both optional. Raises ValueError with every fault."""
    given = _object(body, {"reason", "for"})
    reason, for_ms, faults = given.get("reason", ""), None, []
    if not isinstance(reason, str) or len(reason) > MAX_REASON or not reason.isprintable():
        faults.append(f"reason: give a line of at most {MAX_REASON} characters")
    if given.get("for") is not None:
        try:
            for_ms = parse_duration_ms(str(given["for"]))
        except ValueError as error:
            faults.append(f"for: {error}")
        else:
            faults += [] if for_ms > 0 else ["for: give a time above 0, or leave it out to pause until resumed"]
    if faults:
        raise ValueError("; ".join(faults))
    return PauseRequest(str(reason), for_ms)


def parse_patch(body: bytes | None) -> Patch:
    """`{"metadata": {"name": "value"}, "capacity": 8}`, both optional, as a JSON merge patch (RFC 7396): null takes a name out, or
    the capacity back to the settings'. Raises ValueError with every fault."""
    given = _object(body, {"metadata", "capacity"})
    metadata, capacity, faults = given.get("metadata", {}), given.get("capacity"), []
    if not isinstance(metadata, dict):
        faults.append('metadata: give an object such as {"zone": "a"}')
    elif not all(value is None or _is_text(value) for value in metadata.values()):
        faults.append("metadata: every value is a text, or null to take it out")
    elif not all(name and name.isprintable() for name in metadata):
        faults.append("metadata: every name is a printable text")
    if capacity is not None and (type(capacity) is not int or not 0 <= capacity <= MAX_CAPACITY):
        faults.append(f"capacity: give a whole number from 0 to {MAX_CAPACITY}, or null for MESHQ_APP_CONCURRENCY")
    if faults:
        raise ValueError("; ".join(faults))
    return Patch(metadata, capacity, "capacity" in given)


def patched(metadata: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Raises ValueError where that is too much."""
    merged = {**metadata, **changes}
    found = {name: value for name, value in merged.items() if value is not None}
    size = sum(len(text.encode()) for pair in found.items() for text in pair)
    if len(found) > MAX_PAIRS or size > MAX_METADATA:
        raise ValueError(
            f"metadata: at most {MAX_PAIRS} names and {MAX_METADATA} bytes in all; this would be {len(found)} and {size}"
        )
    return found


def _is_text(value: object) -> bool:
    """JSON can write half of a surrogate pair, which is no text."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _object(body: bytes | None, known: set[str]) -> Mapping[str, Any]:
    """Raises ValueError."""
    if not (body or b"").strip():
        return {}
    try:
        given = json.loads((body or b"").decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"the body is not an object with {_listed(known)}")  # noqa: TRY004
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ValueError(f"unknown: {', '.join(name[:40] for name in unknown[:5])}; there is {_listed(known)}")
    return given


def _listed(known: set[str]) -> str:
    return " and ".join(sorted(known))
