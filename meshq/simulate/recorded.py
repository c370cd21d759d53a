"""What `meshq scale explain -o json` shows of one topic, as a recording takes it. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from meshq.core import scaling_policy
from meshq.core.scaling_values import DEFAULT_LEAD, EVERY
from meshq.core.times import parse_timestamp
from meshq.simulate.drawn import Takes
from meshq.simulate.recording import Counts, Look, Recorded, Work

Row = Mapping[str, Any]


def look_of(row: Row) -> Look:
    """At the time at which the broker counted; where it did not, at which that was found. Raises ValueError where the row has no
    counts: meshq is an older one there."""
    counts = row.get("counts")
    if counts is None:
        raise ValueError("its figures have no `counts`: meshq is an older version there")
    at = parse_timestamp(row["countedAt"] or row["decidedAt"]).timestamp()
    figures = (counts["arrived"], row["ready"], row["inFlight"])
    work = (counts["handled"], counts["busySeconds"], counts["busySquares"])
    return Look(at, None if None in figures else Counts(*figures), None if None in work else Work(*work))


def recorded(first: Row, last: Row) -> Recorded:
    """By the first look and the last one that knew what instances do; they may be the same. Raises
    meshq.core.policy_fields.BadPolicy."""
    terms = last["terms"]
    policy = scaling_policy.read_policy(
        {key: value for key, value in last["policy"].items() if key in scaling_policy.KEYS}
    )
    mean = last["serviceSeconds"]
    return Recorded(
        name=_name(first),
        policy=policy,
        slots=max(1, round(terms.get("slots") or 1)),
        replicas=round(first["terms"].get("ready") or 0),
        startup=policy.lead or _startup(terms.get("leadSeconds")),
        takes=None if mean is None else Takes(mean, terms.get("variation") or 0.0),
    )


def _startup(lead: float | None) -> float:
    """A lead is from the decision, which comes up to a look late."""
    return DEFAULT_LEAD if lead is None or lead <= EVERY else lead - EVERY


def _name(row: Row) -> str:
    """orders.v2-20261101-070000: of the topic and the time, so that two recordings have two names."""
    day, _, time = row["decidedAt"].partition("T")
    return f"{row['topic']}-{re.sub('[^0-9]', '', day)}-{re.sub('[^0-9]', '', time)[:6]}"
