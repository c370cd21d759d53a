"""ports.Metrics on prometheus-client: the sidecar's `/metrics`.

Buckets begin below a millisecond, because a call between pods of one node takes less than that. Labels hold service names
of the registry, topics, statuses and codes: never a path, never what a caller made up.

What is counted for every message is kept in plain lists and made into metrics when somebody looks: the library's own counters
and histograms lock for each of their parts, which costs more than reading the message.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

EVENTS = {
    "late_reply": ("late_replies", "Replies that came after their call was answered or given up"),
    "forged_reply": ("forged_replies", "Replies dropped because another service's broker user sent them"),
    "reply_dropped": ("dropped_replies", "Replies dropped because the broker took none for too long"),
    "undecodable": ("undecodable_replies", "Replies that could not be read"),
    "unroutable": ("unroutable", "Calls that no queue took"),
    "asked_again": ("asked_again", "Calls sent again after a lost connection"),
    "expired": ("expired", "Messages not started because their deadline had passed"),
    "redelivered": ("redelivered", "Messages that came again, after whoever had them was lost"),
    "given_back": ("given_back", "Messages given back: not-ready, selector, or repeat for another attempt"),
    "key_repeated": ("repeated_keys", "Messages not handled because their idempotency key had been"),
    "store_away": ("store_away", "Times that the store of idempotency keys did not answer for a message"),
    "dead_lettered": ("dead_lettered", "Messages moved to the dead letters"),
    "retried": ("retries", "Durable messages to be tried again"),
    "cancelled": ("cancelled", "Durable calls not started because they were cancelled"),
    "circuit_opened": (
        "circuit_openings",
        "Times that the app was given no durable messages because it failed in a row",
    ),
    "fallback": ("fallbacks", "Calls sent to a fallback version because theirs had no ready instance"),
    "panic": ("panicked", "Calls queued for a service all of whose instances are unhealthy"),
    "mirrored": ("mirrored", "Copies of calls sent because a route policy says so"),
    "mirror_dropped": ("dropped_copies", "Copies of calls that a route policy wants and that could not be sent"),
    "mirror_failed": (
        "failed_copies",
        "Copies of calls that came here and were dropped because they could not be handled",
    ),
    "event_unrouted": ("events_unrouted", "Events that nobody subscribes to"),
    "event_filtered": ("events_filtered", "Events that a subscription's filter did not take"),
    "result_unroutable": ("results_unroutable", "Results dropped because whoever asked has no queue for them any more"),
    "broker_lost": ("broker_reconnects", "Times that publishing to the broker broke off"),
}
"""Event -> its counter's name, without prefix and `_total`, and what it counts."""
WITH_REASON = frozenset({"given_back", "dead_lettered", "mirror_failed"})


class _Requests(Collector):
    """`<name>_requests_total{<labels>}` and `<name>_request_seconds{<first label>}`."""

    def __init__(self, name: str, labels: tuple[str, ...], counted: str, timed: str) -> None:
        self._name = f"meshq_{name}"
        self._labels = labels
        self._counted = counted
        self._timed = timed
        self._counts: dict[tuple[str, ...], int] = {}
        self._times: dict[str, tuple[list[int], list[float]]] = {}
        """first label -> (observations by bucket, [sum of seconds])"""

    def observe(self, labels: tuple[str, ...], seconds: float) -> None:
        self._counts[labels] = self._counts.get(labels, 0) + 1
        times = self._times.get(labels[0])
        if times is None:
            times = self._times[labels[0]] = ([0] * (len(SECONDS) + 1), [0.0])
        times[0][bisect_left(SECONDS, seconds)] += 1
        times[1][0] += seconds

    def collect(self) -> Iterator[Metric]:
        counter = CounterMetricFamily(f"{self._name}_requests", self._counted, labels=self._labels)
        for labels, count in self._counts.items():
            counter.add_metric(labels, count)
        histogram = HistogramMetricFamily(f"{self._name}_request_seconds", self._timed, labels=self._labels[:1])
        for subject, (buckets, total) in self._times.items():
            histogram.add_metric([subject], _cumulative(buckets), total[0])
        yield counter
        yield histogram


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    seen, rows = 0, []
    for bound, count in zip((*map(floatToGoString, SECONDS), "+Inf"), buckets, strict=True):
        seen += count
        rows.append((bound, float(seen)))
    return rows


class _Counts(Collector):
    def __init__(self, name: str, help: str, label: str, value: Callable[[], Mapping[str, int]]) -> None:
        self._name = name
        self._help = help
        self._label = label
        self._value = value

    def collect(self) -> Iterator[Metric]:
        counter = CounterMetricFamily(self._name, self._help, labels=[self._label])
        for label, count in self._value().items():
            counter.add_metric([label], count)
        yield counter


class PrometheusMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = _Requests(
            "outbound",
            ("service", "route", "code"),
            "Calls of this app that were answered",
            "From the app's request to its answer",
        )
        self._handled = _Requests(
            "inbound", ("topic", "code"), "Messages this app handled", "What the app took for a message"
        )
        self.registry.register(self._calls)
        self.registry.register(self._handled)
        self._events = {event: self._counter(event) for event in EVENTS}

    def count(self, event: str) -> None:
        name, _, reason = event.partition(":")
        counter = self._events[name]
        (counter.labels(reason) if reason else counter).inc()

    def call_answered(self, service: str, route: str, code: str, seconds: float) -> None:
        self._calls.observe((service, route, code), seconds)

    def handled(self, topic: str, code: str, seconds: float) -> None:
        self._handled.observe((topic, code), seconds)

    def _counter(self, event: str) -> Counter:
        name, help = EVENTS[event]
        return Counter(f"meshq_{name}", help, ["reason"] if event in WITH_REASON else [], registry=self.registry)

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A figure that is asked for when somebody looks."""
        Gauge(f"meshq_{name}", help, registry=self.registry).set_function(value)

    def counts(self, name: str, help: str, label: str, value: Callable[[], Mapping[str, int]]) -> None:
        """Counters that somebody keeps, asked for when somebody looks: `meshq_<name>_total{<label>}`. Which labels there are
        never depends on what a caller made up."""
        self.registry.register(_Counts(f"meshq_{name}", help, label, value))

    def info(self, **labels: str) -> None:
        Gauge("meshq_build_info", "What runs here; always 1", list(labels), registry=self.registry).labels(
            **labels
        ).set(1)

    def render(self) -> bytes:
        """The text exposition format 0.0.4."""
        return generate_latest(self.registry)
