"""How long replicas take to start, as it is seen from outside."""

import pytest

from meshq.core.scaling_leads import KEPT, LOST, Leads


def test_from_the_order_to_the_first_message() -> None:
    leads = Leads()
    leads.note(0.0, 1, 1)
    assert leads.lead is None
    leads.note(5.0, 3, 1)
    leads.note(10.0, 3, 1)
    leads.note(15.0, 3, 2)
    assert leads.lead == 10.0
    leads.note(25.0, 3, 3)
    assert leads.lead == 20.0


def test_it_is_what_nine_of_ten_took_at_most() -> None:
    leads, now = Leads(), 0.0
    leads.note(now, 0, 0)
    for number, took in enumerate([*range(1, 11)], 1):
        leads.note(now, number, number - 1)
        now += took
        leads.note(now, number, number)
    assert leads.lead == 9.0


def test_only_the_last_count() -> None:
    leads, now = Leads(), 0.0
    leads.note(now, 0, 0)
    for number, took in enumerate([500.0] * KEPT + [3.0] * KEPT, 1):
        leads.note(now, number, number - 1)
        now += took
        leads.note(now, number, number)
    assert leads.lead == 3.0


def test_what_was_there_at_first_tells_nothing() -> None:
    leads = Leads()
    leads.note(0.0, 5, 2)
    leads.note(5.0, 5, 5)
    assert leads.lead is None


def test_one_that_comes_back_by_itself_was_not_ordered() -> None:
    leads = Leads()
    leads.note(0.0, 2, 2)
    leads.note(5.0, 2, 1)
    leads.note(10.0, 2, 2)
    assert leads.lead is None


def test_orders_that_were_taken_back_are_not_waited_for() -> None:
    leads = Leads()
    leads.note(0.0, 1, 1)
    leads.note(5.0, 3, 1)
    leads.note(10.0, 2, 1)
    leads.note(20.0, 2, 3)
    assert leads.lead == 15.0
    leads.note(30.0, 5, 3)
    leads.note(35.0, 0, 3)
    leads.note(40.0, 0, 6)
    assert leads.lead == 15.0


@pytest.mark.parametrize(("after", "lead"), [(LOST, LOST), (LOST + 1, None)])
def test_an_order_that_nobody_followed_is_lost(after: float, lead: float | None) -> None:
    leads = Leads()
    leads.note(0.0, 1, 1)
    leads.note(0.0, 2, 1)
    leads.note(after, 2, 2)
    assert leads.lead == lead


def test_a_registry_that_is_away_ends_nothing() -> None:
    leads = Leads()
    leads.note(0.0, None, None)
    leads.note(0.0, 1, 1)
    leads.note(5.0, 2, None)
    leads.note(10.0, None, None)
    leads.note(15.0, 2, 2)
    assert leads.lead == 10.0
