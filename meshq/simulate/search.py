"""The baselines' values, searched on a grid, on the training traces alone; and the one baseline that all figures are against.

What a rule costs on a trace, in points: the percent of messages that miss the target or whose work is killed, and PODS_POINTS for each
doubling of pod-seconds beyond those of replicas that are always busy. Doublings, because twice the replicas are twice the bill on a
small trace and on a large one; PODS_POINTS of 10, because somebody who misses the target with one message in ten doubles the replicas,
and somebody who misses it with one in a hundred adds a few. A rule's score is the mean over the training traces, so that no kind of load
decides by its size. The rules with the best score under half and twice the weight are kept beside it, to show how much hangs on it.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from itertools import product
from typing import Any

from meshq.simulate import many
from meshq.simulate.choices import AGAINST, Choice, choice
from meshq.simulate.kinds import RULE
from meshq.simulate.runs import run
from meshq.simulate.traces import Trace

PODS_POINTS = 10.0
OTHER_POINTS = (5.0, 20.0)
SEED = 0
KEPT = 8
"""Of each rule, so many of the best stand in the file."""
FILE = "baseline.json"

_WINDOWS = (0, 300, 600, 900)
GRID: dict[str, dict[str, tuple[float, ...]]] = {
    "keda-depth": {"depth": (0.05, 0.1, 0.25, 0.5, 1.0), "window": _WINDOWS},
    "keda-rate": {
        "depth": (0.1, 0.25, 0.5, 1.0),
        "load": (0.7, 0.8, 1.0, 1.2, 1.5, 2.0),
        "window": _WINDOWS,
    },
    "aws": {"backlog": (0.25, 0.5, 1.0, 2.0), "period": (15, 60), "calm": (300, 900, 1800)},
    "hpa": {"used": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), "window": _WINDOWS},
}
"""The arguments of the rules' constructors."""


@dataclass(frozen=True, slots=True)
class Row:
    """A rule with values, over the training traces."""

    choice: Choice
    missed: float
    """Percent of messages that waited too long or whose work was killed, the mean."""
    doublings: float
    """Of pod-seconds beyond the bound by work, the mean."""

    def score(self, points: float = PODS_POINTS) -> float:
        return self.missed + points * self.doublings


def all_choices() -> list[Choice]:
    return [
        choice(name, dict(zip(values, each, strict=True)))
        for name, values in GRID.items()
        for each in product(*values.values())
    ]


def search(
    traces: Sequence[Trace], choices: Sequence[Choice], progress: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """The best first. `progress` is told of each trace that is done."""
    totals = [(0.0, 0.0)] * len(choices)
    for trace, found in zip(traces, many.each(partial(_costs, tuple(choices)), traces), strict=True):
        totals = [(a + missed, b + doubled) for (a, b), (missed, doubled) in zip(totals, found, strict=True)]
        progress(f"{trace.name}: {len(choices)} runs")
    rows = [
        Row(each, missed / len(traces), doubled / len(traces))
        for each, (missed, doubled) in zip(choices, totals, strict=True)
    ]
    return sorted(rows, key=lambda row: (round(row.score(), 6), row.choice.text))


def _costs(choices: Sequence[Choice], trace: Trace) -> list[tuple[float, float]]:
    """Of each choice: percent missed, and doublings."""
    outcomes = [run(trace, each.made, SEED) for each in choices]
    return [
        (each.missed + 100 * each.killed / max(each.messages, 1), math.log2(max(each.over_bound or 1.0, 1.0)))
        for each in outcomes
    ]


# --- the file -----------------------------------------------------------------------------------------------------------------


def as_body(rows: Sequence[Row]) -> dict[str, Any]:
    """Of rows as `search` gives them."""
    kept = [row for name in GRID for row in [each for each in rows if each.choice.name == name][:KEPT]]
    return {
        "baseline": _choice(rows[0].choice),
        "best": {name: dict(_best(rows, name).choice.values) for name in GRID},
        "score": {
            "sentence": "mean over the training traces of percent missed or killed + points x doublings of pod-seconds beyond work",
            "points": PODS_POINTS,
            "bestWithOtherPoints": {
                f"{points:g}": _choice(min(rows, key=lambda row: row.score(points)).choice) for points in OTHER_POINTS
            },
        },
        "split": RULE,
        "grid": {name: {key: list(values) for key, values in of_rule.items()} for name, of_rule in GRID.items()},
        "rows": [
            {
                **_choice(row.choice),
                "score": round(row.score(), 3),
                "missed": round(row.missed, 3),
                "doublings": round(row.doublings, 3),
            }
            for row in sorted(kept, key=lambda row: (round(row.score(), 6), row.choice.text))
        ],
    }


def _best(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row.choice.name == name)


def _choice(of: Choice) -> dict[str, Any]:
    return {"controller": of.name, "values": dict(of.values)}


def text_of(body: dict[str, Any]) -> str:
    """One row a line, for people who compare two of them."""
    rows = ",\n".join(f"    {json.dumps(row)}" for row in body["rows"])
    head = json.dumps({key: value for key, value in body.items() if key != "rows"}, indent=2)
    return f'{head[:-2]},\n  "rows": [\n{rows}\n  ]\n}}\n'


def fixed() -> dict[str, Any]:
    """What was found, as it is kept beside this file."""
    found: dict[str, Any] = json.loads(resources.files("meshq.simulate").joinpath(FILE).read_text("utf-8"))
    return found


def baseline() -> Choice:
    body = fixed()["baseline"]
    return choice(body["controller"], body["values"])


def best_of(name: str) -> Choice:
    """Of AGAINST; with the values that were best on the training traces."""
    assert name in AGAINST
    return choice(name, fixed()["best"][name])
