"""The table: medians over rounds, each rate and p99 as a ratio to the floor of its own round."""

from collections.abc import Iterable
from statistics import median

from tests.bench.measure import Sample

HEADER = (
    "| case | at once | calls/s | × floor (range) | p50 ms | p99 ms | p99 × floor | CPU ms a call | RSS MB |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def table(samples: list[Sample]) -> str:
    floors = {(s.round, s.concurrency): s for s in samples if s.case == "floor"}
    keys = sorted({(s.concurrency, s.case != "floor", s.case) for s in samples}, reverse=True)
    rows = [HEADER]
    for concurrency, _, case in keys:
        group = [s for s in samples if (s.case, s.concurrency) == (case, concurrency)]
        rows.append(_row(case, concurrency, group, [floors[s.round, concurrency] for s in group]))
    ready = [after for s in samples for after in s.extra.get("readyAfter", {}).values()]
    if ready:
        rows.append(f"\nsidecars ready after {median(ready):.2f} s (most {max(ready):.2f}), {len(ready)} starts")
    rows.append(
        f"steal: median {median(s.steal_percent for s in samples):.1f} %, most {max(s.steal_percent for s in samples):.1f} %"
    )
    return "\n".join(rows)


def _row(case: str, concurrency: int, group: list[Sample], floors: list[Sample]) -> str:
    rates = [s.rate / f.rate for s, f in zip(group, floors, strict=True)]
    tails = [s.p99_ms / f.p99_ms for s, f in zip(group, floors, strict=True)]
    cpu = ", ".join(f"{name} {_of(s.cpu_ms[name] for s in group):.3f}" for name in group[0].cpu_ms)
    rss = ", ".join(f"{name} {max(s.rss_mb[name] for s in group):.0f}" for name in group[0].rss_mb)
    return (
        f"| {case} | {concurrency} | {_of(s.rate for s in group):,.0f} | {median(rates):.2f} ({min(rates):.2f}-{max(rates):.2f}) "
        f"| {_of(s.p50_ms for s in group):.1f} | {_of(s.p99_ms for s in group):.1f} | {median(tails):.2f} | {cpu} | {rss} |"
    )


def _of(values: Iterable[float]) -> float:
    return median(values)
