"""ports.Metrics on prometheus-client: the sidecar's `/metrics`.

Buckets begin below a millisecond, because a call between pods of one node takes less than that. Labels hold service names
of the registry, topics, statuses and codes: never a path, never what a caller made up.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

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


class PrometheusMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = self._counter("outbound_requests", "Calls of this app that were answered", "service", "code")
        self._call_seconds = self._histogram(
            "outbound_request_seconds", "From the app's request to its answer", "service"
        )
        self._handled = self._counter("inbound_requests", "Messages this app handled", "topic", "code")
        self._handled_seconds = self._histogram("inbound_request_seconds", "What the app took for a message", "topic")
        self._events = self._counter("events", "Things that should be rare: " + "; ".join(EVENTS), "event")
        for event in EVENTS:
            self._events.labels(event)
        # `labels()` locks and builds a tuple each time; the children are looked up once and kept.
        self._call_children: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._handled_children: dict[tuple[str, str], tuple[Counter, Histogram]] = {}

    def count(self, event: str) -> None:
        self._events.labels(event).inc()

    def call_answered(self, service: str, code: str, seconds: float) -> None:
        children = self._call_children.get((service, code))
        if children is None:
            children = self._calls.labels(service, code), self._call_seconds.labels(service)
            self._call_children[service, code] = children
        children[0].inc()
        children[1].observe(seconds)

    def handled(self, topic: str, code: str, seconds: float) -> None:
        children = self._handled_children.get((topic, code))
        if children is None:
            children = self._handled.labels(topic, code), self._handled_seconds.labels(topic)
            self._handled_children[topic, code] = children
        children[0].inc()
        children[1].observe(seconds)

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

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"meshq_{name}", help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, *labels: str) -> Histogram:
        return Histogram(f"meshq_{name}", help, labels, buckets=SECONDS, registry=self.registry)
