"""A registry that lost its data takes nobody out of the picture before they had time to return."""

from meshq.core.instances import Instance, Service, Snapshot, State, carried_over
from meshq.core.names import Version


def instance(service: str, ident: str, major: int, state: State = State.READY) -> Instance:
    return Instance(service, ident, Version(major, 0, 0), (major,), state)


def service(name: str, *instances: Instance) -> Service:
    return Service(name, {i.version.major: i.version for i in instances}, instances)


BEFORE = Snapshot(
    9,
    {
        "orders": service("orders", instance("orders", "a", 1), instance("orders", "b", 2)),
        "billing": service("billing", instance("billing", "c", 1)),
    },
)


def test_who_is_missing_is_kept() -> None:
    joined = carried_over(BEFORE, Snapshot(0, {}))
    assert joined.services == BEFORE.services
    assert (joined.revision, joined.stale) == (0, True)


def test_who_is_back_is_as_it_says_now() -> None:
    back = instance("orders", "b", 2, State.PAUSED)
    orders = carried_over(BEFORE, Snapshot(2, {"orders": service("orders", back)})).services["orders"]
    assert {i.id: i.state for i in orders.instances} == {"a": State.READY, "b": State.PAUSED}
    assert orders.majors == BEFORE.services["orders"].majors


def test_who_is_new_is_there() -> None:
    new = Snapshot(1, {"stock": service("stock", instance("stock", "d", 3))})
    assert carried_over(BEFORE, new).services.keys() == {"orders", "billing", "stock"}
