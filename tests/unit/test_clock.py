"""Time: the offset that registry answers teach, and the clock that tests turn."""

import time

import pytest

from meshq.adapters.clock import FARTHEST_BEHIND_MS, SAMPLES, ManualClock, SystemClock


def test_mesh_time_starts_as_the_wall_clock() -> None:
    clock = SystemClock()
    assert abs(clock.mesh_ms() - time.time() * 1000) < 1000
    assert not clock.synchronised


def test_mesh_time_is_what_was_learnt() -> None:
    clock = SystemClock()
    clock.learn(2_000_000_000_000)
    assert 0 <= clock.mesh_ms() - 2_000_000_000_000 < 1000
    assert clock.synchronised


def test_the_quickest_of_the_last_answers_counts() -> None:
    clock = SystemClock()
    for late in (300, 0, 900):
        clock.learn(2_000_000_000_000 - late)
    assert 0 <= clock.mesh_ms() - 2_000_000_000_000 < 250
    for _ in range(SAMPLES):
        clock.learn(2_000_000_000_000 - 900)
    assert 0 <= clock.mesh_ms() - (2_000_000_000_000 - 900) < 250, "an offset from long ago is out of use"


@pytest.mark.parametrize("step", [-FARTHEST_BEHIND_MS - 1000, 3_600_000, -3_600_000])
def test_a_step_of_the_registrys_clock_is_followed_at_once(step: int) -> None:
    clock = SystemClock()
    clock.learn(2_000_000_000_000)
    clock.learn(2_000_000_000_000 + step)
    assert 0 <= clock.mesh_ms() - (2_000_000_000_000 + step) < 250


def test_the_monotonic_clock_never_goes_back() -> None:
    clock = SystemClock()
    times = [clock.monotonic() for _ in range(1000)]
    assert times == sorted(times)


def test_a_manual_clock_moves_when_told() -> None:
    clock = ManualClock(monotonic=10.0, mesh_ms=1_000_000)
    assert (clock.monotonic(), clock.mesh_ms()) == (10.0, 1_000_000)
    clock.advance(1.5)
    assert (clock.monotonic(), clock.mesh_ms()) == (11.5, 1_001_500)
    assert not clock.synchronised
    clock.learn(5_000_000)
    clock.advance(0.25)
    assert (clock.monotonic(), clock.mesh_ms()) == (11.75, 5_000_250)
    assert clock.synchronised
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
