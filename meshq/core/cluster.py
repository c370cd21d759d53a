"""What is known of a Kubernetes Deployment, and which of its pods go when it shrinks.

A ReplicaSet deletes pods that are not ready first, then those whose `controller.kubernetes.io/pod-deletion-cost` is lowest; a pod
without that annotation costs 0. So the pods that should go are marked below 0, and no other pod has to be touched.
"""

from collections.abc import Mapping, Sequence
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


def deletion_costs(pods: Sequence[Pod], replicas: int, in_flight: Mapping[str, int]) -> Mapping[str, int]:
    """Pod name -> its new cost, of those alone whose cost has to change so that `replicas` pods stay and the least busy go.

    `in_flight`: messages by pod name or address. Where it says nothing of any pod there is nothing to choose by, and nothing is
    marked. Marks of an earlier choice that do not hold any more are taken back."""
    here = [pod for pod in pods if not pod.going]
    busy = {pod.name: _messages(pod, in_flight) for pod in here}
    if all(messages is None for messages in busy.values()):
        return {}
    counted = {name: UNKNOWN if messages is None else min(messages, UNKNOWN) for name, messages in busy.items()}
    order = sorted(here, key=lambda pod: (pod.ready, counted[pod.name], pod.name))
    goes = {pod.name for pod in order[: max(0, len(here) - replicas)]}
    wanted = {pod.name: MARKED + counted[pod.name] if pod.name in goes else UNMARKED for pod in here}
    return {pod.name: wanted[pod.name] for pod in order if _must_change(pod, pod.name in goes, wanted[pod.name])}


def _must_change(pod: Pod, goes: bool, wanted: int) -> bool:
    if goes:
        return pod.ready and pod.cost != wanted
    return pod.cost is not None and pod.cost < UNMARKED


def _messages(pod: Pod, in_flight: Mapping[str, int]) -> int | None:
    names = (pod.name, host_part(pod.name), pod.address)
    return next((in_flight[name] for name in names if name in in_flight), None)


def host_part(pod: str) -> str:
    """What an instance id in this pod begins with, unless it was set: the pod's name, cut where it is too long."""
    return instance_id(pod, _ANY)[: -len(_ANY) - 1]


def pod_of(instance: str) -> str:
    """The pod name that an instance id was made of, as `host_part` gives it."""
    return instance[: -len(_ANY) - 1]


_ANY = "aaaaaa"
"""As long as the random part of an instance id."""
