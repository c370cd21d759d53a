"""`/metrics` of `meshq signals`, on prometheus-client. A figure that is not known has no series."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PASS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

Rows = Callable[[], Iterable[tuple[tuple[str, ...], Mapping[str, float]]]]
"""Labels of each topic, and its values by the name of their gauge."""


class _Scale(Collector):
    def __init__(self, gauges: Mapping[str, str], labels: tuple[str, ...], rows: Rows) -> None:
        self._gauges = gauges
        self._labels = labels
        self._rows = rows

    def collect(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(f"meshq_scale_{name}", help, labels=self._labels)
            for name, help in self._gauges.items()
        }
        for labels, values in self._rows():
            for name, value in values.items():
                families[name].add_metric(labels, value)
        yield from families.values()


class _Leader(Collector):
    def __init__(self, leading: Callable[[], bool | None]) -> None:
        self._leading = leading

    def collect(self) -> Iterator[Metric]:
        leading = self._leading()
        if leading is not None:
            yield GaugeMetricFamily("meshq_signals_leader", "1 where this replica acts for all", value=float(leading))


class SignalMetrics:
    """`gauges` are names, without their prefix, and what they show; `leading` None: nobody acts, so that nobody leads."""

    def __init__(
        self,
        gauges: Mapping[str, str],
        labels: tuple[str, ...],
        rows: Rows,
        leading: Callable[[], bool | None],
        version: str,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Scale(gauges, labels, rows))
        self._registry.register(_Leader(leading))
        self._passes = Histogram(
            "meshq_signals_pass_seconds",
            "What looking at every topic took",
            registry=self._registry,
            buckets=PASS_SECONDS,
        )
        Gauge("meshq_build_info", "What runs here; always 1", ["version"], registry=self._registry).labels(version).set(
            1
        )

    def pass_took(self, seconds: float) -> None:
        self._passes.observe(seconds)

    def render(self) -> bytes:
        """The text exposition format 0.0.4 (metrics.CONTENT_TYPE)."""
        return generate_latest(self._registry)
