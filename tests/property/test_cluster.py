"""Plans for a Deployment against a ReplicaSet that chooses, of equals, those that hurt most, while pods start, drain, finish and lose
their readiness as they like: no work is ever ended, and what is wanted comes about."""

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from meshq.core.cluster import MARKED, Occupant, Pod, planned

STEPS = st.lists(
    st.tuples(st.sampled_from(("desire", "start", "begin", "finish", "obey", "unready")), st.integers(0, 5)),
    max_size=30,
)


@dataclass
class Replica:
    number: int
    phase: int = 0
    """0: finds no room, 1: its containers do not run yet, 2: they run, 3: ready."""
    started: bool = False
    """The registry knows it."""
    in_flight: int = 0
    told: bool = False
    draining: bool = False
    cost: int = 0

    @property
    def pod(self) -> Pod:
        return Pod(f"p{self.number}", "", self.phase == 3, False, self.cost or None, self.phase < 2, self.phase == 0)

    @property
    def occupant(self) -> Occupant:
        done = self.draining and not self.in_flight
        return Occupant("orders", f"p{self.number}-aaaaaa", "", self.in_flight, self.told or self.draining, done)

    @property
    def works(self) -> bool:
        return self.started and (self.in_flight > 0 or not self.draining)


STATES = (
    *(
        Replica(0, 2 + ready, True, in_flight, draining, draining)
        for ready in (True, False)
        for draining in (True, False)
        for in_flight in (0, 2)
    ),
    Replica(0, 3, True, 0, told=True),
    Replica(0, 3, True, 0, True, True, MARKED),
    Replica(0, 3, True, 1, cost=MARKED),
    *(Replica(0, phase) for phase in range(4)),
)
REPLICAS = st.lists(st.sampled_from(STATES), max_size=6)


class Service:
    def __init__(self, replicas: list[Replica], desired: int) -> None:
        self.replicas = [replace(replica, number=number) for number, replica in enumerate(replicas)]
        self.ordered = self.named = len(replicas)
        self.desired = desired

    def do(self, step: str, number: int) -> None:
        replica = self.replicas[number % len(self.replicas)] if self.replicas else Replica(0)
        match step:
            case "desire":
                self.desired = number
            case "start":
                self.start(replica)
            case "begin" if replica.started and not replica.draining:
                replica.in_flight += 1
            case "finish":
                replica.in_flight = 0
            case "obey":
                replica.draining = replica.told
            case "unready" if replica.draining:
                replica.phase = 2

    def start(self, replica: Replica) -> None:
        replica.phase = 2 if replica.draining else 3
        replica.started = True

    def settle(self) -> None:
        """Who was told to drain is done, and not ready any more."""
        for replica in self.replicas:
            replica.draining, replica.in_flight = replica.told, 0
            replica.phase = min(replica.phase, 2) if replica.draining else replica.phase

    def follow(self) -> None:
        """As the direct mode does."""
        known = [replica.occupant for replica in self.replicas if replica.started]
        plan = planned([replica.pod for replica in self.replicas], known, self.ordered, self.desired)
        by_name = {replica.pod.name: replica for replica in self.replicas}
        for occupant in plan.drain:
            by_name[occupant.id.removesuffix("-aaaaaa")].told = True
        for name, cost in plan.costs.items():
            by_name[name].cost = cost
        self.ordered = plan.replicas

    def replicate(self) -> None:
        """As Kubernetes does; of equals those that work go first."""

        def rank(replica: Replica) -> tuple[object, ...]:
            return replica.phase > 0, replica.phase > 1, replica.phase > 2, replica.cost, not replica.works

        gone = sorted(self.replicas, key=rank)[: max(0, len(self.replicas) - self.ordered)]
        assert not [replica for replica in gone if replica.works], "work is ended"
        self.replicas = [replica for replica in self.replicas if replica not in gone]
        while len(self.replicas) < self.ordered:
            self.named += 1
            self.replicas.append(Replica(self.named))


def led(replicas: list[Replica], desired: int, steps: list[tuple[str, int]]) -> Service:
    service = Service(replicas, desired)
    for step, number in [("finish", len(replicas)), *steps]:
        service.follow()
        service.replicate()
        service.do(step, number)
    return service


@settings(max_examples=500)
@given(REPLICAS, st.integers(0, 3), STEPS)
def test_no_work_is_ended(replicas: list[Replica], desired: int, steps: list[tuple[str, int]]) -> None:
    service = led(replicas, desired, steps)
    assert len(service.replicas) == service.ordered


@given(REPLICAS, st.integers(0, 6), STEPS)
def test_what_is_wanted_comes_about(replicas: list[Replica], desired: int, steps: list[tuple[str, int]]) -> None:
    service = led(replicas, desired, steps)
    for _ in range(8):
        service.settle()
        for replica in service.replicas:
            service.start(replica)
        service.follow()
        service.replicate()
    assert [replica.draining for replica in service.replicas] == [False] * service.desired
    assert service.ordered == service.desired


@given(REPLICAS, st.integers(0, 6), st.integers(1, 6))
def test_in_a_full_cluster_those_that_are_done_make_room(replicas: list[Replica], desired: int, room: int) -> None:
    service = Service(replicas, desired)
    for _ in range(12):
        service.settle()
        placed = sum(replica.phase > 0 for replica in service.replicas)
        for replica in [each for each in service.replicas if not each.phase][: max(0, room - placed)]:
            service.start(replica)
        for replica in [each for each in service.replicas if each.phase and not each.started]:
            service.start(replica)
        service.follow()
        service.replicate()
    assert not [replica for replica in service.replicas if replica.draining]
    assert sum(replica.phase > 0 for replica in service.replicas) >= min(room, desired)
