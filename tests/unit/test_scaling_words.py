"""Every decision says why in a sentence, of one as of many."""

import math

import pytest

from meshq.core.scaling_terms import Needs, Work
from meshq.core.scaling_values import ScalingPolicy
from meshq.core.scaling_words import decided, stale, unknown, woken
from tests.scaling_group import BEGIN, NO_COUNTS, NO_REGISTRY, NOTHING, replaced

WORK = Work(
    rate=12.5, service=0.2, variation=1.0, slots=4.0, waiting=40.0, at_work=3.0, age=2.25, ready=2.0, pending=0.0, lead=12.0,
    wait=10.0, quantile=0.95,
)  # fmt: skip


def said(needs: Needs, work: Work | None = WORK, held: str = "", **sample: int) -> str:
    return decided(3, held, replaced(NOTHING, **sample), ScalingPolicy(), work, needs, 0.0, False).reason


@pytest.mark.parametrize(
    ("needs", "work", "reason"),
    [
        (Needs(2, 3, 0), WORK, "40 messages wait, the oldest for 2.2 s of 10 s, and 12.5 a second come: 3 replicas work off in time what is there"),
        (Needs(2, 3, 0), WORK._replace(age=math.inf), "40 messages wait, the oldest for longer than is remembered, and 12.5 a second come: 3 replicas work off in time what is there"),
        (Needs(0, 1, 0), WORK._replace(waiting=1.0), "1 message waits, the oldest for 2.2 s of 10 s, and 12.5 a second come: 1 replica works off in time what is there"),
        (Needs(3, 2, 0), WORK, "12.5 messages a second of 0.2 s each, 4 at once a replica: 3 replicas keep up"),
        (Needs(1, 0, 1), WORK, "12.5 messages a second of 0.2 s each, 4 at once a replica: 1 replica keeps up"),
        (Needs(1, 0, 3), WORK._replace(service=60.0), "3 messages of 60 s each keep 3 replicas busy"),
        (Needs(0, 0, 1), WORK._replace(service=60.0, at_work=1.0), "1 message of 60 s keeps 1 replica busy"),
        (Needs(0, 0, 1), WORK._replace(service=60.0, at_work=4.0), "4 messages of 60 s each keep 1 replica busy"),
        (Needs(3, 2, 0), WORK._replace(rate=1.0), "1 message a second of 0.2 s each, 4 at once a replica: 3 replicas keep up"),
        (Needs(2, 3, 0), WORK._replace(rate=1.0), "40 messages wait, the oldest for 2.2 s of 10 s, and 1 a second comes: 3 replicas work off in time what is there"),
        (Needs(0, 0, 0), WORK, "there is nothing to do"),
        (Needs(0, 0, 0), None, "there is nothing to do"),
    ],
)  # fmt: skip
def test_what_decides(needs: Needs, work: Work | None, reason: str) -> None:
    assert said(needs, work) == reason


def test_what_is_there_while_nobody_knows_what_it_takes() -> None:
    first = Needs(0, 1, 0)
    assert said(first, None, waiting=1) == "1 message is there, and what one takes is not known yet"
    assert (
        said(first, None, waiting=3, in_flight=2, spooled=1)
        == "6 messages are there, and what one takes is not known yet"
    )


def test_a_guard_is_said_after_it() -> None:
    assert said(Needs(2, 0, 0), held="damped") == (
        "12.5 messages a second of 0.2 s each, 4 at once a replica: 2 replicas keep up; "
        "a change waits until it is needed for a while and large enough"
    )


@pytest.mark.parametrize(
    ("number", "needs", "single", "guard"),
    [
        (3, 5, False, "max"),
        (1, 5, True, "single"),
        (3, 3, False, ""),
        (2, 1, False, "min"),
        (4, 1, False, ""),
    ],
)
def test_a_limit_that_decides_is_named(number: int, needs: int, single: bool, guard: str) -> None:
    sample = replaced(NOTHING, single=single)
    told = decided(number, "", sample, ScalingPolicy(min=2), WORK, Needs(needs, 0, 0), 0.0, False)
    assert told.held == guard
    assert bool(guard) == (";" in told.reason)


def test_an_age_beyond_memory_is_no_figure() -> None:
    told = decided(3, "", NOTHING, ScalingPolicy(), WORK._replace(age=math.inf), Needs(2, 3, 0), 0.0, False)
    assert told.terms["oldestAgeSeconds"] is None


def test_what_is_missing() -> None:
    no_counts, no_registry = replaced(NOTHING, **NO_COUNTS), replaced(NOTHING, **NO_REGISTRY)
    assert stale(3, no_counts).reason == "the broker does not say how many messages there are: what is there stays"
    assert unknown(no_registry).reason == (
        "the registry does not say how many instances there are, and it was not known before either"
    )
    old = replaced(NOTHING, at=BEGIN + 42.0)
    assert stale(3, old).reason == "the broker's counts are 42 s old: what is there stays"
    assert (stale(3, old).desired, stale(3, old).held, stale(3, old).stale) == (3, "stale", True)
    assert (unknown(old).desired, unknown(old).stale) == (None, True)


def test_what_is_not_known_is_no_figure() -> None:
    terms = stale(3, replaced(NOTHING, **NO_COUNTS, **NO_REGISTRY)).terms
    assert {name for name, value in terms.items() if value is not None} == {"spooled"}


def test_a_wake() -> None:
    assert woken(1).reason == "a message came while there was no replica"
