"""What a reader sees of an instance (meshq.core.instances.visible_state)."""

import pytest

from meshq.core.instances import Orders, Pause, State, visible_state

NOW = 1_700_000_000_000
HOLDS = Pause("wait", NOW + 1)
OVER = Pause("was", NOW)
NO_END = Pause("until lifted")
TOLD = (State.STARTING, State.READY, State.UNHEALTHY, State.PAUSED, State.DRAINING)


def seen(told: State, pause: Pause | None = None, ordered: Pause | None = None, *, expired: bool = False) -> State:
    return visible_state(told, pause, Orders(ordered), NOW, expired=expired, evicted=False)


@pytest.mark.parametrize("told", TOLD)
def test_while_it_renews_it_is_what_it_says(told: State) -> None:
    assert seen(told) is told
    assert seen(told, OVER, OVER) is told


@pytest.mark.parametrize("pauses", [(HOLDS, None), (NO_END, None), (None, HOLDS), (OVER, NO_END), (HOLDS, OVER)])
def test_a_pause_of_either_hides_all_but_that_it_drains(pauses: tuple[Pause | None, Pause | None]) -> None:
    for told in TOLD:
        for expired in (False, True):
            expected = State.DRAINING if told is State.DRAINING else State.PAUSED
            assert seen(told, *pauses, expired=expired) is expected


@pytest.mark.parametrize("told", TOLD)
def test_only_a_ready_one_becomes_a_suspect(told: State) -> None:
    assert seen(told, expired=True) is (State.SUSPECT if told is State.READY else told)
    assert seen(told, OVER, OVER, expired=True) is seen(told, expired=True)


@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("pause", [None, HOLDS, NO_END])
def test_who_was_given_up_is_down_whatever_else(told: State, pause: Pause | None) -> None:
    orders = Orders(pause, drain=True)
    assert visible_state(told, pause, orders, NOW, expired=True, evicted=True) is State.DOWN


def test_an_order_to_drain_is_no_state() -> None:
    assert visible_state(State.READY, None, Orders(drain=True), NOW, expired=False, evicted=False) is State.READY


def test_a_pause_holds_to_the_millisecond() -> None:
    assert [HOLDS.holds(NOW + n) for n in (0, 1)] == [True, False]
    assert NO_END.holds(2**60)
