"""From an address, the picture of the mesh and the service's route policy to a topic: step 4 of a call's path.

Routing only narrows down; the broker has the last word, because a message to a topic without a queue comes back. So a bare
major is sent even if the registry has never heard of it, and a registry that lost its data fails no call that names one.

What the policy of a service says is worked out once per picture and address. What is left for a call is a look-up, and where
several versions share the calls one choice among routes that are ready made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from meshq.core.callreq import Call
from meshq.core.deprecations import Fields, deprecation_fields
from meshq.core.errors import Code, Problem
from meshq.core.http import header
from meshq.core.instances import EMPTY, LIVE, Service, Snapshot, State
from meshq.core.names import topic
from meshq.core.policy import Policy, WhenAbsent
from meshq.core.selectors import Address, Selector
from meshq.core.shares import DRAWS, Shares
from meshq.core.standing import panics

MAX_ROUTES = 10_000
"""Addresses remembered."""
GOING = frozenset({State.DRAINING, State.DOWN})
"""The states of instances that will take nothing more."""
MAX_MISSES = 3
"""How often receivers outside a selector put a message back before it is refused."""


class Copies(NamedTuple):
    """Which calls are copied, and where to (a policy's `mirror`)."""

    topic: str
    below: int
    """Of DRAWS."""

    def take(self, random: bytes) -> bool:
        """Whether the call with these 16 random bytes is copied. Independent of which version it goes to."""
        return int.from_bytes(random[8:12], "big") < self.below


class Route(NamedTuple):
    topic: str
    selector: str
    """What the receiver has to satisfy; "" when the topic says it all."""
    event: str = ""
    """What to count with every call that goes this way (meshq.adapters.metrics.EVENTS): `fallback`, `panic`."""
    told: Fields = ()
    """What its answers tell the caller: that the version is deprecated."""
    timeout_ms: int | None = None
    """For callers that name none."""
    copies: Copies | None = None
    wakes: str = ""
    """The topic that is meant and has no instance (those that are down or draining are none any more): whoever scales it is to be told
    of each call. "" where somebody is there, or starting."""


@dataclass(frozen=True, slots=True)
class Absent(Problem):
    """Nobody is ready to take the call, and its route policy says whenAbsent: fail."""

    wakes: str = ""
    """As in Route."""


class Choice:
    """Several versions share the calls of an address."""

    __slots__ = ("_outcomes", "_shares", "_sticky", "most")

    def __init__(self, weights: Mapping[int, int], outcomes: Mapping[int, Route | Problem], sticky: str) -> None:
        self._shares = Shares(weights)
        self._outcomes = outcomes
        self._sticky = sticky.encode()
        self.most = outcomes[max(weights, key=lambda major: (weights[major], major))]
        """Where most of them go."""

    def pick(self, call: Call, random: bytes) -> Route | Problem:
        value = header(call.headers, self._sticky) if self._sticky else None
        if not value and call.key:  # messages with one key stay in order, so they stay with one version
            value = call.key.encode()
        if not value:  # a repeat comes to the version that knows of the first
            value = header(call.headers, b"idempotency-key")
        if value:
            return self._outcomes[self._shares.of(value)]
        return self._outcomes[self._shares.at(int.from_bytes(random[:4], "big"))]


class Routes:
    """Where the calls of one service go, worked out anew with each picture."""

    def __init__(self, caller: str) -> None:
        self._caller = caller
        self._picture: Snapshot | None = None
        self._known: dict[Address, Route | Problem | Choice] = {}

    def find(self, call: Call, picture: Snapshot, random: bytes) -> Route | Problem:
        """Where `call` goes, or why nowhere. `random`: 16 bytes; those of its message id, which nothing else depends on."""
        if picture is not self._picture:
            self._picture, self._known = picture, {}
        found = self._known.get(call.address)
        if found is None:
            found = _denial(call.address, picture, self._caller) or _routes(call.address, picture)
            if len(self._known) < MAX_ROUTES:
                self._known[call.address] = found
        return found.pick(call, random) if type(found) is Choice else found  # type: ignore[return-value]


def route(address: Address, snapshot: Snapshot) -> Route | Problem:
    """Where an operator's message to `address` goes: to the version that most calls go to, whoever may call it."""
    found = _routes(address, snapshot)
    return found.most if isinstance(found, Choice) else found


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


# --- the versions -------------------------------------------------------------------------------------------------------------


def _denial(address: Address, snapshot: Snapshot, caller: str) -> Problem | None:
    policy = snapshot.policies.get(address.service)
    if policy is None or policy.allow is None or caller in policy.allow:
        return None
    return Problem(
        Code.DENIED, f"the route policy of {address.service} does not allow {caller or 'this caller'} (its key `allow`)"
    )


def _routes(address: Address, snapshot: Snapshot) -> Route | Problem | Choice:
    service = snapshot.services.get(address.service)
    policy = snapshot.policies.get(address.service) or Policy(address.service)
    selector = address.selector
    if selector is not None and selector.major is not None:
        return _to(service or Service(address.service, {}), policy, selector.major)
    if service is None or not service.majors:
        return _unknown(address, snapshot)
    if selector is None:
        return _shared_out(service, policy)
    if selector.latest:
        return _to_or_instead(service, policy, _latest(service))
    major = _satisfying(service, selector)
    if major is None:
        return Problem(
            Code.NO_SUCH_VERSION, f"no live version of {service.name} satisfies {selector.text!r}; {_there(service)}"
        )
    return _to(service, policy, major, selector.text)


def _shared_out(service: Service, policy: Policy) -> Route | Problem | Choice:
    """Of a call that names no version. A version with weight that never was there cannot be called, so the others share."""
    if not policy.weights:
        return _to_or_instead(service, policy, _latest(service))
    weights = {major: weight for major, weight in policy.weights.items() if weight and major in service.majors}
    outcomes = {major: _to_or_instead(service, policy, major) for major in weights}
    if not weights:
        named = ", ".join(f"v{major}" for major, weight in policy.weights.items() if weight)
        return Problem(
            Code.NO_SUCH_VERSION,
            f"the route policy of {service.name} sends its calls to {named}, which never was there; {_there(service)}",
        )
    if len(outcomes) == 1:
        return next(iter(outcomes.values()))
    return Choice(weights, outcomes, policy.sticky)


def _to_or_instead(service: Service, policy: Policy, major: int) -> Route | Problem:
    """To a version that the caller did not choose, so another may do."""
    if policy.when_absent is WhenAbsent.FALLBACK and not _is_ready(service, major):
        for other in policy.fallback:
            if _is_ready(service, other):
                instead = _way(service, policy, other, event="fallback")
                return instead._replace(wakes=_wakes(service, major))
    return _to(service, policy, major)


def _to(service: Service, policy: Policy, major: int, selector: str = "") -> Route | Problem:
    if _is_ready(service, major):
        return _way(service, policy, major, selector)
    if panics(service):
        return _way(service, policy, major, selector, event="panic")
    if policy.when_absent is WhenAbsent.FAIL and major in service.majors:
        return Absent(
            Code.NO_INSTANCE,
            f"no instance of {topic(service.name, major)} is ready ({_states(service, major)}), and its route policy says "
            "whenAbsent: fail",
            wakes=_wakes(service, major),
        )
    return _way(service, policy, major, selector)


def _way(service: Service, policy: Policy, major: int, selector: str = "", event: str = "") -> Route:
    deprecation = policy.deprecated.get(major)
    return Route(
        topic(service.name, major),
        selector,
        event,
        () if deprecation is None else deprecation_fields(deprecation),
        policy.timeout_ms,
        _copies(service, policy, major),
        _wakes(service, major),
    )


def _wakes(service: Service, major: int) -> str:
    there = any(i.state not in GOING for i in service.of_major(major))
    return "" if there else topic(service.name, major)


def _copies(service: Service, policy: Policy, major: int) -> Copies | None:
    mirror = policy.mirror
    if mirror is None or mirror.to == major or not mirror.percent:
        return None
    if not _is_ready(service, mirror.to):  # copies would only pile up, and be old news to whoever comes
        return None
    return Copies(topic(service.name, mirror.to), round(mirror.percent / 100 * DRAWS))


def _is_ready(service: Service, major: int) -> bool:
    return any(i.state in LIVE for i in service.of_major(major))


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
    if address.service in snapshot.services:
        return Problem(
            Code.UNKNOWN_SERVICE, f"{address.service!r} is registered, but serves no version: nobody takes its calls"
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


def _states(service: Service, major: int) -> str:
    """`2 paused, 1 starting`"""
    states = [i.state.value for i in service.of_major(major)]
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "there is none"
