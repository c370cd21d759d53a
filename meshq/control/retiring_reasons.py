"""Why a version cannot be retired: who uses it, and what lies in its queues. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from meshq.core.instances import Service, State
from meshq.core.policy import Policy
from meshq.core.queue_names import read_name
from meshq.core.views import timestamp
from meshq.ports import QueueStats

_OWN = ("call", "work", "key", "event", "dead")


class Reason(NamedTuple):
    kind: str
    """instances callers messages deadLetters subscriptions policy"""
    name: str
    """Of what uses it: an instance, a caller, a queue, a subscription, a key of the policy."""
    detail: str
    forcible: bool = False
    """Nothing is lost if it is passed over, but somebody may be surprised."""


def queues_of(topic: str, listed: Sequence[QueueStats]) -> list[QueueStats]:
    """Those that are the version's own, by name."""
    own = [each for each in listed if (name := read_name(each.queue)) and name.topic == topic and name.kind in _OWN]
    return sorted(own, key=lambda each: each.queue)


def of_instances(major: int, service: Service | None) -> Iterator[Reason]:
    for instance in service.of_major(major) if service is not None else ():
        if instance.state is not State.DOWN:
            yield Reason(
                "instances", instance.id, f"instance {instance.id} ({instance.version}) is {instance.state.value}"
            )


def of_callers(major: int, callers: Mapping[tuple[int, str], int], since_ms: int) -> Iterator[Reason]:
    for (called, caller), last_ms in sorted(callers.items()):
        if called == major and last_ms > since_ms:
            yield Reason("callers", caller, f"{caller} called it at {timestamp(last_ms)}", forcible=True)


def of_policy(major: int, policy: Policy | None) -> Iterator[Reason]:
    """A weight of 0 and a deprecation are how a version comes to its end, and no use of it."""
    if policy is None:
        return
    if weight := policy.weights.get(major):
        yield Reason("policy", "weights", f"the route policy gives it weight {weight}", forcible=True)
    if policy.mirror is not None and policy.mirror.to == major:
        yield Reason("policy", "mirror", "the route policy mirrors calls to it", forcible=True)
    if major in policy.fallback:
        yield Reason("policy", "fallback", "the route policy falls back to it", forcible=True)


def of_queues(listed: Sequence[QueueStats], exact: Sequence[QueueStats]) -> Iterator[Reason]:
    """`listed` are figures of a few seconds ago, `exact` those of now, which do not say what is in flight."""
    now = {each.queue: each for each in exact}
    subscriptions: dict[str, list[int]] = {}
    for each in listed:
        name = read_name(each.queue)
        if name is None:
            continue
        found = now.get(each.queue, QueueStats(each.queue))
        ready, consumers = found.ready, found.consumers
        if ready is None or consumers is None:  # not known is not nothing
            yield Reason("messages", each.queue, f"{each.queue} does not tell just now how much is in it")
            continue
        # Whoever holds a message of a quorum queue counts as a consumer of it.
        waiting = ready + ((each.in_flight or 0) if consumers else 0)
        if name.kind == "event":
            subscriptions.setdefault(_subscription(each.queue), []).append(waiting + consumers)
        if waiting and name.kind == "dead":
            yield Reason("deadLetters", each.queue, f"{_count(waiting, 'dead letter')} in {each.queue}")
        elif waiting:
            yield Reason("messages", each.queue, f"{_count(waiting, 'message')} in {each.queue}")
        elif consumers:
            yield Reason("instances", each.queue, f"{_count(consumers, 'consumer')} of {each.queue}")
    for subscription, used in subscriptions.items():
        detail = f"subscription {subscription} is there: unsubscribe, or its events are kept for nobody"
        yield Reason("subscriptions", subscription, detail, forcible=not any(used))


def waiting_in_delay(listed: Sequence[QueueStats]) -> str:
    """The delay queues do not tell for whom they hold their messages."""
    kinds = ((each, read_name(each.queue)) for each in listed)
    waiting = sum(each.ready or 0 for each, name in kinds if name is not None and name.kind == "delay")
    if not waiting:
        return ""
    return (
        f"{_count(waiting, 'message')} {'waits' if waiting == 1 else 'wait'} for a retry or a delay somewhere in the mesh; "
        "should one be of this version, it ends in meshq.lost (`meshq dead list lost`)"
    )


def _subscription(queue: str) -> str:
    """`meshq.orders.v1.on.settled.k3` -> `settled`"""
    return queue.partition(".on.")[2].partition(".")[0]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
