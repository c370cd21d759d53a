"""The picture of the mesh as people and scripts see it: the JSON of `meshq services` and `meshq instances`, of the sidecar's
`/v1/services` and of the control API. camelCase keys; what is not known is None, never 0."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from meshq.core.instances import Instance, Pause, Service, Snapshot, State
from meshq.core.names import Version, topic
from meshq.core.standing import panics


def services(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [service(snapshot.services[name]) for name in sorted(snapshot.services)]


def service(found: Service) -> dict[str, Any]:
    """With `panic` where everybody who serves it is unhealthy."""
    shown: dict[str, Any] = {"name": found.name, "versions": versions(found)}
    return {**shown, "panic": True} if panics(found) else shown


def versions(found: Service) -> list[dict[str, Any]]:
    """A row for each version that has instances, and for each major that has none (its topic may still hold messages)."""
    by_version: dict[Version, list[Instance]] = {}
    for instance in found.instances:
        by_version.setdefault(instance.version, []).append(instance)
    rows = [(version.key(), _version(found.name, version, members)) for version, members in by_version.items()]
    served = {major for instance in found.instances for major in instance.majors}
    rows += [
        (last.key(), _row(found.name, str(last), major, []))
        for major, last in found.majors.items()
        if major not in served
    ]
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def instances(snapshot: Snapshot, only: str | None = None) -> list[dict[str, Any]]:
    return [
        instance(member)
        for name in sorted(snapshot.services)
        if only is None or name == only
        for member in sorted(snapshot.services[name].instances, key=lambda i: i.id)
    ]


def instance(member: Instance) -> dict[str, Any]:
    """INTERFACE part 9; with `endpoints` and `pause` only where there are such."""
    said: dict[str, Any] = {
        "id": member.id,
        "service": member.service,
        "version": str(member.version),
        "state": member.state.value,
        "lastSeen": timestamp(member.last_seen_ms),
        "address": member.address,
        "inFlight": member.load.in_flight,
        "capacity": member.load.capacity,
        "metadata": dict(member.metadata),
    }
    if member.endpoints:
        said["endpoints"] = dict(member.endpoints)
    if member.state is State.PAUSED and (held := _pause(member)):
        said["pause"] = held
    return said


def _pause(member: Instance) -> dict[str, Any] | None:
    """Of its own and an operator's the one that ends last: if any of them holds, that one does."""
    pauses = [("operator", member.orders.pause), ("self", member.pause)]
    there = [(by, pause) for by, pause in pauses if pause is not None]
    if not there:
        return None
    by, last = max(there, key=lambda each: _end(each[1]))
    return {**pause(last), "by": by}


def pause(held: Pause) -> dict[str, Any]:
    """`until` None: until it is lifted."""
    return {"reason": held.reason, "until": timestamp(held.until_ms or 0)}


def _end(pause: Pause) -> float:
    return float("inf") if pause.until_ms is None else pause.until_ms


def timestamp(unix_ms: int) -> str | None:
    """RFC 3339 with milliseconds, in UTC."""
    if not unix_ms:
        return None
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _version(name: str, version: Version, members: list[Instance]) -> dict[str, Any]:
    serves = {major for member in members for major in member.majors}
    return _row(name, str(version), version.major if serves else None, members)


def _row(name: str, version: str, major: int | None, members: list[Instance]) -> dict[str, Any]:
    states = Counter(member.state for member in members)
    return {
        "version": version,
        "topic": None if major is None else topic(name, major),
        "instances": len(members),
        "ready": states[State.READY],
        "states": {state.value: count for state, count in states.items()},
    }
