"""Figures of RabbitMQ's queues from the Prometheus endpoints of all its nodes, which cost the broker less than the management API.
Counts are as of each queue's last own statistics, up to 5 s ago.

Each node tells what is its own: of the queues that it leads what is in them, and of the channels that it serves what they took. So
- what is in a queue is its leader's word. A queue that two nodes speak of has just moved: its figures are not known. One that nobody
  speaks of any more is listed without figures while a node is missing, and for LEADERLESS seconds when all answer: then it is deleted;
- what was taken from a queue is the sum of all nodes, and not known while one of them is missing. Never a part of a sum.
Missing is a node that does not answer in time, breaks off, or answers something else.

RabbitMQ 3.10 counts what was taken by channel and forgets it with the channel; later ones count by queue. So `done` is counted here, since
the first listing, and begins anew when one of its parts is gone, because nobody knows what that counted last. A channel that opens and
closes between two listings is not seen.
"""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import NamedTuple
from urllib.parse import quote

from meshq.adapters import amqp_url
from meshq.adapters.rabbit_http import Endpoint, aside
from meshq.core.counting import Counters
from meshq.ports import Clock, QueueStats

log = logging.getLogger(__name__)

SETTING = "MESHQ_PROMETHEUS_URLS"
READY, IN_FLIGHT, CONSUMERS = "queue_messages_ready", "queue_messages_unacked", "queue_consumers"
IN_IT = (READY, IN_FLIGHT, CONSUMERS)
TAKEN = ("queue_messages_acked_total", "queue_messages_delivered_total", "queue_get_total")
"""Acknowledged, and handed out to who need not acknowledge."""
TAKEN_BY_CHANNEL = ("channel_messages_acked_total", "channel_messages_delivered_total", "channel_get_total")
FAMILIES = ("queue_coarse_metrics", "queue_consumer_count", "queue_delivery_metrics")
CHANNELS = "channel_queue_metrics"
"""What a node that has no `queue_delivery_metrics` is asked for besides."""

LEADERLESS = 30.0
"""Seconds; a new leader is elected in less, and tells of the queue with its next statistics."""

_NODE = re.compile(r'^rabbitmq_identity_info\{rabbitmq_node="([^"]+)"', re.MULTILINE)
_DELIVERIES = f"# TYPE rabbitmq_detailed_{TAKEN[0]} "
"""A node that has these counters says so whether there are any or not."""
# Labels are read without a parser of the format, because RabbitMQ 3.10 escapes nothing in them: a quote in the name of somebody's
# queue would make the whole answer unreadable.
_LINE = re.compile(
    rf"^rabbitmq_detailed_({'|'.join((*IN_IT, *TAKEN, *TAKEN_BY_CHANNEL))})"
    r'\{(?:channel="([^"]*)",)?vhost="(.*?)",queue="(.*?)"(?:,\w+="[^"]*")*\} (\S+)$',
    re.MULTILINE,
)
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


class Answer(NamedTuple):
    """What one node told of the virtual host."""

    node: str
    in_it: Mapping[str, Mapping[str, float | None]]
    """Queue -> what is in it, by names of IN_IT."""
    taken: Mapping[str, Mapping[str, float | None]]
    """Queue -> how many were taken from it, by channel, or by "" where the node keeps no count of each."""
    by_queue: bool
    """It counts by queue, not by channel."""


class RabbitPrometheus:
    """`urls`: those of all nodes, comma-separated, such as `http://rabbit-0:15692,http://rabbit-1:15692`, each once. Raises ValueError
    for one that makes no sense."""

    def __init__(self, broker_url: str, urls: str, clock: Clock) -> None:
        given = [url.strip() for url in urls.split(",") if url.strip()]
        if not given:
            raise ValueError(
                f"{SETTING} names no node: give the Prometheus endpoint of each, such as http://rabbit-0:15692"
            )
        self._vhost = amqp_url.parse(broker_url).vhost
        self._clock = clock
        self._nodes = [
            _Node(Endpoint(url, "RabbitMQ's Prometheus endpoint", SETTING, clock), self._vhost) for url in given
        ]
        self._taken: dict[str, _Taken] = {}
        self._counted_at: float | None = None
        """When the last listing was that had all nodes."""
        self._known: dict[str, float] = {}
        """Queue -> when it was last told of."""
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why the last listing is without figures that it should have, and what to do; "" when all is well."""
        return self._fault

    async def queues(self) -> list[QueueStats]:
        """Every queue of the virtual host. Raises OSError, whose message says why there are no figures: no node answers, or they are
        not each another one."""
        now = self._clock.monotonic()
        answers: list[Answer] = []
        faults: list[str] = []
        for found in await asyncio.gather(*(aside(node.ask) for node in self._nodes), return_exceptions=True):
            if isinstance(found, Answer):
                answers.append(found)
            elif isinstance(found, OSError):
                faults.append(str(found))
            else:
                raise found
        before, self._fault = self._fault, "; ".join(faults)
        if not answers:
            raise OSError(self._fault)
        if self._fault and self._fault != before:
            log.warning(
                "%s; until it answers nobody knows what left the queues, nor what is in those that it leads",
                self._fault,
            )
        _check_different([answer.node for answer in answers])
        return list(self._list(now, answers, complete=not faults))

    def _list(self, now: float, answers: list[Answer], *, complete: bool) -> Iterator[QueueStats]:
        leaders: dict[str, list[Mapping[str, float | None]]] = defaultdict(list)
        for answer in answers:
            for queue, figures in answer.in_it.items():
                leaders[queue].append(figures)
        self._known.update(dict.fromkeys(leaders, now))
        done = self._count_taken(now, answers) if complete else {}
        if complete:
            self._forget(now)
        for queue in sorted(self._known):
            told = leaders.get(queue, [])
            figures = told[0] if len(told) == 1 else {}
            yield QueueStats(
                queue,
                ready=_count(figures.get(READY)),
                in_flight=_count(figures.get(IN_FLIGHT)),
                consumers=_count(figures.get(CONSUMERS)),
                done=done.get(queue) if figures else None,
            )

    def _count_taken(self, now: float, answers: list[Answer]) -> dict[str, float | None]:
        """By queue; also of queues that have no leader just now, so that what is theirs already is not taken for new later."""
        before, self._counted_at = self._counted_at, now
        found: dict[str, float | None] = {}
        for queue in {*self._known, *(queue for answer in answers for queue in answer.taken)}:
            taken = self._taken.get(queue)
            if taken is None:
                taken = self._taken[queue] = _Taken(before)
            found[queue] = taken.read(now, _parts(queue, answers))
        return found

    def _forget(self, now: float) -> None:
        for queue in [queue for queue, seen in self._known.items() if now - seen > LEADERLESS]:
            del self._known[queue]
        for queue in [queue for queue, taken in self._taken.items() if queue not in self._known and taken.parts == {}]:
            del self._taken[queue]


class _Node:
    """One node's endpoint."""

    def __init__(self, endpoint: Endpoint, vhost: str) -> None:
        self._endpoint = endpoint
        self._vhost = vhost
        self._channels = False
        """Whether it counts by channel, as far as is known."""

    def ask(self) -> Answer:
        """Blocks. Raises OSError."""
        answer = self._asked()
        if not answer.by_queue and not self._channels:
            self._channels = True
            answer = self._asked()
        elif answer.by_queue:
            self._channels = False
        return answer

    def _asked(self) -> Answer:
        families = (*FAMILIES, CHANNELS) if self._channels else FAMILIES
        query = "&".join(f"family={family}" for family in families)
        body = self._endpoint.ask(f"/metrics/detailed?{query}&vhost={quote(self._vhost, safe='')}")
        try:
            found = read(body.decode(), self._vhost)
        except UnicodeDecodeError as error:
            raise self._endpoint.other() from error
        if found is None:
            raise self._endpoint.other()
        return found


class _Taken:
    """What was taken from one queue, as one counter."""

    def __init__(self, before: float | None) -> None:
        """`before`: when the last listing was, in which nothing was taken from it yet."""
        self.parts: Mapping[str, float] | None = None
        """As they were last."""
        self._counters = Counters()
        self._total = 0.0
        if before is not None:
            self._counters.read(before, {})

    def read(self, now: float, parts: Mapping[str, float] | None) -> float | None:
        self.parts = parts
        added = self._counters.read(now, parts)
        if parts is None:
            return None
        if added is not None:
            self._total = self._total + added.amount if added.whole else 0.0
        return self._total


def read(text: str, vhost: str) -> Answer | None:
    """What a node says. None: it is not RabbitMQ's. A figure that cannot be read is None."""
    node = _NODE.search(text)
    if node is None:
        return None
    in_it: dict[str, dict[str, float | None]] = defaultdict(dict)
    taken: dict[str, dict[str, float | None]] = defaultdict(dict)
    by_queue = _DELIVERIES in text
    counted = frozenset(TAKEN if by_queue else TAKEN_BY_CHANNEL)
    for name, channel, labelled_vhost, labelled_queue, written in _LINE.findall(text):
        if vhost not in (labelled_vhost, _unescaped(labelled_vhost)):
            continue
        queue, value = _unescaped(labelled_queue), _number(written)
        if name in counted:
            before = taken[queue].get(channel, 0.0)
            taken[queue][channel] = None if before is None or value is None else before + value
        elif name in IN_IT:
            in_it[queue][name] = value
    return Answer(node[1], in_it, taken, by_queue)


def _check_different(nodes: list[str]) -> None:
    twice = sorted({node for node in nodes if nodes.count(node) > 1})
    if twice:
        raise OSError(
            f"two of the URLs lead to the node {twice[0]}, so that others may be missing; set {SETTING} to each node's own address"
        )


def _parts(queue: str, answers: Iterable[Answer]) -> dict[str, float] | None:
    """What was taken of it by node and channel. None: one of them is not known."""
    parts: dict[str, float] = {}
    for answer in answers:
        for channel, value in answer.taken.get(queue, {}).items():
            if value is None:
                return None
            parts[f"{answer.node} {channel}"] = value
    return parts


def _unescaped(label: str) -> str:
    return re.sub(r'\\[\\"n]', lambda found: _ESCAPES[found[0]], label) if "\\" in label else label


def _number(written: str) -> float | None:
    try:
        value = float(written)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _count(value: float | None) -> int | None:
    return None if value is None else int(value)
