"""What `meshq scale simulate` says: runs of several rules over several traces as one body, the same for the same traces and seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from meshq.simulate import many
from meshq.simulate.choices import OURS, Choice
from meshq.simulate.outcomes import Outcome
from meshq.simulate.runs import run
from meshq.simulate.traces import Trace
from meshq.simulate.verdicts import Pair, losses, verdict

FIGURES: dict[str, tuple[Callable[[Outcome], float | None], int]] = {
    "missed": (lambda of: of.missed, 2),
    "p50": (lambda of: of.p50, 2),
    "p99": (lambda of: of.p99, 2),
    "podSeconds": (lambda of: of.pod_seconds, 0),
    "overBound": (lambda of: of.over_bound, 2),
    "under": (lambda of: of.under, 3),
    "over": (lambda of: of.over, 3),
    "reversals": (lambda of: of.reversals, 1),
    "moved": (lambda of: of.moved, 0),
    "killed": (lambda of: of.killed, 0),
    "firstUseful": (lambda of: of.first_useful, 1),
    "coldStarts": (lambda of: of.cold_starts, 0),
}
"""Of each run, and the digits that are shown, compared and written: what they are is in outcomes.Outcome."""


@dataclass(frozen=True, slots=True)
class Study:
    traces: Sequence[Trace]
    choices: Sequence[Choice]
    """OURS and `baseline` among them."""
    baseline: Choice
    seed: int
    about: str
    """Which traces these are, in words."""


Outcomes = Sequence[Sequence[Outcome]]
"""Of each trace, in the order of the study's choices."""


def outcomes(study: Study, progress: Callable[[str], None] = lambda _: None) -> Outcomes:
    """`progress` is told of each trace that is done."""
    found = []
    work = partial(_runs, tuple(study.choices), study.seed)
    for trace, of_trace in zip(study.traces, many.each(work, study.traces), strict=True):
        found.append(of_trace)
        progress(f"{trace.name}: {len(of_trace)} runs")
    return found


def _runs(choices: Sequence[Choice], seed: int, trace: Trace) -> list[Outcome]:
    return [run(trace, each.made, seed, each.name) for each in choices]


def body_of(study: Study, found: Outcomes) -> dict[str, Any]:
    rows = [_trace(study, trace, of_trace) for trace, of_trace in zip(study.traces, found, strict=True)]
    return {
        "about": study.about,
        "seed": study.seed,
        "baseline": _choice(study.baseline),
        "controllers": [_choice(each) for each in study.choices],
        "verdict": verdict([_pair(study.baseline, row) for row in rows]),
        "traces": rows,
    }


def _choice(choice: Choice) -> dict[str, Any]:
    return {"controller": choice.name, "values": dict(choice.values)}


def _trace(study: Study, trace: Trace, of_trace: Sequence[Outcome]) -> dict[str, Any]:
    row = {
        "trace": trace.name,
        "messages": len(trace.arrivals),
        "lasts": round(trace.lasts, 1),
        "service": round(trace.service, 3),
        "slots": trace.slots,
        "wait": trace.policy.wait,
        "min": trace.policy.min,
        "max": trace.policy.max,
        "runs": {outcome.controller: _figures(outcome) for outcome in of_trace},
    }
    return {**row, "losesOn": losses(_pair(study.baseline, row))}


def _figures(outcome: Outcome) -> dict[str, float | None]:
    return {name: _rounded(read(outcome), digits) for name, (read, digits) in FIGURES.items()}


def _rounded(value: float | None, digits: int) -> float | None:
    if value is None:
        return None
    return round(value, digits) if digits else round(value)


def _pair(baseline: Choice, row: dict[str, Any]) -> Pair:
    return Pair(row["trace"], row["runs"][OURS], row["runs"][baseline.name])


# --- the table in Markdown ----------------------------------------------------------------------------------------------------


IN_A_CELL = (
    "In each cell: % of messages over the target wait · pod-seconds in parts of the baseline's · reversals an hour · "
    "messages killed."
)


def as_markdown(body: dict[str, Any]) -> str:
    names = [each["controller"] for each in body["controllers"]]
    lines = [
        "# Scaling, simulated",
        "",
        *about_lines(body),
        "",
        IN_A_CELL,
        "",
        _line(["trace", "messages", "target", *names, "meshq loses on"]),
        _line(["---", "---:", "---:", *["---:"] * len(names), "---"]),
        *(_line(cells(body, row)) for row in body["traces"]),
        "",
        _line(["to reach", "found", "met"]),
        _line(["---", "---", "---"]),
        *(_line([each["target"], each["found"], "yes" if each["met"] else "**no**"]) for each in body["verdict"]),
    ]
    return "\n".join(lines) + "\n"


def about_lines(body: dict[str, Any]) -> list[str]:
    """Which traces, and what they are measured against."""
    others = [each for each in body["controllers"] if each not in (body["baseline"], _choice(Choice(OURS)))]
    against = f"Baseline: {shown(body['baseline'])}."
    if others:
        against += (
            f" Others, each with the values that are best on the training traces: {'; '.join(map(shown, others))}."
        )
    return [f"{body['about']} Seed {body['seed']}.", against]


def shown(choice: dict[str, Any]) -> str:
    values = ", ".join(f"{key} {value:g}" for key, value in choice["values"].items())
    return f"{choice['controller']} ({values})" if values else str(choice["controller"])


def cells(body: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """Of one trace, as in the table's heading."""
    runs = [row["runs"][each["controller"]] for each in body["controllers"]]
    theirs = row["runs"][body["baseline"]["controller"]]["podSeconds"]
    return [
        row["trace"],
        str(row["messages"]),
        f"{row['wait']:g} s",
        *(
            f"{run['missed']:.2f} · {pods(run, theirs)} · {run['reversals']:.1f} · {run['killed']}"
            for run in runs
        ),
        ", ".join(row["losesOn"]),
    ]  # fmt: skip


def pods(run: dict[str, Any], baseline: float) -> str:
    """Pod-seconds in parts of the baseline's."""
    return f"{run['podSeconds'] / baseline:.2f}" if baseline else "-"


def _line(of: Sequence[str]) -> str:
    return f"| {' | '.join(of)} |"
