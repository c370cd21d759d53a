"""Whether an instance consumes, for every mix of what speaks for and against it."""

from itertools import product

import pytest

from meshq.core.instances import Instance, Orders, Pause, Service, State, visible_state
from meshq.core.names import parse_version
from meshq.core.standing import Circumstances, panics, standing

ALL = [Circumstances(*values) for values in product((False, True), repeat=len(Circumstances._fields))]


def test_it_consumes_only_when_nothing_speaks_against_it() -> None:
    consuming = {here for here in ALL if standing(here).consumes}
    assert consuming == {Circumstances(serves=True, well=True, ever_well=True)}


@pytest.mark.parametrize("here", ALL, ids=lambda here: "+".join(n for n, v in here._asdict().items() if v) or "none")
def test_what_it_is(here: Circumstances) -> None:
    told, state, consumes = standing(here)
    if here.draining:
        assert told is State.DRAINING
    elif here.waiting or (here.serves and not here.ever_well):
        assert told is State.STARTING
    elif here.serves and not here.well:
        assert told is State.UNHEALTHY
    else:
        assert told is State.READY
    # Its own view is what the registry makes of what it is told.
    own = Pause() if here.paused else None
    orders = Orders(Pause() if here.ordered_pause else None)
    assert state is visible_state(told, own, orders, 0, expired=False, evicted=False)
    assert not consumes or state is State.READY


def service(*states: State, majors: tuple[int, ...] = (1,)) -> Service:
    version = parse_version("1.0.0")
    return Service(
        "orders", {}, tuple(Instance("orders", str(n), version, majors, state) for n, state in enumerate(states))
    )


@pytest.mark.parametrize(
    ("states", "panic"),
    [
        ((), False),
        ((State.DOWN,), False),
        ((State.UNHEALTHY,), True),
        ((State.UNHEALTHY, State.UNHEALTHY, State.DOWN), True),
        ((State.UNHEALTHY, State.DRAINING, State.DOWN), True),
        ((State.DRAINING,), False),
        *(
            ((State.UNHEALTHY, other), False)
            for other in State
            if other not in (State.UNHEALTHY, State.DRAINING, State.DOWN)
        ),
    ],
)
def test_a_service_panics_when_everybody_is_unhealthy(states: tuple[State, ...], panic: bool) -> None:
    assert panics(service(*states)) is panic


def test_those_that_only_call_out_cannot_panic() -> None:
    assert not panics(service(State.UNHEALTHY, majors=()))
