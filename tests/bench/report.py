"""The tables: medians over rounds, each rate and p99 as a ratio to the floor of its own round."""

from collections.abc import Iterable
from statistics import median

from tests.bench.measure import Sample

HEADER = (
    "| case | at once | messages/s | × floor (range) | goal | p50 ms | p99 ms | p99 × floor | CPU ms a message | RSS MB |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
TITLES = {
    "calls": "Waited calls: two sidecars, an echo app, HTTP at both ends or the SDK's link. Floor: request and reply on plain pika.",
    "durable": "Durable calls accepted: one POST each, confirmed, nobody consumes. Floor: plain pika, the same confirm window.",
    "batch": "Events in batches of 100, one or four batches at once; p50 and p99 are a batch's. Floor: plain pika, which also "
    "publishes 100 at a time and waits for all their confirms.",
    "drain": "Waiting events into a do-nothing app, over HTTP or into a handler on the SDK. Floor: plain pika, prefetch 500, each acknowledged.",
    "results": "Waiting durable calls into a do-nothing HTTP app, each with a result. Floor: plain pika as for the drain, that "
    "publishes a message for each, confirmed before the acknowledgement.",
}
GOALS = {"calls": 1.2, "durable": 0.9, "batch": 1.1, "drain": 0.4}
"""Of the mesh's rate to the floor's; for waited calls at 32 at once."""
SPOOL_GOAL = 0.5
OURS, SDK = "mesh", "mesh, SDK"
SDK_GOALS = {"calls": 1.2, "batch": 1.2, "drain": 0.6}


def tables(samples: list[Sample]) -> str:
    parts = [f"### {title}\n\n{table(group)}" for name, title in TITLES.items() if (group := _group(samples, name))]
    if note := _batch_beside_ones(samples):
        parts.append(note)
    ready = [after for s in samples for after in s.extra.get("readyAfter", {}).values()]
    if ready:
        parts.append(f"sidecars ready after {median(ready):.2f} s (most {max(ready):.2f}), {len(ready)} starts")
    if samples:
        steal = [s.steal_percent for s in samples]
        parts.append(f"steal: median {median(steal):.1f} %, most {max(steal):.1f} %")
    return "\n\n".join(parts)


def _group(samples: list[Sample], name: str) -> list[Sample]:
    return [sample for sample in samples if sample.group == name]


def table(samples: list[Sample]) -> str:
    """Of one group."""
    floors = {(s.round, s.concurrency): s for s in samples if s.case == "floor"}
    keys = sorted({(s.concurrency, s.case != "floor", s.case) for s in samples}, reverse=True)
    rows = [HEADER]
    for concurrency, _, case in keys:
        group = [s for s in samples if (s.case, s.concurrency) == (case, concurrency)]
        rows.append(_row(case, concurrency, group, [floors[s.round, concurrency] for s in group]))
    return "\n".join(rows)


def _row(case: str, concurrency: int, group: list[Sample], floors: list[Sample]) -> str:
    name = group[0].group
    rates = [s.rate / f.rate for s, f in zip(group, floors, strict=True)]
    tails = [s.p99_ms / f.p99_ms for s, f in zip(group, floors, strict=True) if s.p99_ms and f.p99_ms]
    goals = {OURS: GOALS, SDK: SDK_GOALS}.get(case, {})
    goal = f"{goals[name]:.1f}" if name in goals and (name, concurrency) != ("calls", 1) else ""
    cpu = ", ".join(f"{name} {median(s.cpu_ms[name] for s in group):.3f}" for name in group[0].cpu_ms)
    rss = ", ".join(f"{name} {max(s.rss_mb[name] for s in group):.0f}" for name in group[0].rss_mb)
    return (
        f"| {case} | {concurrency} | {median(s.rate for s in group):,.0f} "
        f"| {median(rates):.2f} ({min(rates):.2f}-{max(rates):.2f}) | {goal} "
        f"| {_ms(s.p50_ms for s in group)} | {_ms(s.p99_ms for s in group)} "
        f"| {f'{median(tails):.2f}' if tails else ''} | {cpu} | {rss} |"
    )


def _ms(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.1f}" if known else ""


def _batch_beside_ones(samples: list[Sample]) -> str:
    """Batches beside the floor that publishes with the window of single messages, where both were measured."""
    floors = {s.round: s.rate for s in _group(samples, "durable") if s.case == "floor"}
    ours = [s for s in _group(samples, "batch") if s.case == OURS and s.round in floors]
    notes = []
    for concurrency in sorted({s.concurrency for s in ours}):
        ratios = [s.rate / floors[s.round] for s in ours if s.concurrency == concurrency]
        notes.append(f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) with {concurrency} messages at once")
    return f"batches × the floor of single messages, window 32: {', '.join(notes)}" if notes else ""
