"""ports.Metrics on prometheus-client: the sidecar's `/metrics`.

Buckets begin below a millisecond, because a call between pods of one node takes less than that. Labels hold service names
of the registry, topics, statuses and codes: never a path, never what a caller made up.

What is counted for every message is kept in plain lists and made into metrics when somebody looks: the library's own counters
and histograms lock for each of their parts, which costs more than reading the message.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

EVENTS = {
    "late_reply": "Replies that came after their call was answered or given up",
    "forged_reply": "Replies dropped because another service's broker user sent them",
    "reply_dropped": "Replies dropped because the broker took none for too long",
    "undecodable": "Messages that could not be read where no dead letters are kept",
    "unroutable": "Calls that no queue took",
    "asked_again": "Calls sent again after a lost connection",
    "expired": "Messages not started because their deadline had passed",
    "given_back_not-ready": "Messages given back because the app did not take them",
    "given_back_selector": "Messages given back because this version is outside their selector",
    "given_back_repeat": "Messages given back for another attempt",
}


class _Requests(Collector):
    """`<name>_requests_total{<subject>,code}` and `<name>_request_seconds{<subject>}`."""

    def __init__(self, name: str, subject: str, counted: str, timed: str) -> None:
        self._name = f"meshq_{name}"
        self._subject = subject
        self._counted = counted
        self._timed = timed
        self._counts: dict[tuple[str, str], int] = {}
        self._times: dict[str, tuple[list[int], list[float]]] = {}
        """subject -> (observations by bucket, [sum of seconds])"""

    def observe(self, subject: str, code: str, seconds: float) -> None:
        key = (subject, code)
        self._counts[key] = self._counts.get(key, 0) + 1
        times = self._times.get(subject)
        if times is None:
            times = self._times[subject] = ([0] * (len(SECONDS) + 1), [0.0])
        times[0][bisect_left(SECONDS, seconds)] += 1
        times[1][0] += seconds

    def collect(self) -> Iterator[Metric]:
        counter = CounterMetricFamily(f"{self._name}_requests", self._counted, labels=[self._subject, "code"])
        for labels, count in self._counts.items():
            counter.add_metric(labels, count)
        histogram = HistogramMetricFamily(f"{self._name}_request_seconds", self._timed, labels=[self._subject])
        for subject, (buckets, total) in self._times.items():
            histogram.add_metric([subject], _cumulative(buckets), total[0])
        yield counter
        yield histogram


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    seen, rows = 0, []
    for bound, count in zip((*map(str, SECONDS), "+Inf"), buckets, strict=True):
        seen += count
        rows.append((bound, float(seen)))
    return rows


class PrometheusMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = _Requests(
            "outbound", "service", "Calls of this app that were answered", "From the app's request to its answer"
        )
        self._handled = _Requests("inbound", "topic", "Messages this app handled", "What the app took for a message")
        self.registry.register(self._calls)
        self.registry.register(self._handled)
        self.call_answered = self._calls.observe
        self.handled = self._handled.observe
        described = "Things that should be rare: " + "; ".join(f"{event}: {text}" for event, text in EVENTS.items())
        self._events = Counter("meshq_events", described, ["event"], registry=self.registry)
        for event in EVENTS:
            self._events.labels(event)

    def count(self, event: str) -> None:
        self._events.labels(event).inc()

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A figure that is asked for when somebody looks."""
        Gauge(f"meshq_{name}", help, registry=self.registry).set_function(value)

    def info(self, **labels: str) -> None:
        Gauge("meshq_build_info", "What runs here; always 1", list(labels), registry=self.registry).labels(
            **labels
        ).set(1)

    def render(self) -> bytes:
        """The text exposition format 0.0.4."""
        return generate_latest(self.registry)
