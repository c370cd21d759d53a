"""What the picture says to one instance: orders, whether those it waits for are there, panic."""

import pytest

from meshq.core.instances import Instance, Orders, Pause, Service, Snapshot, State
from meshq.core.names import parse_version
from meshq.core.selectors import Address, parse_address
from meshq.core.waiting_for import missing
from meshq_sidecar.watching import Watching


def instance(service: str, version: str, state: State = State.READY, **more: object) -> Instance:
    parsed = parse_version(version)
    fields: dict[str, object] = {"majors": (parsed.major,), "id": f"{service}-{version}"} | more
    return Instance(service=service, version=parsed, state=state, **fields)  # type: ignore[arg-type]


def picture(*instances: Instance, stale: bool = False) -> Snapshot:
    names = {i.service for i in instances}
    services = {n: Service(n, {}, tuple(i for i in instances if i.service == n)) for n in names}
    return Snapshot(1, services, stale=stale)


# --- waiting for services -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "there"),
    [
        ("orders", True),
        ("orders@latest", True),
        ("orders@2", True),
        ("orders@1", True),  # served by the 2.3.0 too
        ("orders@^2.1", True),
        ("orders@^2.4", False),
        ("orders@3", False),
        ("starting", False),
        ("gone", False),
        ("nobody", False),
        ("batch", False),  # it only calls out
    ],
)
def test_a_service_is_there_with_a_ready_instance_that_satisfies(address: str, there: bool) -> None:
    seen = picture(
        instance("orders", "2.3.0", majors=(1, 2)),
        instance("orders", "3.0.0", State.SUSPECT),
        instance("starting", "1.0.0", State.STARTING),
        instance("gone", "1.0.0", State.DOWN),
        instance("batch", "1.0.0", majors=()),
    )
    assert missing([parse_address(address)], seen) == (() if there else (parse_address(address),))


class World:
    def __init__(self, *wait_for: str) -> None:
        self.obeyed: list[tuple[Orders, bool]] = []
        self.completed = 0
        self.generation: int | None = None
        addresses: tuple[Address, ...] = tuple(map(parse_address, wait_for))
        self.watching = Watching("shop", "shop-1.0.0", addresses, lambda: self.generation, self._obey, self._complete)

    def _obey(self, orders: Orders, now: bool) -> None:
        self.obeyed.append((orders, now))

    def _complete(self) -> None:
        self.completed += 1


def test_all_must_be_there_at_once_and_then_may_go() -> None:
    world = World("orders@^2", "billing")
    orders, billing = instance("orders", "2.0.0"), instance("billing", "1.0.0")
    world.watching.see(picture(orders))
    assert [str(address) for address in world.watching.missing] == ["billing"]
    world.watching.see(picture(billing))
    assert [str(address) for address in world.watching.missing] == ["orders@^2"]
    world.watching.see(picture(orders, billing))
    assert (world.watching.missing, world.completed) == ((), 1)
    world.watching.see(picture())
    assert (world.watching.missing, world.completed) == ((), 1)


# --- orders -------------------------------------------------------------------------------------------------------------------


def test_orders_are_obeyed_and_those_of_an_old_picture_are_not_the_registrys_word() -> None:
    world = World()
    world.watching.see(picture(instance("orders", "1.0.0")))
    assert world.obeyed == []
    orders = Orders(Pause("incident"))
    world.watching.see(picture(instance("shop", "1.0.0", orders=orders), stale=True))
    world.watching.see(picture(instance("shop", "1.0.0", orders=orders)))
    world.watching.see(picture(instance("shop", "1.0.0")))
    assert world.obeyed == [(orders, False), (orders, True), (Orders(), True)]


def test_what_was_ordered_holds_while_the_registry_has_forgotten_this_instance() -> None:
    world = World()
    world.watching.see(picture(instance("shop", "1.0.0", orders=Orders(Pause("incident")))))
    world.watching.see(picture())
    assert len(world.obeyed) == 1
    assert world.watching.orders == Orders(Pause("incident"))


def test_a_pause_is_of_the_id_but_a_drain_is_of_the_process() -> None:
    world = World()
    seen = picture(instance("shop", "1.0.0", orders=Orders(Pause("incident"), drain=True), generation=4))
    world.watching.see(seen)
    world.generation = 5
    world.watching.see(seen)
    world.generation = 4
    world.watching.see(seen)
    assert [orders.drain for orders, _ in world.obeyed] == [False, False, True]
    assert all(orders.pause for orders, _ in world.obeyed)


# --- panic ------------------------------------------------------------------------------------------------------------------


def test_panic_is_said_once_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = World()
    sick = instance("shop", "1.0.0", State.UNHEALTHY)
    for _ in range(3):
        world.watching.see(picture(sick))
    assert world.watching.panic
    world.watching.see(picture(sick, instance("shop", "1.0.1")))
    assert not world.watching.panic
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
