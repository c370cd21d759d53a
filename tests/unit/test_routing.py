"""From an address and the picture of the mesh to a topic, branch by branch."""

import pytest

from meshq.core.errors import Code, Problem
from meshq.core.instances import EMPTY, Instance, Service, Snapshot, State, lowest_ready
from meshq.core.names import parse_version
from meshq.core.routing import Route, route, unroutable
from meshq.core.selectors import parse_address


def instance(version: str, state: State = State.READY, *majors: int) -> Instance:
    parsed = parse_version(version)
    return Instance("orders", f"i-{version}-{state.value}", parsed, majors or (parsed.major,), state)


def picture(majors: dict[int, str], *instances: Instance) -> Snapshot:
    service = Service("orders", {major: parse_version(text) for major, text in majors.items()}, instances)
    return Snapshot(1, {"orders": service, "billing": Service("billing", {1: parse_version("1.0.0")})})


TWO = picture({1: "1.0.0", 2: "2.0.0"}, instance("1.4.0"), instance("2.1.0"), instance("2.3.0"))


@pytest.mark.parametrize(
    ("address", "snapshot", "topic", "selector"),
    [
        ("orders@2", EMPTY, "orders.v2", ""),
        ("nobody@7", TWO, "nobody.v7", ""),
        ("orders@9", TWO, "orders.v9", ""),
        ("orders", TWO, "orders.v2", ""),
        ("orders@latest", TWO, "orders.v2", ""),
        ("orders@^2", TWO, "orders.v2", "^2"),
        ("orders@^2.1", TWO, "orders.v2", "^2.1"),
        ("orders@>=1", TWO, "orders.v2", ">=1"),
        ("orders@<2", TWO, "orders.v1", "<2"),
        ("orders@1.4.0", TWO, "orders.v1", "1.4.0"),
    ],
)
def test_where_a_call_goes(address: str, snapshot: Snapshot, topic: str, selector: str) -> None:
    found = route(parse_address(address), snapshot)
    assert isinstance(found, Route)
    assert found == Route(topic, selector, wakes=found.wakes)


@pytest.mark.parametrize("state", [State.READY, State.SUSPECT])
def test_without_a_selector_the_highest_major_that_someone_serves(state: State) -> None:
    one = picture({1: "1.0.0", 2: "2.0.0"}, instance("1.4.0", state), instance("2.0.0", State.STARTING))
    assert route(parse_address("orders"), one) == Route("orders.v1", "")


def test_without_anyone_ready_one_that_is_there_counts_before_one_that_is_down() -> None:
    coming = picture({1: "1.0.0", 2: "2.0.0"}, instance("1.4.0", State.PAUSED), instance("2.0.0", State.DOWN))
    assert route(parse_address("orders"), coming) == Route("orders.v1", "")
    gone = picture({1: "1.0.0", 2: "2.0.0"})
    assert route(parse_address("orders"), gone) == Route("orders.v2", "", wakes="orders.v2")


def test_a_range_needs_every_ready_instance_of_the_major() -> None:
    mixed = picture({1: "1.0.0", 2: "2.0.0"}, instance("1.9.0"), instance("2.0.0"), instance("2.5.0"))
    assert route(parse_address("orders@>=1.5,<9"), mixed) == Route("orders.v2", ">=1.5,<9")
    assert route(parse_address("orders@>2.4"), mixed) == Problem(
        Code.NO_SUCH_VERSION,
        "no live version of orders satisfies '>2.4'; it has v1, v2 (ready now: 1.9.0, 2.0.0, 2.5.0)",
    )
    not_ready = picture({2: "2.0.0"}, instance("2.0.0", State.DRAINING), instance("2.5.0"))
    assert route(parse_address("orders@>2.4"), not_ready) == Route("orders.v2", ">2.4")


def test_at_zero_replicas_the_lowest_that_was_last_ready_decides() -> None:
    asleep = picture({2: "2.3.0"}, instance("2.9.0", State.DOWN))
    assert route(parse_address("orders@^2.3"), asleep) == Route("orders.v2", "^2.3", wakes="orders.v2")
    refused = route(parse_address("orders@^2.4"), asleep)
    assert isinstance(refused, Problem)
    assert refused.code is Code.NO_SUCH_VERSION


def test_an_instance_counts_for_every_major_it_serves() -> None:
    both = picture({1: "1.0.0", 2: "2.0.0"}, instance("2.0.0", State.READY, 1, 2))
    assert route(parse_address("orders@2.0.0"), both) == Route("orders.v2", "2.0.0")
    assert route(parse_address("orders@<2"), both) == Problem(
        Code.NO_SUCH_VERSION, "no live version of orders satisfies '<2'; it has v1, v2 (ready now: 2.0.0)"
    )


@pytest.mark.parametrize("address", ["nobody", "nobody@^1", "nobody@latest", "nobody@1.0.0"])
def test_a_service_that_never_was(address: str) -> None:
    refused = route(parse_address(address), TWO)
    assert isinstance(refused, Problem)
    assert refused.code is Code.UNKNOWN_SERVICE
    assert "services known: billing, orders" in refused.detail


def test_a_service_that_only_calls_out_has_no_topic() -> None:
    snapshot = Snapshot(3, {"orders": Service("orders", {}, (instance("1.0.0"),))})
    refused = route(parse_address("orders"), snapshot)
    assert isinstance(refused, Problem)
    assert refused.code is Code.UNKNOWN_SERVICE


def test_before_the_first_picture_only_a_major_can_be_called() -> None:
    refused = route(parse_address("orders"), EMPTY)
    assert isinstance(refused, Problem)
    assert refused.code is Code.UNAVAILABLE
    assert "orders@1" in refused.detail


@pytest.mark.parametrize(
    ("address", "snapshot", "code"),
    [
        ("orders@9", TWO, Code.NO_SUCH_VERSION),
        ("nobody@1", TWO, Code.UNKNOWN_SERVICE),
        ("nobody@1", EMPTY, Code.UNAVAILABLE),
        ("nobody@1", Snapshot(5, {}), Code.UNKNOWN_SERVICE),
    ],
)
def test_what_no_queue_took(address: str, snapshot: Snapshot, code: Code) -> None:
    assert unroutable(parse_address(address), snapshot).code is code


def test_the_lowest_ready_version_of_a_major() -> None:
    some = [
        instance("2.10.0"),
        instance("2.9.0"),
        instance("2.1.0", State.SUSPECT),
        instance("3.0.0", State.READY, 2, 3),
    ]
    assert lowest_ready(some, 2) == parse_version("2.9.0")
    assert lowest_ready(some, 3) == parse_version("3.0.0")
    assert lowest_ready(some, 1) is None
    assert Snapshot(1, {"orders": Service("orders", {}, tuple(some))}).instance_count == 4
