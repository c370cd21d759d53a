"""The picture of the mesh as JSON: the keys are INTERFACE part 9's."""

from meshq.core import views
from meshq.core.instances import Instance, Load, Service, Snapshot, State
from meshq.core.names import parse_version


def instance(ident: str, version: str, state: State = State.READY, **more: object) -> Instance:
    parsed = parse_version(version)
    fields: dict[str, object] = {"majors": (parsed.major,), "last_seen_ms": 1_700_000_000_123}
    return Instance("orders", ident, parsed, state=state, **(fields | more))  # type: ignore[arg-type]


ORDERS = Service(
    "orders",
    {1: parse_version("1.0.0"), 2: parse_version("2.0.0"), 3: parse_version("3.0.0-rc.1")},
    (
        instance("c", "2.10.0", State.DRAINING),
        instance("b", "2.9.0"),
        instance("a", "2.9.0", State.SUSPECT, address="10.0.0.7", metadata={"zone": "a"}, load=Load(3, 16)),
    ),
)
SNAPSHOT = Snapshot(7, {"orders": ORDERS, "batch": Service("batch", {}, ())})


def test_services() -> None:
    assert [s["name"] for s in views.services(SNAPSHOT)] == ["batch", "orders"]
    assert views.services(SNAPSHOT)[1]["versions"] == [
        {"version": "1.0.0", "topic": "orders.v1", "instances": 0, "ready": 0, "states": {}},
        {"version": "2.9.0", "topic": "orders.v2", "instances": 2, "ready": 1, "states": {"ready": 1, "suspect": 1}},
        {"version": "2.10.0", "topic": "orders.v2", "instances": 1, "ready": 0, "states": {"draining": 1}},
        {"version": "3.0.0-rc.1", "topic": "orders.v3", "instances": 0, "ready": 0, "states": {}},
    ]


def test_a_service_that_only_calls_out_has_no_topic() -> None:
    caller = Service("batch", {}, (instance("x", "1.0.0", majors=()),))
    assert views.versions(caller) == [
        {"version": "1.0.0", "topic": None, "instances": 1, "ready": 1, "states": {"ready": 1}}
    ]


def test_instances() -> None:
    assert [i["id"] for i in views.instances(SNAPSHOT)] == ["a", "b", "c"]
    assert views.instances(SNAPSHOT, "batch") == []
    assert views.instances(SNAPSHOT, "orders")[0] == {
        "id": "a",
        "service": "orders",
        "version": "2.9.0",
        "state": "suspect",
        "lastSeen": "2023-11-14T22:13:20.123Z",
        "address": "10.0.0.7",
        "inFlight": 3,
        "capacity": 16,
        "metadata": {"zone": "a"},
    }


def test_a_service_whose_instances_are_all_unhealthy_says_so() -> None:
    sick = Service("orders", {}, (instance("a", "1.0.0", State.UNHEALTHY),))
    assert views.service(sick)["panic"] is True
    assert "panic" not in views.service(ORDERS)


def test_a_time_that_is_not_known_is_null() -> None:
    assert views.timestamp(0) is None
    assert views.timestamp(1) == "1970-01-01T00:00:00.001Z"
