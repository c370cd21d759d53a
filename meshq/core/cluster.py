"""What is known of a Kubernetes Deployment, and how it comes to fewer or more replicas without ending work.

A pod goes once the instance in it has drained: until then the Deployment's replicas count it, on top of those that are wanted, since
one that drains never takes messages again. A ReplicaSet deletes pods that no node has room for first, then those whose containers do
not run yet, then those that are not ready, then those whose `controller.kubernetes.io/pod-deletion-cost` is lowest; a pod without that
annotation costs 0. So the pods that may go are marked below 0, no other pod has to be touched, and as many are taken away as come
before all that have to stay.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from types import MappingProxyType
from typing import NamedTuple

from meshq.core.names import instance_id

UNMARKED = 0
MARKED = -1_000_000
"""What a pod that should go costs, plus its messages in flight: of several that are marked, the least busy goes first."""
UNKNOWN = 100_000
"""Messages that a ready pod counts as, of whom nobody knows how many it has: rather busy than idle."""


class ClusterFault(Exception):
    """The cluster did not do what was asked; the message says why, and what to do."""


class Scale(NamedTuple):
    """The /scale of a Deployment."""

    replicas: int
    """Ordered."""
    selector: str
    """The labels of its pods, as list requests take them."""
    version: str
    """Of the object: who changes it says from which version, so that two changes at once are noticed."""


class Pod(NamedTuple):
    name: str
    address: str = ""
    """Its IP address, "" before it has one."""
    ready: bool = True
    going: bool = False
    """It is being deleted."""
    cost: int | None = None
    """Its deletion cost, None without the annotation."""
    pending: bool = False
    """Its containers do not run yet."""
    unplaced: bool = False
    """No node has room for it."""


class Occupant(NamedTuple):
    """An instance that is in one of the pods, as the registry knows it."""

    service: str
    id: str
    host: str
    """Where it says that it is, as a pod's address."""
    in_flight: int
    drains: bool = False
    """It takes nothing any more, or was told so."""
    done: bool = False
    """It drains, and there is nothing left that its pod should wait for."""


class Plan(NamedTuple):
    """What is to be done, in this order."""

    drain: tuple[Occupant, ...]
    """To be told so."""
    costs: Mapping[str, int]
    """Pod name -> its new deletion cost, of those alone whose cost has to change."""
    replicas: int
    """To be ordered."""


def straight(replicas: int) -> Plan:
    """Where no pod has to be waited for."""
    return Plan((), MappingProxyType({}), replicas)


def planned(pods: Sequence[Pod], occupants: Sequence[Occupant], ordered: int, desired: int) -> Plan:
    """The next step of a Deployment with `ordered` replicas to where `desired` take messages, and it has no others.

    The least busy drain first; pods of whom nobody knows what they do cannot be told to, and go. Where that is so of all pods there
    is nothing to choose by, and Kubernetes chooses."""
    here = [pod for pod in pods if not pod.going]
    inside = _inside(here, occupants)
    if not any(inside.values()):
        return straight(desired)
    drained = {name for name, found in inside.items() if found and all(each.done for each in found)}
    draining = {name for name, found in inside.items() if found and all(each.drains for each in found)} - drained
    working = [pod for pod in here if pod.name not in drained | draining]
    surplus = max(0, min(ordered - len(draining), len(working)) - desired)
    victims = sorted(working, key=lambda pod: (pod.ready, _messages(inside[pod.name]), pod.name))[:surplus]
    told = {pod.name for pod in victims if inside[pod.name]}
    goes = drained | {pod.name for pod in victims} - told
    stay = [pod for pod in working if pod.name not in goes | told]
    return Plan(
        tuple(each for pod in victims for each in inside[pod.name] if not each.drains),
        _costs(here, goes, inside),
        _replicas(here, stay, goes, len(draining) + len(told), desired),
    )


def _replicas(here: Sequence[Pod], stay: Sequence[Pod], goes: set[str], waited_for: int, desired: int) -> int:
    """`goes`: those that may go, which are deleted only where they come before all others. More pods come before any goes; but those
    that find no room may be waiting for just that, and are ordered again after it."""
    unplaced = {pod.name for pod in stay if pod.unplaced}
    if goes and _first(here, goes | unplaced) > len(unplaced) > 0:
        return len(here) - _first(here, goes | unplaced)
    taken = _first(here, goes) if len(stay) >= desired else 0
    return desired + waited_for + len(goes) - taken


def _first(here: Sequence[Pod], goes: set[str]) -> int:
    """How many of `goes` a ReplicaSet deletes before any other pod, once they are marked."""
    order = sorted(here, key=lambda pod: (*_rank(pod), pod.name not in goes))
    return sum(1 for _ in takewhile(lambda pod: pod.name in goes, order))


def _rank(pod: Pod) -> tuple[bool, bool, bool]:
    """By which a ReplicaSet chooses before it looks at costs."""
    return not pod.unplaced, not pod.pending, pod.ready


def _costs(here: Sequence[Pod], goes: set[str], inside: Mapping[str, Sequence[Occupant]]) -> Mapping[str, int]:
    """Marks of an earlier choice that do not hold any more are taken back."""
    contested = {_rank(pod) for pod in here if pod.name not in goes}
    costs: dict[str, int] = {}
    for pod in sorted(here, key=lambda pod: (pod.ready, _messages(inside[pod.name]), pod.name)):
        if pod.name not in goes:
            if pod.cost is not None and pod.cost < UNMARKED:
                costs[pod.name] = UNMARKED
            continue
        cost = MARKED + _messages(inside[pod.name])
        if pod.cost != cost and (pod.ready or _rank(pod) in contested):
            costs[pod.name] = cost
    return costs


def _messages(occupants: Sequence[Occupant]) -> int:
    return min(UNKNOWN, sum(each.in_flight for each in occupants)) if occupants else UNKNOWN


def _inside(pods: Sequence[Pod], occupants: Sequence[Occupant]) -> Mapping[str, Sequence[Occupant]]:
    """Pod name -> who is in it: by what their ids say of it, else by an address that no other pod has."""
    by_name: dict[str, list[Occupant]] = defaultdict(list)
    by_host: dict[str, list[Occupant]] = defaultdict(list)
    for each in occupants:
        by_name[pod_of(each.id)].append(each)
        by_host[each.host].append(each)
    addresses = Counter(pod.address for pod in pods)
    found: dict[str, Sequence[Occupant]] = {}
    for pod in pods:
        alone = pod.address != "" and addresses[pod.address] == 1
        named = by_name[pod.name] or by_name[host_part(pod.name)]
        found[pod.name] = named or (by_host[pod.address] if alone else ())
    return found


def host_part(pod: str) -> str:
    """What an instance id in this pod begins with, unless it was set: the pod's name, cut where it is too long."""
    return instance_id(pod, _ANY)[: -len(_ANY) - 1]


def pod_of(instance: str) -> str:
    """The pod name that an instance id was made of, as `host_part` gives it."""
    return instance[: -len(_ANY) - 1]


_ANY = "aaaaaa"
"""As long as the random part of an instance id."""
