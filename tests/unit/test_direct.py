"""The direct mode against a Kubernetes API: the real adapter speaks TLS with a bearer token to tests/kube_api.py, which answers in the
shapes that Kubernetes documents; no cluster runs here."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from kubernetes.aio.client.exceptions import ApiException

from meshq.adapters.clock import ManualClock
from meshq.adapters.kubernetes import Kubernetes
from meshq.adapters.kubernetes_access import Access, in_cluster
from meshq.adapters.kubernetes_faults import translated
from meshq.core.cluster import ClusterFault, Occupant, Pod, host_part, planned, pod_of
from meshq.core.instances import Instance, Load, Orders, State
from meshq.core.names import Version, instance_id
from meshq.core.scaling_values import Decision, Sample, ScalingPolicy
from meshq.ports import RegistryAway
from meshq.signals.direct import Direct
from meshq.signals.direct_drains import PATIENCE, Drains
from meshq.signals.direct_targets import Target, parse_target, parse_targets
from meshq.signals.external_owner import external_metrics_owner
from meshq.signals.figures import NO_WISHES, Signal, Wishes
from meshq.tasks import Tasks
from tests.doubles import until
from tests.kube_api import COST, KubeApi, serving

ORDERS = Target("shop", "orders", "orders.v2")
BILLING = Target("shop", "billing", "billing.v1")
NOTHING = Sample(*[None] * 13)  # type: ignore[arg-type]
RENEWAL_MS = 5000


class Decided:
    """`Signals` whose decisions the test makes."""

    def __init__(self) -> None:
        self.decisions: dict[str, Decision] = {}
        self.wishes: list[Wishes] = []
        self.leading: bool | None = True
        self.leader = "this"
        self.fault = ""
        self._callbacks: list[Callable[[str], None]] = []

    def decide(self, topic: str, desired: int | None, stale: bool = False) -> None:
        self.decisions[topic] = Decision(desired, "the test says so", stale=stale)
        for callback in list(self._callbacks):
            callback(topic)

    def of_topic(self, topic: str, wishes: Wishes = NO_WISHES) -> Signal | None:
        self.wishes.append(wishes)
        service, _, major = topic.partition(".v")
        decision = self.decisions.get(topic)
        return decision and Signal(service, int(major), topic, f"{major}.0.0", ScalingPolicy(), NOTHING, decision, 0)

    def of_service(self, service: str) -> Sequence[Signal]:
        return []

    def all(self) -> Sequence[Signal]:
        return []

    def on_change(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    @property
    def watched(self) -> bool:
        return bool(self._callbacks)


class Rig:
    def __init__(self, api: KubeApi, cluster: Kubernetes, targets: Sequence[Target]) -> None:
        self.api = api
        self.cluster = cluster
        self.signals = Decided()
        self.picture: dict[str, Instance] = {}
        """By pod: the instances of orders.v2, as the registry is told of them."""
        self.told: list[str] = []
        """Pods whose instances were ordered to drain."""
        self.away = False
        self.clock = ManualClock()
        self.follow(targets)

    def follow(self, targets: Sequence[Target]) -> None:
        """By a process that has just come to lead."""
        self.drains = Drains(
            lambda topic: list(self.picture.values()) if topic == "orders.v2" else [], self._order, self.clock
        )
        self.direct = Direct(self.signals, self.cluster, targets, self.drains)

    async def _order(self, service: str, instance: str) -> bool:
        if self.away:
            raise RegistryAway("the registry is away")
        assert service == "orders"
        self.told.append(pod_of(instance))
        return True

    def renew(self, **in_flight: int) -> None:
        """`orders_0=3`: the instance in orders-0 says so, and is registered if it was not."""
        for name, messages in in_flight.items():
            pod = name.replace("_", "-")
            now = self.picture.get(pod) or Instance(
                "orders", f"{pod}-aaaaaa", Version(2, 0, 0), (2,), State.READY, generation=1
            )
            self.picture[pod] = replace(now, load=Load(messages), last_seen_ms=now.last_seen_ms + RENEWAL_MS)

    def obey(self, *pods: str) -> None:
        for pod in pods:
            self.picture[pod] = replace(self.picture[pod], state=State.DRAINING)

    async def drained(self, *pods: str) -> None:
        """They have drained by now, and it was seen."""
        self.obey(*pods)
        self.drains.occupants("orders.v2")
        self.renew(**{pod.replace("-", "_"): 0 for pod in pods})

    async def look(self, desired: int | None, stale: bool = False) -> None:
        self.signals.decide("orders.v2", desired, stale)
        await self.direct.look()

    @property
    def replicas(self) -> int:
        return self.api.deployments["orders"].replicas

    @property
    def pods(self) -> list[str]:
        return sorted(self.api.deployments["orders"].pods)


@asynccontextmanager
async def rig(folder: Path, replicas: int = 3, targets: Sequence[Target] = (ORDERS,)) -> AsyncIterator[Rig]:
    api = KubeApi()
    api.add("orders", replicas)
    with serving(api, folder) as access:
        cluster = Kubernetes(access)
        try:
            yield Rig(api, cluster, targets)
        finally:
            await cluster.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- growing and shrinking --------------------------------------------------------------------------------------------------


async def _grown(folder: Path) -> None:
    async with rig(folder, replicas=0) as shop:
        await shop.look(4)
        assert shop.replicas == 4
        assert shop.api.patched() == ["deployments/orders/scale"]


def test_growing_is_ordered_at_once_from_zero_too(tmp_path: Path) -> None:
    asyncio.run(_grown(tmp_path))


async def _shrunk(folder: Path) -> None:
    async with rig(folder, replicas=4) as shop:
        shop.renew(orders_0=1, orders_1=7, orders_2=0, orders_3=9)
        await shop.look(2)
        assert shop.told == ["orders-2", "orders-0"], "the busy ones stay"
        await shop.look(2)
        shop.obey("orders-0", "orders-2")
        await shop.look(2)
        assert len(shop.told) == 2, "once each"
        assert shop.api.patched() == [], "one may have begun something since its last renewal"
        shop.renew(orders_0=1, orders_2=0)
        await shop.look(2)
        assert shop.pods == ["orders-0", "orders-1", "orders-3"]
        assert shop.api.patched() == ["pods/orders-2", "deployments/orders/scale"]
        shop.renew(orders_0=0)
        await shop.look(2)
        assert shop.pods == ["orders-1", "orders-3"]
        assert shop.api.patched()[2:] == ["pods/orders-0", "deployments/orders/scale"]
        assert shop.api.costs("orders") == {}, "pods that stay are not touched"


def test_the_least_busy_drain_and_each_pod_goes_when_it_has_finished(tmp_path: Path) -> None:
    asyncio.run(_shrunk(tmp_path))


async def _less_ready(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.renew(orders_0=1, orders_1=1, orders_2=9)
        await shop.look(1)
        shop.api.unready("orders-1")
        await shop.drained("orders-0")
        shop.obey("orders-1")
        await shop.look(1)
        assert shop.replicas == 3, "orders-1 would be deleted first, whatever orders-0 costs"
        shop.api.unready("orders-0")
        await shop.look(1)
        assert shop.pods == ["orders-1", "orders-2"]


def test_no_pod_goes_while_kubernetes_would_rather_delete_one_that_works(tmp_path: Path) -> None:
    asyncio.run(_less_ready(tmp_path))


async def _wanted_again(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.renew(orders_0=1, orders_1=2, orders_2=3)
        await shop.look(2)
        await shop.look(3)
        assert shop.pods == ["orders-0", "orders-1", "orders-2", "orders-3"], "who drains is no replica any more"
        shop.renew(orders_3=0)
        await shop.drained("orders-0")
        await shop.look(3)
        assert shop.pods == ["orders-1", "orders-2", "orders-3"]
        assert shop.told == ["orders-0"]


def test_one_that_drains_is_replaced_when_it_is_wanted_again(tmp_path: Path) -> None:
    asyncio.run(_wanted_again(tmp_path))


async def _to_zero(folder: Path) -> None:
    async with rig(folder, replicas=1) as shop:
        shop.renew(orders_0=0)
        await shop.look(0)
        assert shop.replicas == 1
        await shop.drained("orders-0")
        await shop.look(0)
        assert shop.replicas == 0


def test_the_last_one_drains_too(tmp_path: Path) -> None:
    asyncio.run(_to_zero(tmp_path))


async def _no_room(folder: Path) -> None:
    async with rig(folder, replicas=1) as shop:
        shop.renew(orders_0=0)
        await shop.look(0)
        await shop.look(1)
        new = shop.api.deployments["orders"].pods["orders-1"]["status"]
        new["phase"] = "Pending"
        new["conditions"] = [
            {"type": "Ready", "status": "False"},
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"},
        ]
        await shop.drained("orders-0")
        await shop.look(1)
        assert shop.pods == []
        await shop.look(1)
        assert shop.pods == ["orders-0"], "a new one"


def test_one_that_is_done_makes_room_for_a_pod_that_finds_none(tmp_path: Path) -> None:
    asyncio.run(_no_room(tmp_path))


async def _registry_is_away(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.renew(orders_0=0, orders_1=0, orders_2=0)
        shop.away = True
        await shop.look(2)
        await shop.look(2)
        assert shop.api.patched() == []
        await shop.look(4)
        assert shop.replicas == 4, "growing needs no registry"


def test_without_the_registry_no_pod_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(_registry_is_away(tmp_path))
    (said,) = warnings(caplog)
    assert "orders-0-aaaaaa cannot be told to drain, so that no pod goes: the registry is away; tried again" in said


async def _does_not_finish(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.renew(orders_0=3, orders_1=8, orders_2=9)
        await shop.look(2)
        shop.obey("orders-0")
        shop.clock.advance(PATIENCE - 1)
        shop.renew(orders_0=2)
        await shop.look(2)
        assert shop.replicas == 3
        shop.clock.advance(1)
        shop.api.forbidden.add(("patch", "deployments/scale"))
        await shop.look(2)
        shop.api.forbidden.clear()
        await shop.look(2)
        assert shop.pods == ["orders-1", "orders-2"]


def test_one_that_does_not_finish_goes_at_last_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(_does_not_finish(tmp_path))
    assert [line for line in warnings(caplog) if line.startswith("orders-0")] == [
        "orders-0-aaaaaa has had 2 messages in flight for 21 min since it was told to drain: its pod goes, and another does them again"
    ]


async def _by_another_leader(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.renew(orders_0=4, orders_1=1, orders_2=1)
        shop.picture["orders-0"] = replace(shop.picture["orders-0"], orders=Orders(drain=True))
        await shop.look(2)
        shop.obey("orders-0")
        shop.follow([ORDERS])
        await shop.look(2)
        shop.renew(orders_0=0)
        await shop.look(2)
        assert shop.pods == ["orders-1", "orders-2"]
        assert shop.told == [], "another had told it"


def test_another_leader_goes_on_with_who_drains(tmp_path: Path) -> None:
    asyncio.run(_by_another_leader(tmp_path))


async def _another_process(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.renew(orders_0=0, orders_1=1, orders_2=1)
        await shop.look(2)
        now = shop.picture["orders-0"]
        shop.picture["orders-0"] = replace(now, generation=2, last_seen_ms=now.last_seen_ms + RENEWAL_MS)
        await shop.look(2)
        assert shop.told == ["orders-0", "orders-0"]
        assert shop.replicas == 3


def test_an_order_is_for_one_process_and_given_again_to_the_next(tmp_path: Path) -> None:
    asyncio.run(_another_process(tmp_path))


async def _is_gone(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.renew(orders_0=0, orders_1=1, orders_2=1)
        await shop.look(2)
        shop.picture["orders-0"] = replace(shop.picture["orders-0"], state=State.DOWN)
        shop.api.unready("orders-0")
        await shop.look(2)
        assert shop.pods == ["orders-1", "orders-2"]
        assert shop.told == ["orders-0"]


def test_nobody_waits_for_one_that_is_gone(tmp_path: Path) -> None:
    asyncio.run(_is_gone(tmp_path))


async def _in_order(folder: Path) -> None:
    async with rig(folder) as shop:
        await shop.look(3)
        await shop.look(3)
        assert shop.api.patched() == []


def test_what_is_in_order_is_left_alone(tmp_path: Path) -> None:
    asyncio.run(_in_order(tmp_path))


async def _marked_once(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.renew(orders_0=5, orders_1=0, orders_2=6)
        await shop.drained("orders-1")
        shop.api.forbidden.add(("patch", "deployments/scale"))
        await shop.look(2)
        await shop.look(2)
        assert shop.api.patched() == ["pods/orders-1", *["deployments/orders/scale"] * 2], (
            "its annotation said so already"
        )


def test_a_pod_is_marked_once_a_decision(tmp_path: Path) -> None:
    asyncio.run(_marked_once(tmp_path))


@pytest.mark.parametrize("stale", [False, True])
def test_nothing_is_changed_where_nothing_is_known(tmp_path: Path, stale: bool) -> None:
    async def story() -> None:
        async with rig(tmp_path) as shop:
            await shop.look(None, stale)
            assert shop.api.asked == []
            shop.signals.decisions.clear()
            await shop.direct.look()
            assert shop.api.asked == [], "nor where the topic is not known"

    asyncio.run(story())


def test_where_figures_are_stale_it_only_grows(tmp_path: Path) -> None:
    async def story() -> None:
        async with rig(tmp_path) as shop:
            await shop.look(1, stale=True)
            assert shop.api.patched() == []
            await shop.look(5, stale=True)
            assert shop.api.patched() == ["deployments/orders/scale"]

    asyncio.run(story())


@pytest.mark.parametrize("leading", [False, None])
def test_who_does_not_lead_does_nothing(tmp_path: Path, leading: bool | None) -> None:
    async def story() -> None:
        async with rig(tmp_path) as shop:
            shop.signals.leading = leading
            await shop.look(1)
            assert shop.api.asked == []

    asyncio.run(story())


async def _led_again(folder: Path) -> None:
    async with rig(folder) as shop:
        await shop.look(3)
        shop.signals.leading = False
        await shop.direct.look()
        shop.api.resize("orders", 5)
        shop.signals.leading = True
        await shop.look(4)
        assert shop.replicas == 4


def test_what_another_leader_ordered_is_nothing_to_wonder_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(_led_again(tmp_path))
    assert warnings(caplog) == []


def test_a_targets_own_bounds_are_its_wishes(tmp_path: Path) -> None:
    async def story() -> None:
        async with rig(tmp_path, targets=[ORDERS._replace(min=2, max=9)]) as shop:
            await shop.look(5)
            assert shop.signals.wishes == [Wishes(min=2, max=9)]

    asyncio.run(story())


# --- faults -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "resource", "sentence"),
    [
        ("get", "deployments/scale", 'deployments.apps "orders" is forbidden'),
        ("patch", "deployments/scale", 'cannot patch resource "deployments/scale"'),
        ("list", "pods", "pods is forbidden"),
        ("patch", "pods", 'pods "orders-0" is forbidden'),
        ("list", "horizontalpodautoscalers", "horizontalpodautoscalers.autoscaling is forbidden"),
        ("list", "scaledobjects", "scaledobjects.keda.sh is forbidden"),
    ],
)
def test_a_missing_right_is_named_once_and_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, verb: str, resource: str, sentence: str
) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        async with rig(tmp_path, targets=[ORDERS, BILLING]) as shop:
            shop.renew(orders_0=0, orders_1=2, orders_2=3)
            await shop.drained("orders-0")
            shop.api.forbidden.add((verb, resource))
            await shop.look(2)
            await shop.look(2)
            assert shop.replicas == 3
            said = [line for line in warnings(caplog) if line.startswith("shop/orders ")]
            assert len(said) == 1
            assert sentence in said[0]
            assert "--for direct" in said[0]
            shop.api.forbidden.clear()
            await shop.look(2)
            assert shop.replicas == 2
            assert "shop/orders is scaled again" in caplog.messages

    asyncio.run(story())


async def _one_is_gone(folder: Path) -> None:
    async with rig(folder, targets=[BILLING, ORDERS]) as shop:
        shop.signals.decide("billing.v1", 1)
        await shop.look(5)
        assert shop.replicas == 5


def test_a_deployment_that_is_not_there_is_said_and_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(_one_is_gone(tmp_path))
    assert warnings(caplog) == [
        "shop/billing is not scaled: Deployment shop/billing is not there; tried again every 5 s"
    ]


async def _conflict(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.api.changes_between = True
        await shop.look(5)
        assert shop.replicas == 3, "not on what it was before"
        shop.api.changes_between = False
        await shop.look(5)
        assert shop.replicas == 5


def test_two_changes_at_once_are_noticed_and_it_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(_conflict(tmp_path))
    assert warnings(caplog) == [
        "shop/orders is not scaled: Deployment shop/orders changed at the same moment; tried again every 5 s"
    ]


def test_an_api_that_is_away_is_said(tmp_path: Path, free_port: int, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        with serving(KubeApi(), tmp_path) as there:
            pass
        cluster = Kubernetes(there._replace(url=f"https://127.0.0.1:{free_port}"))
        shop = Rig(KubeApi(), cluster, [ORDERS])
        await shop.look(2)
        await cluster.close()

    asyncio.run(story())
    (said,) = warnings(caplog)
    assert f"the Kubernetes API at https://127.0.0.1:{free_port} cannot be reached" in said


def test_a_certificate_that_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        other = tmp_path / "other"
        other.mkdir()
        with serving(KubeApi(), other):
            pass
        with serving(KubeApi(), tmp_path) as there:
            cluster = Kubernetes(there._replace(ca=other / "ca.crt"))
            await Rig(KubeApi(), cluster, [ORDERS]).look(2)
            await cluster.close()

    asyncio.run(story())
    (said,) = warnings(caplog)
    assert "has a certificate that is not trusted: " in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ApiException(status=500, body='{"message": "etcd is away"}'), "refuses: etcd is away (500, Pod shop/a)"),
        (ApiException(status=502, reason="Bad Gateway", body="<html>"), "refuses: Bad Gateway (502, Pod shop/a)"),
        (TimeoutError(), "the Kubernetes API at https://api does not answer in time"),
        (aiohttp.ServerDisconnectedError(), "the Kubernetes API at https://api cannot be used: Server disconnected"),
        (FileNotFoundError(2, "No such file", "token"), "cannot be used: [Errno 2] No such file: 'token'"),
        (ValueError("no replicas"), "answers of Pod shop/a what is not understood: no replicas"),
    ],
)
def test_everything_that_goes_wrong_is_a_sentence(error: Exception, said: str) -> None:
    with pytest.raises(ClusterFault) as fault, translated("https://api", "Pod shop/a"):
        raise error
    assert said in str(fault.value)


async def _renewed(folder: Path) -> None:
    async with rig(folder) as shop:
        shop.api.token = "another"
        with pytest.raises(ClusterFault, match="does not accept our token"):
            await shop.cluster.scale("shop", "orders")
        (folder / "token").write_text("another\n")
        assert (await shop.cluster.scale("shop", "orders")).replicas == 3


def test_a_renewed_token_is_used(tmp_path: Path) -> None:
    asyncio.run(_renewed(tmp_path))


async def _read(folder: Path) -> None:
    async with rig(folder, replicas=5) as shop:
        pods = shop.api.deployments["orders"].pods
        pods["orders-0"]["metadata"]["annotations"] = {COST: "7"}
        pods["orders-1"]["metadata"]["annotations"] = {COST: "much"}
        pods["orders-2"]["metadata"]["deletionTimestamp"] = "2026-08-20T10:48:17Z"
        unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        pods["orders-3"]["status"] = {"phase": "Pending", "conditions": [unplaced]}
        pods["orders-4"]["status"]["phase"] = "Failed"
        assert await shop.cluster.pods("shop", "app=orders") == [
            Pod("orders-0", "10.0.0.1", cost=7),
            Pod("orders-1", "10.0.0.2"),
            Pod("orders-2", "10.0.0.3", going=True),
            Pod("orders-3", ready=False, pending=True, unplaced=True),
        ]


def test_pods_as_they_are(tmp_path: Path) -> None:
    asyncio.run(_read(tmp_path))


# --- others who scale -------------------------------------------------------------------------------------------------------


async def _by_a_person(folder: Path) -> None:
    async with rig(folder) as shop:
        await shop.look(3)
        shop.api.resize("orders", 7)
        await shop.look(3)
        assert shop.replicas == 3


def test_what_a_person_changed_is_said_and_undone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(_by_a_person(tmp_path))
    assert warnings(caplog) == ["somebody else changed shop/orders from 3 to 7 replicas"]


async def _another_scaler(folder: Path, set_up: Callable[[KubeApi], None], name: str) -> None:
    async with rig(folder) as shop:
        set_up(shop.api)
        (sentence,) = await shop.direct.conflicts()
        assert sentence.startswith(f"shop/orders is scaled by {name} already")
        await shop.look(1)
        assert shop.replicas == 3
        shop.api.autoscalers.clear()
        shop.api.scaled_objects = {}
        assert await shop.direct.conflicts() == []
        await shop.look(1)
        assert shop.replicas == 1, "it is ours once that is gone"


def _hpa(api: KubeApi) -> None:
    api.autoscalers = {"orders": "orders", "others": "billing"}


def _scaled_object(api: KubeApi) -> None:
    api.scaled_objects = {"orders-v2": "orders", "others": "billing"}


@pytest.mark.parametrize(
    ("set_up", "name"), [(_hpa, "HorizontalPodAutoscaler orders"), (_scaled_object, "ScaledObject orders-v2")]
)
def test_what_something_else_scales_is_refused(tmp_path: Path, set_up: Callable[[KubeApi], None], name: str) -> None:
    asyncio.run(_another_scaler(tmp_path, set_up, name))


async def _later(folder: Path) -> None:
    async with rig(folder) as shop:
        await shop.look(3)
        shop.api.autoscalers = {"orders": "orders"}
        shop.api.resize("orders", 6)
        await shop.look(3)
        assert shop.replicas == 6


def test_a_scaler_that_comes_later_is_noticed_by_what_it_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(_later(tmp_path))
    (said,) = warnings(caplog)
    assert "is scaled by HorizontalPodAutoscaler orders already" in said


@pytest.mark.parametrize(
    ("there", "refused"),
    [
        (None, ""),
        (("meshq", "meshq-signals"), ""),
        (
            ("keda", "keda-operator-metrics-apiserver"),
            "keda/keda-operator-metrics-apiserver serves the external metrics",
        ),
    ],
)
def test_external_metrics_are_served_only_where_nobody_else_does(
    tmp_path: Path, there: tuple[str, str] | None, refused: str
) -> None:
    async def story() -> str:
        async with rig(tmp_path) as shop:
            shop.api.external_metrics = there
            return await external_metrics_owner(shop.cluster, "meshq/meshq-signals")

    sentence = asyncio.run(story())
    assert sentence.startswith(refused)
    assert bool(sentence) == bool(refused)


# --- the loop ---------------------------------------------------------------------------------------------------------------


async def _woken(folder: Path) -> None:
    async with rig(folder, replicas=0, targets=[ORDERS, BILLING]) as shop:
        shop.api.add("billing", 0)
        shop.signals.decide("orders.v2", 0)
        shop.signals.decide("billing.v1", 0)
        tasks = Tasks()
        tasks.start(shop.direct.run(), "the direct mode")
        await until(lambda: len(shop.api.asked) == 6)
        shop.signals.decide("orders.v2", 2)
        await until(lambda: shop.replicas == 2)
        assert not [path for _, path in shop.api.asked[6:] if "billing" in path], "the other was not decided on"
        await tasks.close()
        assert not shop.signals.watched


def test_a_decision_is_followed_at_once(tmp_path: Path) -> None:
    asyncio.run(_woken(tmp_path))


# --- where we are, and what is decided --------------------------------------------------------------------------------------


def test_a_pod_finds_its_api(tmp_path: Path) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(ClusterFault, match="token is not there: give the pod a serviceAccountName"):
        in_cluster(environment, tmp_path)
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("")
    assert in_cluster(environment, tmp_path) == Access("https://[fd00::1]:443", tmp_path / "token", tmp_path / "ca.crt")
    with pytest.raises(ClusterFault, match="this is no pod of a Kubernetes cluster"):
        in_cluster({}, tmp_path)


def at(pod: str, in_flight: int = 0, drains: bool = False, done: bool = False, host: str = "") -> Occupant:
    return Occupant("orders", f"{pod}-aaaaaa", host, in_flight, drains, done)


WAITED = at("a", 3, drains=True)
DONE = at("a", drains=True, done=True)
MARKED = Pod("a", cost=-1_000_000)


@pytest.mark.parametrize(
    ("pods", "occupants", "desired", "told", "costs", "replicas"),
    [
        ([Pod("a"), Pod("b")], [at("a", 1), at("b")], 1, "b", {}, 2),
        ([Pod("a"), Pod("b")], [at("a", 1), at("b")], 2, "", {}, 2),
        ([Pod("a"), Pod("b")], [], 1, "", {}, 1),  # nothing to choose by
        ([Pod("a"), Pod("b"), Pod("c")], [at("a", 2), at("b")], 0, "ba", {"c": -900_000}, 2),  # c cannot be told
        ([Pod("a"), Pod("b", ready=False)], [at("a")], 1, "", {}, 1),  # goes first by itself
        ([Pod("a"), Pod("b", ready=False)], [at("a"), at("b", 2)], 1, "b", {}, 2),  # not ready, and at work
        ([Pod("a"), Pod("b"), Pod("c", going=True)], [at("a"), at("b"), at("c", 1, drains=True)], 2, "", {}, 2),
        ([Pod("a"), Pod("b")], [WAITED, at("b")], 1, "", {}, 2),
        ([Pod("a"), Pod("b")], [DONE, at("b")], 1, "", {"a": -1_000_000}, 1),
        ([MARKED, Pod("b")], [DONE, at("b")], 1, "", {}, 1),
        ([Pod("a"), Pod("b")], [DONE._replace(in_flight=4), at("b")], 1, "", {"a": -999_996}, 1),
        ([MARKED, Pod("b")], [at("a"), at("b")], 2, "", {"a": 0}, 2),  # a mark that does not hold any more
        ([Pod("a", cost=50), Pod("b")], [at("a"), at("b")], 2, "", {}, 2),
        ([Pod("a"), Pod("b")], [DONE, at("b")], 2, "", {"a": -1_000_000}, 3),  # another comes before it goes
        ([Pod("a"), Pod("b", ready=False), Pod("c")], [DONE, at("c")], 2, "", {"a": -1_000_000}, 3),  # b starts
        ([Pod("a", ready=False), Pod("b", ready=False)], [DONE], 1, "", {"a": -1_000_000}, 1),
        ([Pod("a", ready=False), Pod("b", ready=False, pending=True)], [DONE], 1, "", {}, 2),  # b would go first
        ([Pod("a", ready=False), Pod("b", ready=False, pending=True, unplaced=True)], [DONE], 1, "", {}, 0),
        ([Pod("a"), Pod("b", ready=False, pending=True, unplaced=True)], [WAITED], 1, "", {}, 2),
        ([Pod("a"), Pod("b")], [WAITED, at("a", 1), at("b", 9)], 1, "a", {}, 2),  # two in one pod
        ([Pod("a", "10.0.0.1"), Pod("b")], [at("set", host="10.0.0.1"), at("b", 1)], 1, "set", {}, 2),
        ([Pod("a", "10.0.0.1"), Pod("c", "10.0.0.1"), Pod("b")], [at("set", host="10.0.0.1"), at("b")], 2, "b", {}, 3),
    ],
)
def test_who_goes(
    pods: list[Pod], occupants: list[Occupant], desired: int, told: str, costs: dict[str, int], replicas: int
) -> None:
    plan = planned(pods, occupants, sum(not pod.going for pod in pods), desired)
    assert "".join(pod_of(each.id) for each in plan.drain) == told
    assert (plan.costs, plan.replicas) == (costs, replicas)


def test_the_surplus_of_a_rollout_is_not_drained() -> None:
    pods = [Pod(name) for name in "abcde"]
    plan = planned(pods, [at("a", 2, drains=True), *(at(name) for name in "bcde")], ordered=4, desired=3)
    assert (plan.drain, plan.replicas) == ((), 4)


def test_those_that_were_not_made_yet_go_first() -> None:
    plan = planned([Pod("a"), Pod("b")], [at("a", 1), at("b")], ordered=5, desired=1)
    assert ([each.id for each in plan.drain], plan.replicas) == (["b-aaaaaa"], 2)


@pytest.mark.parametrize("pod", ["orders-7d9f8c6b5-x2x4z", "a" * 80, "Orders_1"])
def test_a_pod_is_known_by_its_instances_id(pod: str) -> None:
    ident = instance_id(pod, "k3m2qa")
    assert pod_of(ident) == host_part(pod)
    plan = planned([Pod(pod), Pod("z")], [Occupant("orders", ident, "", 0), at("z", 1)], ordered=2, desired=1)
    assert [each.id for each in plan.drain] == [ident]


def test_targets_as_they_are_written() -> None:
    assert parse_targets("shop/orders=orders.v2, shop/billing-v1=billing.v1:0-5,") == (
        ORDERS,
        Target("shop", "billing-v1", "billing.v1", 0, 5),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("orders=orders.v2", "is not a Deployment to scale: <namespace>/<deployment>="),
        ("shop/orders=orders", "is not a topic"),
        ("shop/Orders=orders.v2", "is not a name of a namespace or Deployment"),
        ("shop/orders=lost.v2", "reserved word"),
        ("shop/orders=orders.v2:5-1", "the least replicas are more than the most"),
        ("shop/orders=orders.v2:0-0", "would let nothing run"),
    ],
)
def test_a_target_that_makes_no_sense(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_target(text)


def test_a_deployment_has_one_topic() -> None:
    with pytest.raises(ValueError, match="shop/orders is named twice"):
        parse_targets("shop/orders=orders.v2,shop/orders=orders.v1")
