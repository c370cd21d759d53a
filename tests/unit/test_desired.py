"""What is left of a client's declarations when one of them is withdrawn."""

from meshq.core import topology
from meshq.core.desired import Desired, without
from meshq.core.topology import Topology

ONE = topology.subscription("orders.v1", "one", "a.v1")
OTHER = topology.subscription("orders.v1", "other", "a.v1")
DEAD = topology.dead("orders.v1")


def test_what_another_declaration_wants_stays() -> None:
    desired = Desired(topology.base())
    desired.add(ONE)
    desired.add(OTHER)
    gone = desired.remove(ONE)
    assert [queue.name for queue in gone.queues] == ["meshq.orders.v1.on.one"]
    assert {binding.destination for binding in gone.bindings} == {"meshq.orders.v1.on.one"}
    assert desired.all == topology.base() + OTHER
    assert desired.remove(OTHER) == OTHER
    assert desired.all == topology.base()


def test_declaring_twice_is_declaring_once() -> None:
    desired = Desired(Topology())
    desired.add(ONE)
    desired.add(ONE)
    assert desired.remove(ONE) == ONE
    assert desired.all == Topology()


def test_a_part_of_a_declaration_is_not_withdrawn() -> None:
    desired = Desired(Topology())
    desired.add(ONE)
    assert desired.remove(DEAD) == Topology()
    assert desired.all == ONE


def test_what_was_never_declared_can_be_taken_off_the_broker() -> None:
    """By an earlier process, perhaps."""
    desired = Desired(DEAD)
    assert desired.remove(ONE) == without(ONE, DEAD)
    assert desired.all == DEAD
