"""What the server of signals makes of a registry that lost its data."""

from meshq.core.instances import Instance, Service, Snapshot, State
from meshq.core.names import Version
from meshq.core.policy import Policy
from meshq.core.scaling_values import Scaling, ScalingPolicy
from meshq.signals.continued import RETURN_WITHIN, Continued
from meshq.signals.sampling import topics

VERSION = Version(1, 0, 0)
POLICIES = {"asleep": Policy("asleep", scale=Scaling(ScalingPolicy(max=3)))}


def service(name: str, *idents: str) -> Service:
    return Service(name, {1: VERSION}, tuple(Instance(name, each, VERSION, (1,), State.READY) for each in idents))


def picture(revision: int, epoch: str, *services: Service, policies: dict[str, Policy] = POLICIES) -> Snapshot:
    return Snapshot(revision, {each.name: each for each in services}, policies=policies, epoch=epoch)


def before() -> Continued:
    found = Continued()
    found.see(picture(9, "first", service("orders", "a", "b", "c"), service("asleep")), 100.0)
    return found


def replicas(continued: Continued) -> dict[str, int]:
    return {topic.name: len(topic.instances) for topic in topics(continued.picture)}


def test_what_the_registry_says_is_so() -> None:
    continued = before()
    continued.see(picture(10, "first", service("orders", "a")), 105.0)
    assert replicas(continued) == {"orders.v1": 1}
    assert not continued.picture.stale


def test_nobody_is_gone_while_they_register_again() -> None:
    continued = before()
    for revision, back in enumerate([(), ("b",), ("b", "c")]):
        continued.see(picture(revision, "second", service("orders", *back), policies={}), 105.0 + revision)
        assert replicas(continued) == {"asleep.v1": 0, "orders.v1": 3}
        assert continued.picture.policies == POLICIES


def test_who_does_not_come_back_is_gone_then() -> None:
    continued = before()
    for at in (105.0, 105.0 + RETURN_WITHIN):
        continued.see(picture(1, "second", service("orders", "b"), policies={}), at)
    assert replicas(continued) == {"asleep.v1": 0, "orders.v1": 1}


def test_a_service_at_zero_is_known_until_the_registry_knows_it_again() -> None:
    continued = before()
    for at in (105.0, 200.0):
        continued.see(picture(1, "second", service("orders", "b"), policies={}), at)
    assert replicas(continued) == {"asleep.v1": 0, "orders.v1": 1}
    assert continued.picture.policies == POLICIES
    continued.see(picture(2, "second", service("orders", "b"), service("asleep", "z"), policies={}), 205.0)
    continued.see(picture(3, "second", service("orders", "b"), policies={}), 210.0)
    assert replicas(continued) == {"orders.v1": 1}


def test_fewer_changes_than_before_are_a_loss_too() -> None:
    continued = before()
    continued.see(picture(3, "first", service("orders", "a")), 105.0)
    assert replicas(continued) == {"asleep.v1": 0, "orders.v1": 3}


def test_the_first_picture_is_no_loss() -> None:
    continued = Continued()
    continued.see(picture(0, "first"), 100.0)
    assert replicas(continued) == {}
