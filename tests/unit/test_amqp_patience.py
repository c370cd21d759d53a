"""How long a confirm may take: by what they took of late."""

import pytest

from meshq.adapters.amqp_patience import LEAST, MOST, Patience


def test_quick_confirms_leave_the_least() -> None:
    patience = Patience()
    for _ in range(10):
        patience.confirmed(0.01)
        patience.look()
    assert patience.seconds == LEAST


def test_a_broker_that_is_slow_gets_four_times_its_slowest() -> None:
    patience = Patience()
    for took in (0.5, 2.0, 1.0):
        patience.confirmed(took)
    patience.look()
    assert patience.seconds == 8.0


def test_it_fades_when_the_broker_is_quick_again() -> None:
    patience = Patience()
    patience.confirmed(2.0)
    patience.look()
    seen = [patience.seconds]
    while seen[-1] > LEAST:
        patience.confirmed(0.01)
        patience.look()
        seen.append(patience.seconds)
    assert seen[:3] == pytest.approx([8.0, 6.4, 5.12])
    assert seen == sorted(seen, reverse=True)


def test_seconds_without_a_confirm_change_nothing() -> None:
    patience = Patience()
    patience.confirmed(2.0)
    for _ in range(100):
        patience.look()
    assert patience.seconds == 8.0


def test_each_time_in_vain_doubles_it_up_to_the_most() -> None:
    patience = Patience()
    seen = []
    for _ in range(5):
        patience.gave_up()
        seen.append(patience.seconds)
    assert seen == [6.0, 12.0, 24.0, MOST, MOST]
    patience.confirmed(60.0)
    patience.look()
    assert patience.seconds == MOST
