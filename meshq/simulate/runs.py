"""One rule on one trace: the service runs on from second to second, and whoever has something to look at looks."""

from random import Random

from meshq.core.scaling_values import EVERY
from meshq.simulate.cluster import Cluster
from meshq.simulate.outcomes import Change, Outcome, Point, outcome
from meshq.simulate.seen import Controller, Counts, Make, Reports, Seen
from meshq.simulate.traces import Trace

LEAD_QUANTILE = 0.9


def run(trace: Trace, make: Make, seed: int = 0, name: str = "") -> Outcome:
    """The same for the same arguments. `make`: choices.Choice.made, or what makes a rule of one's own; `name` is the outcome's
    controller. The seed decides start-up leads, failures, and when in their periods things are looked at."""
    return _Run(trace, make, seed).outcome(name)


class _Run:
    def __init__(self, trace: Trace, make: Make, seed: int) -> None:
        phases = Random(f"phases:{trace.name}:{seed}")
        self._trace = trace
        self._cluster = Cluster(trace, seed)
        self._counts_at, self._reports_at = phases.randrange(int(EVERY)), phases.randrange(int(EVERY))
        self._controller: Controller = make(trace, Random(f"controller:{trace.name}:{seed}"))
        self._asks_at = phases.randrange(self._controller.every)
        self._counts: Counts | None = None
        self._reads_zero = False
        self._reports: Reports | None = None
        self._changes = [Change(0.0, trace.replicas)]
        self._points: list[Point] = []

    def outcome(self, name: str) -> Outcome:
        cluster = self._cluster
        for second in range(int(self._trace.lasts)):
            cluster.run_until(second)
            self._second(second)
        cluster.run_until(self._trace.lasts)
        cluster.close(self._trace.lasts)
        return outcome(self._trace, name, cluster, self._changes, self._points)

    def _second(self, second: int) -> None:
        cluster, controller = self._cluster, self._controller
        if second % EVERY == self._counts_at:
            self._count(second)
        if second % EVERY == self._reports_at:
            self._report(second)
        if not cluster.pods and cluster.queue:
            self._scale(controller.wake(second), second)
        if second % controller.every == self._asks_at:
            self._scale(controller.step(self._seen(second)), second)
        self._points.append(Point(second, len(cluster.pods), cluster.ready, len(cluster.queue)))

    def _count(self, second: int) -> None:
        for span, missing in self._trace.outages:
            if span.holds(second):
                self._counts, self._reads_zero = None, missing
                return
        cluster, last = self._cluster, self._counts
        published = cluster.published
        rate = (published - last.published) / (second - last.at) if last is not None else 0.0
        self._counts = Counts(second, len(cluster.queue), cluster.in_flight, cluster.done, published, rate)
        self._reads_zero = False

    def _report(self, second: int) -> None:
        cluster = self._cluster
        if not cluster.ready and self._reports is None:
            return
        cluster.report(second)
        self._reports = Reports(second, cluster.busy, cluster.busy_squares, cluster.handled, cluster.failed)

    def _seen(self, second: int) -> Seen:
        cluster = self._cluster
        leads = sorted(cluster.leads)
        return Seen(
            now=float(second),
            replicas=len(cluster.pods),
            ready=cluster.ready,
            in_flight=cluster.in_flight,
            counts=self._counts,
            reads_zero=self._reads_zero,
            reports=self._reports,
            lead=leads[int(LEAD_QUANTILE * (len(leads) - 1))] if leads else None,
        )

    def _scale(self, wanted: int | None, second: int) -> None:
        if wanted is None or wanted == len(self._cluster.pods):
            return
        controller = self._controller
        self._cluster.scale(wanted, second, spares_busy=controller.spares_busy, drains=controller.drains)
        self._changes.append(Change(second, wanted))
