"""An app that wants less is given less, and all of it again when it can."""

import pytest

from meshq_sidecar.easing import Easing


def make(most: int) -> tuple[Easing, list[int]]:
    applied: list[int] = []
    return Easing(most, applied.append), applied


def test_half_for_each_probe_that_asks_for_less_and_back_by_steps() -> None:
    easing, applied = make(16)
    assert [easing.ease(less=True) for _ in range(6)] == [True] * 6
    assert (applied, easing.now) == ([8, 4, 2, 1], 1)
    assert [easing.ease(less=False) for _ in range(16)] == [True] * 14 + [False, False]
    assert applied[4:] == list(range(2, 17))


def test_a_large_one_comes_back_as_fast() -> None:
    easing, _ = make(1600)
    easing.ease(less=True)
    assert sum(easing.ease(less=False) for _ in range(20)) == 7
    assert easing.now == 1600


def test_what_the_app_says_itself_is_its_bound() -> None:
    easing, applied = make(16)
    easing.limit(4)
    assert easing.ease(less=True)
    assert easing.ease(less=False)
    assert not easing.ease(less=False)
    assert applied == [4, 2, 3, 4]
    easing.limit(0)
    assert not easing.ease(less=True), "nothing, and not one"
    easing.limit(None)
    assert applied[4:] == [0, 16]
    with pytest.raises(ValueError, match="MESHQ_APP_CONCURRENCY, 16"):
        easing.limit(17)
    assert easing.now == 16
