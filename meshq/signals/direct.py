"""The direct mode: replicas of Deployments follow the decisions, where neither KEDA nor an HPA does that.

Only the leading replica of the server acts. Where nothing is known nothing is changed, where
figures are stale it only grows. Growing is ordered at
once. To shrink a Deployment it tells the least busy instances to drain, and takes their pods away when they have finished what they had
(meshq.core.cluster). What cannot be done is said once and tried again in the next pass; other Deployments go on.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from meshq.core.cluster import ClusterFault, Occupant, Plan, Pod, Scale, planned, straight
from meshq.core.scaling_values import EVERY
from meshq.ports import RegistryAway
from meshq.signals.direct_drains import Drains
from meshq.signals.direct_targets import Target
from meshq.signals.figures import Signals, Wishes

log = logging.getLogger(__name__)


class Cluster(Protocol):
    """Every method may raise ClusterFault."""

    async def scale(self, namespace: str, deployment: str) -> Scale: ...

    async def set_replicas(self, namespace: str, deployment: str, replicas: int, version: str) -> None:
        """A fault too if the Deployment is not of `version` any more."""

    async def pods(self, namespace: str, selector: str) -> Sequence[Pod]: ...

    async def set_deletion_cost(self, namespace: str, pod: str, cost: int) -> None: ...

    async def scalers(self, namespace: str, deployment: str) -> Sequence[str]:
        """What else scales the Deployment, by kind and name."""


class Direct:
    """`targets`: no Deployment twice."""

    def __init__(self, signals: Signals, cluster: Cluster, targets: Sequence[Target], drains: Drains) -> None:
        self._signals = signals
        self._cluster = cluster
        self._targets = targets
        self._drains = drains
        self._ordered: dict[str, int] = {}
        """Target -> the replicas that it had after the last pass."""
        self._faults: dict[str, str] = {}
        """Target -> what was said of it."""
        self._changed: set[str] = set()
        """Topics decided on since the last pass."""
        self._called = asyncio.Event()

    async def conflicts(self) -> Sequence[str]:
        """For the start: a sentence for each Deployment that something else scales already. Raises ClusterFault where that cannot be
        found out."""
        found = [(target, await self._scaled_by(target)) for target in self._targets]
        return [_conflict(target, scaler) for target, scaler in found if scaler]

    async def run(self) -> None:
        """Until it is cancelled: a pass every 5 s, and at once over what was decided anew."""
        end = self._signals.on_change(self._call)
        try:
            while True:
                await self.look()
                await self._wait()
        finally:
            end()

    async def look(self) -> None:
        """One pass, over all targets, or over those whose topic was decided on anew where there are such."""
        changed, self._changed = self._changed, set()
        self._called.clear()
        for target in self._targets:
            if not self._signals.leading:
                self._ordered.clear()  # what another leader orders is nothing to wonder about
            elif not changed or target.topic in changed:
                await self._follow(target)

    def _call(self, topic: str) -> None:
        self._changed.add(topic)
        self._called.set()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(EVERY):
                await self._called.wait()

    # --- one Deployment -----------------------------------------------------------------------------------------------------

    async def _follow(self, target: Target) -> None:
        signal = self._signals.of_topic(target.topic, Wishes(min=target.min, max=target.max))
        if signal is None or signal.decision.desired is None:
            return
        try:
            await self._bring(target, signal.decision.desired, signal.decision.stale)
        except ClusterFault as fault:
            self._say(target, str(fault))
        else:
            if self._faults.pop(target.name, None) is not None:
                log.info("%s is scaled again", target.name)

    async def _bring(self, target: Target, desired: int, stale: bool) -> None:
        scale = await self._cluster.scale(target.namespace, target.deployment)
        if stale and desired <= scale.replicas:
            return
        if scale.replicas != self._ordered.get(target.name):
            await self._was_changed(target, scale.replicas)
        plan = await self._plan(target, scale, desired)
        for occupant in plan.drain:
            await self._drain(target, occupant)
        for pod, cost in plan.costs.items():
            await self._cluster.set_deletion_cost(target.namespace, pod, cost)
        if plan.replicas != scale.replicas:
            await self._cluster.set_replicas(target.namespace, target.deployment, plan.replicas, scale.version)
            log.info("%s: %d replicas, there were %d (%s)", target.name, plan.replicas, scale.replicas, target.topic)
        self._ordered[target.name] = plan.replicas

    async def _plan(self, target: Target, scale: Scale, desired: int) -> Plan:
        occupants = self._drains.occupants(target.topic)
        if desired >= scale.replicas and not any(each.drains for each in occupants):
            return straight(desired)
        pods = await self._cluster.pods(target.namespace, scale.selector)
        return planned(pods, occupants, scale.replicas, desired)

    async def _drain(self, target: Target, occupant: Occupant) -> None:
        try:
            await self._drains.order(target.topic, occupant)
        except RegistryAway as away:
            raise ClusterFault(f"{occupant.id} cannot be told to drain, so that no pod goes: {away}") from away
        log.info("%s: %s is to drain, with %d messages in flight", target.name, occupant.id, occupant.in_flight)

    async def _was_changed(self, target: Target, replicas: int) -> None:
        """By somebody else, or it is seen for the first time: what a person did once is undone, but another scaler would go on."""
        known = self._ordered.pop(target.name, None)
        if scaler := await self._scaled_by(target):
            raise ClusterFault(_conflict(target, scaler))
        if known is not None:
            log.warning("somebody else changed %s from %d to %d replicas", target.name, known, replicas)

    async def _scaled_by(self, target: Target) -> str:
        return ", ".join(await self._cluster.scalers(target.namespace, target.deployment))

    def _say(self, target: Target, fault: str) -> None:
        if self._faults.get(target.name) != fault:
            self._faults[target.name] = fault
            log.warning("%s is not scaled: %s; tried again every %g s", target.name, fault, EVERY)


def _conflict(target: Target, scaler: str) -> str:
    return (
        f"{target.name} is scaled by {scaler} already, and two would undo each other's work: delete that, or take {target.name} out of "
        "the direct mode"
    )
