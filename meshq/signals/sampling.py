"""From what the broker counts, the registry knows and the sidecars report to one sample a topic. No I/O: the sampler asks, this puts
together.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from meshq.core import names
from meshq.core.counting import Counters
from meshq.core.instances import Instance, Snapshot, State
from meshq.core.names import Version
from meshq.core.queue_names import is_broadcast, read_name
from meshq.core.reports import Calls, Report, Reported, Work
from meshq.core.scaling_values import Sample
from meshq.ports import QueueStats
from meshq.signals.sums import Sum

THERE = frozenset({State.STARTING, State.READY, State.UNHEALTHY, State.PAUSED, State.SUSPECT})
"""The states of replicas that are there. One that drains is on its way out, one that is down is gone."""
TAKES = frozenset({State.READY, State.SUSPECT})
SHARED = frozenset({"call", "work", "key", "event"})
"""The kinds of queues that the replicas of a topic share."""


class Seen(NamedTuple):
    """What one look brought. None: it brought nothing."""

    at: float
    """Seconds of the clock of the samples."""
    queues: Sequence[QueueStats] | None
    picture: Snapshot | None
    reports: Sequence[Reported] | None


class Topic(NamedTuple):
    """A topic that may be scaled."""

    service: str
    major: int
    name: str
    version: str
    """The highest version of its instances, without any the lowest that is known of the major."""
    instances: tuple[Instance, ...]


def topics(picture: Snapshot) -> list[Topic]:
    """Of every major of every service, by name."""
    return [
        Topic(service.name, major, names.topic(service.name, major), _version(there, lowest), there)
        for service in sorted(picture.services.values(), key=lambda each: each.name)
        for major, lowest in sorted(service.majors.items())
        for there in [tuple(each for each in service.of_major(major) if each.state in THERE)]
    ]


def _version(instances: Iterable[Instance], lowest: Version) -> str:
    return str(max((each.version for each in instances), key=Version.key, default=lowest))


class Counts(NamedTuple):
    """Of all queues of a topic together. None: at least one of them is not known."""

    waiting: int | None = 0
    in_flight: int | None = 0
    done: Mapping[str, float] | None = MappingProxyType({})
    """By queue: each is a counter of its own."""
    single: bool = False
    calls: int = 0
    """Waiting messages of its queue of waited calls, which may expire."""


@dataclass(slots=True)
class _Sums:
    """Of one topic, over everybody who reports of it."""

    busy: Sum = field(default_factory=Sum)
    squares: Sum = field(default_factory=Sum)
    handled: Sum = field(default_factory=Sum)
    failed: Sum = field(default_factory=Sum)
    expired: Sum = field(default_factory=Sum)
    left: Counters = field(default_factory=Counters)
    """What left the queues, by queue..."""
    left_total: float = 0.0
    """...and all of it."""


class Sampling:
    """Remembers what it takes to make sums of counters that come and go."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = defaultdict(_Sums)
        self._renewed: dict[tuple[str, str], tuple[int, float]] = {}
        """Service and instance -> the registry's time of its last report, and ours when that was seen first."""

    def samples(self, wanted: Sequence[Topic], seen: Seen, leads: Mapping[str, float | None]) -> dict[str, Sample]:
        """One for each topic of `wanted`."""
        counts = None if seen.queues is None else by_topic(seen.queues)
        reports = self._by_instance(seen)
        sent = _by_sender(reports)
        found = {
            topic.name: self._sample(topic, seen, counts, reports, sent, leads.get(topic.name)) for topic in wanted
        }
        for gone in self._sums.keys() - found.keys():
            del self._sums[gone]
        return found

    def _by_instance(self, seen: Seen) -> dict[tuple[str, str], Report] | None:
        if seen.reports is None:
            return None
        before = self._renewed
        self._renewed = {}
        for each in seen.reports:
            key = (each.service, each.instance)
            known = before.get(key)
            self._renewed[key] = known if known is not None and known[0] == each.at_ms else (each.at_ms, seen.at)
        return {(each.service, each.instance): each.report for each in seen.reports}

    def _sample(
        self,
        topic: Topic,
        seen: Seen,
        counts: Mapping[str, Counts] | None,
        reports: Mapping[tuple[str, str], Report] | None,
        sent: "_Sent | None",
        lead: float | None,
    ) -> Sample:
        known = None if counts is None else counts.get(topic.name, Counts())
        sums = self._sums[topic.name]
        own = None if reports is None else _own(topic, reports)
        if own is not None:
            self._add(topic.name, sums, own, sent)
        done = None if known is None else self._done(sums, known, seen.at)
        replicas = None if seen.picture is None else len(topic.instances)
        only_calls = sent is not None and known is not None and known.calls > 0 and known.calls == known.waiting
        calls = sent.calls.get(topic.name, {}).values() if sent is not None and only_calls else ()
        return Sample(
            at=seen.at,
            counted_at=None if known is None else seen.at,
            waiting=None if known is None else known.waiting,
            in_flight=None if known is None else known.in_flight,
            done=done,
            reported_at=self._reported_at(topic, own, seen.at),
            replicas=replicas,
            ready=None if replicas is None else sum(each.state in TAKES for each in topic.instances),
            slots=_slots(topic, own),
            busy=None if own is None else sums.busy.total,
            busy_squares=None if own is None else sums.squares.total,
            handled=None if own is None else sums.handled.total,
            failed=None if own is None else sums.failed.total,
            spooled=0 if sent is None else sent.spooled.get(topic.name, 0),
            lead=lead,
            single=known is not None and known.single,
            age_is_bound=known is not None and known.calls > 0,
            oldest_call=max((each.oldest_open for each in calls), default=None),
        )

    def _add(self, topic: str, sums: _Sums, own: Mapping[str, Report], sent: "_Sent | None") -> None:
        work = {ident: report.work.get(topic, Work()) for ident, report in own.items()}
        sums.busy.add({ident: each.busy for ident, each in work.items()})
        sums.squares.add({ident: each.busy_squares for ident, each in work.items()})
        sums.handled.add({ident: float(each.handled) for ident, each in work.items()})
        sums.failed.add({ident: float(each.failed) for ident, each in work.items()})
        callers = {} if sent is None else sent.calls.get(topic, {})
        sums.expired.add({ident: float(each.expired) for ident, each in callers.items()})

    def _done(self, sums: _Sums, known: Counts, at: float) -> float | None:
        """What was acknowledged, and waited calls that expired, which nobody acknowledges and the broker does not count. None too
        until somebody told of those, for they would come all at once, and where more may have left since the last look."""
        added = sums.left.read(at, known.done)
        if added is not None:
            sums.left_total += added.amount
        if known.done is None or not sums.expired.begun or (added is not None and not added.whole):
            return None
        return sums.left_total + sums.expired.total

    def _reported_at(self, topic: Topic, own: Mapping[str, Report] | None, at: float) -> float | None:
        """Of the oldest of those that take messages. A suspect is silent by definition, and holds nobody up."""
        if own is None:
            return None
        ready = [each.id for each in topic.instances if each.state is State.READY]
        if not ready:
            return at
        if any(ident not in own for ident in ready):
            return None
        return min(self._renewed[topic.service, ident][1] for ident in ready)


class _Sent(NamedTuple):
    """What senders report, by topic."""

    calls: Mapping[str, Mapping[str, Calls]]
    """Topic -> instance -> its counts."""
    spooled: Mapping[str, int]


def _by_sender(reports: Mapping[tuple[str, str], Report] | None) -> _Sent | None:
    if reports is None:
        return None
    calls: dict[str, dict[str, Calls]] = defaultdict(dict)
    spooled: dict[str, int] = defaultdict(int)
    for (service, ident), report in reports.items():
        for topic, counts in report.calls.items():
            calls[topic][f"{service}/{ident}"] = counts
        for topic, count in report.spooled.items():
            spooled[topic] += count
    return _Sent(calls, spooled)


def _own(topic: Topic, reports: Mapping[tuple[str, str], Report]) -> dict[str, Report]:
    found = ((each.id, reports.get((topic.service, each.id))) for each in topic.instances)
    return {ident: report for ident, report in found if report is not None}


def _slots(topic: Topic, own: Mapping[str, Report] | None) -> float | None:
    told = [report.slots for report in (own or {}).values() if report.slots]
    if not told:
        told = [each.load.capacity for each in topic.instances if each.load.capacity]
    return sum(told) / len(told) if told else None


def by_topic(queues: Iterable[QueueStats]) -> dict[str, Counts]:
    """The queues that the replicas of a topic share, added up. A topic that is not in it has no queue, and so nothing waits there."""
    found: dict[str, Counts] = {}
    for queue in queues:
        name = read_name(queue.queue)
        if name is None or name.topic is None or name.kind not in SHARED or is_broadcast(queue.queue):
            continue
        sofar = found.get(name.topic)
        found[name.topic] = _first(name.kind, queue) if sofar is None else _added(sofar, name.kind, queue)
    return found


def _first(kind: str, queue: QueueStats) -> Counts:
    calls = (queue.ready or 0) if kind == "call" else 0
    done = None if queue.done is None else {queue.queue: queue.done}
    return Counts(queue.ready, queue.in_flight, done, bool(queue.single), calls)


def _added(sofar: Counts, kind: str, queue: QueueStats) -> Counts:
    one = _first(kind, queue)
    return Counts(
        None if sofar.waiting is None or one.waiting is None else sofar.waiting + one.waiting,
        None if sofar.in_flight is None or one.in_flight is None else sofar.in_flight + one.in_flight,
        None if sofar.done is None or one.done is None else {**sofar.done, **one.done},
        False,  # several queues can keep several replicas busy
        sofar.calls + one.calls,
    )
