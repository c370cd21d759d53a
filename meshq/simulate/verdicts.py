"""meshq's runs beside the baseline's: on which traces it loses, and whether it is as good as it has to be."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

SHARE = 80.0
"""Percent of the traces on which no more messages miss the target than with the baseline."""
FACTOR = 1.2
MISSED_SLACK = 0.5
"""Percentage points."""
REVERSALS_SLACK = 4.0
"""An hour."""
PODS_FACTOR = 1.15


class Pair(NamedTuple):
    """The figures of both on one trace, as they stand in a report."""

    trace: str
    ours: dict[str, Any]
    baseline: dict[str, Any]

    @property
    def pods(self) -> float:
        """Our pod-seconds in parts of the baseline's."""
        theirs: float = self.baseline["podSeconds"]
        mine: float = self.ours["podSeconds"]
        return mine / theirs if theirs else (1.0 if not mine else float("inf"))


def _misses_more(pair: Pair) -> bool:
    return bool(pair.ours["missed"] > pair.baseline["missed"])


def _misses_far_more(pair: Pair) -> bool:
    return bool(pair.ours["missed"] > FACTOR * pair.baseline["missed"] + MISSED_SLACK)


def _takes_more(pair: Pair) -> bool:
    return pair.pods > PODS_FACTOR


def _kills(pair: Pair) -> bool:
    return bool(pair.ours["killed"])


def _turns_more(pair: Pair) -> bool:
    return bool(pair.ours["reversals"] > FACTOR * pair.baseline["reversals"] + REVERSALS_SLACK)


_LOSSES: dict[str, Callable[[Pair], bool]] = {
    "misses": _misses_more,
    "misses far": _misses_far_more,
    "pods": _takes_more,
    "kills": _kills,
    "reversals": _turns_more,
}


def losses(pair: Pair) -> list[str]:
    """In words of a table; `misses far` says more than `misses`."""
    found = [word for word, loses in _LOSSES.items() if loses(pair)]
    return [word for word in found if word != "misses" or "misses far" not in found]


def verdict(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Point by point: what is wanted, what was found, and whether that is met. Of no traces there is none."""
    return [_share(pairs), _misses(pairs), _pods(pairs), _killed(pairs), _reversals(pairs)] if pairs else []


def _share(pairs: Sequence[Pair]) -> dict[str, Any]:
    well = sum(not _misses_more(pair) for pair in pairs)
    share = 100 * well / len(pairs)
    return _point(
        f"misses not above the baseline's on {SHARE:g} % of the traces",
        f"{well} of {len(pairs)}, {share:.1f} %",
        share >= SHARE,
    )


def _misses(pairs: Sequence[Pair]) -> dict[str, Any]:
    worst = max(pairs, key=lambda pair: pair.ours["missed"] - FACTOR * pair.baseline["missed"])
    return _every(
        pairs,
        _misses_far_more,
        f"misses never over {FACTOR:g} times the baseline's and {MISSED_SLACK:g} points",
        f"worst {worst.trace}: {worst.ours['missed']:.2f} % against {worst.baseline['missed']:.2f} %",
    )


def _pods(pairs: Sequence[Pair]) -> dict[str, Any]:
    worst = max(pairs, key=lambda pair: pair.pods)
    return _every(
        pairs,
        _takes_more,
        f"pod-seconds at most {PODS_FACTOR:g} times the baseline's",
        f"median {median(pair.pods for pair in pairs):.2f} times, worst {worst.trace}: {worst.pods:.2f} times",
    )


def _killed(pairs: Sequence[Pair]) -> dict[str, Any]:
    ours, theirs = (
        sum(side["killed"] for side in sides) for sides in zip(*((p.ours, p.baseline) for p in pairs), strict=True)
    )
    return _every(pairs, _kills, "no work in flight killed", f"{ours} messages, by the baseline {theirs}")


def _reversals(pairs: Sequence[Pair]) -> dict[str, Any]:
    worst = max(pairs, key=lambda pair: pair.ours["reversals"] - FACTOR * pair.baseline["reversals"])
    return _every(
        pairs,
        _turns_more,
        f"reversals at most {FACTOR:g} times the baseline's and {REVERSALS_SLACK:g} an hour",
        f"worst {worst.trace}: {worst.ours['reversals']:.1f} an hour against {worst.baseline['reversals']:.1f}",
    )


def _every(pairs: Sequence[Pair], loses: Callable[[Pair], bool], target: str, found: str) -> dict[str, Any]:
    beyond = sum(map(loses, pairs))
    return _point(target, f"{found}; beyond on {beyond} of {len(pairs)}", not beyond)


def _point(target: str, found: str, met: bool) -> dict[str, Any]:
    return {"target": target, "found": found, "met": met}
