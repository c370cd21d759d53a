"""A registry that lost its data takes nobody out of the picture before they had time to return."""

from meshq.core.instances import Instance, Service, Snapshot, State, at_zero, carried_over, still_forgotten
from meshq.core.names import Version
from meshq.core.policy import Policy


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


def test_route_policies_are_kept_where_there_are_no_new_ones() -> None:
    old = {name: Policy(name, allow=frozenset({"shop"})) for name in ("orders", "billing")}
    new = {"orders": Policy("orders")}
    joined = carried_over(Snapshot(9, {}, policies=old), Snapshot(0, {}, policies=new))
    assert joined.policies == {"orders": new["orders"], "billing": old["billing"]}


def test_of_a_service_that_nobody_registers_again_its_versions_and_policy_are_left() -> None:
    policies = {name: Policy(name, allow=frozenset()) for name in ("orders", "batch")}
    left = at_zero(Snapshot(9, {**BEFORE.services, "batch": service("batch")}, policies=policies))
    assert {name: (dict(s.majors), s.instances) for name, s in left.services.items()} == {
        name: (s.majors, ()) for name, s in BEFORE.services.items()
    }
    assert left.policies == {"orders": policies["orders"]}
    still = still_forgotten(left, Snapshot(2, {"orders": service("orders", instance("orders", "b", 2))}))
    assert (set(still.services), still.policies) == ({"billing"}, {})
