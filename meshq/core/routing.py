"""From an address and the picture of the mesh to a topic: step 4 of a call's path.

Routing only narrows down; the broker has the last word, because a message to a topic without a queue comes back. So a bare
major is sent even if the registry has never heard of it, and a registry that lost its data fails no call that names one.
"""

from typing import NamedTuple

from meshq.core.errors import Code, Problem
from meshq.core.instances import EMPTY, LIVE, Service, Snapshot, State
from meshq.core.names import topic
from meshq.core.selectors import Address, Selector

MAX_ROUTES = 10_000
"""Addresses remembered."""
MAX_MISSES = 3
"""How often receivers outside a selector put a message back before it is refused."""


class Route(NamedTuple):
    topic: str
    selector: str
    """What the receiver has to satisfy; "" when the topic says it all."""


def route(address: Address, snapshot: Snapshot) -> Route | Problem:
    """Where a call to `address` goes, or why nowhere."""
    service = snapshot.services.get(address.service)
    selector = address.selector
    if selector is not None and selector.major is not None:
        return Route(topic(address.service, selector.major), "")
    if service is None or not service.majors:
        return _unknown(address, snapshot)
    if selector is None or selector.latest:
        return Route(topic(service.name, _latest(service)), "")
    major = _satisfying(service, selector)
    if major is None:
        return Problem(
            Code.NO_SUCH_VERSION, f"no live version of {service.name} satisfies {selector.text!r}; {_there(service)}"
        )
    return Route(topic(service.name, major), selector.text)


class Routes:
    """`route`, remembered for as long as the picture is the same one."""

    def __init__(self) -> None:
        self._picture: Snapshot | None = None
        self._known: dict[Address, Route | Problem] = {}

    def find(self, address: Address, picture: Snapshot) -> Route | Problem:
        if picture is not self._picture:
            self._picture, self._known = picture, {}
        found = self._known.get(address)
        if found is None:
            found = route(address, picture)
            if len(self._known) < MAX_ROUTES:
                self._known[address] = found
        return found


def unroutable(address: Address, snapshot: Snapshot, key: str = "") -> Problem:
    """What a call was refused for that no queue took; `key` is its ordering key."""
    service = snapshot.services.get(address.service)
    if key and (snapshot is EMPTY or (service is not None and _has(service, address.selector))):
        return Problem(
            Code.BAD_HEADER,
            f"Meshq-Key: {address.service} takes no messages with an ordering key; set MESHQ_ORDERED=1 there",
        )
    if service is None or not service.majors:
        return _unknown(address, snapshot)
    return Problem(Code.NO_SUCH_VERSION, f"{address} has no queue; {_there(service)}")


def unheard_of(address: Address, snapshot: Snapshot) -> Problem | None:
    """What a message is refused for whose queue cannot be asked now, as far as the registry knows: it goes there later."""
    service = snapshot.services.get(address.service)
    if snapshot is EMPTY or (service is not None and service.majors and _has(service, address.selector)):
        return None
    return unroutable(address, snapshot)


def _has(service: Service, selector: Selector | None) -> bool:
    """Whether there is, or was, what is addressed. Anything but a bare major was routed to something that is."""
    return selector is None or selector.major is None or selector.major in service.majors


def _unknown(address: Address, snapshot: Snapshot) -> Problem:
    if snapshot is EMPTY:
        return Problem(
            Code.UNAVAILABLE,
            f"the registry has not answered yet, so where {address} goes is not known; an address with a major version "
            f"({address.service}@1) needs no registry",
        )
    known = ", ".join(sorted(snapshot.services)[:10]) or "none yet"
    return Problem(
        Code.UNKNOWN_SERVICE, f"{address.service!r} was never registered and has no queue; services known: {known}"
    )


def _latest(service: Service) -> int:
    """The highest major that someone serves; when nobody does, the highest there ever was (its queue keeps the call)."""
    return max(
        service.majors,
        key=lambda major: (_rank(service, major), major),
    )


def _rank(service: Service, major: int) -> int:
    states = {instance.state for instance in service.of_major(major)}
    if states & LIVE:
        return 2
    return 1 if states - {State.DOWN} else 0


def _satisfying(service: Service, selector: Selector) -> int | None:
    """The highest major whose ready instances all satisfy the selector; a major without one is judged by the lowest
    version that was ready when it last had some."""
    for major in sorted(service.majors, reverse=True):
        ready = [i.version for i in service.of_major(major) if i.state in LIVE] or [service.majors[major]]
        if all(selector.admits(version) for version in ready):
            return major
    return None


def _there(service: Service) -> str:
    versions = sorted({str(i.version) for i in service.instances if i.state in LIVE})
    majors = ", ".join(f"v{major}" for major in sorted(service.majors))
    return f"it has {majors} (ready now: {', '.join(versions) or 'none'})"
