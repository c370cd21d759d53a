"""The direct mode: replicas of Deployments follow the decisions, where neither KEDA nor an HPA does that.

Only the leading replica of the server acts. Where nothing is known, or figures are stale, nothing is changed. Growing is ordered at
once. Before it shrinks a Deployment it marks the least busy pods as those that go (meshq.core.cluster). What cannot be done is said
once and tried again in the next pass; other Deployments go on.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from meshq.core.cluster import ClusterFault, Pod, Scale, deletion_costs
from meshq.core.scaling_values import EVERY
from meshq.signals.direct_targets import Target
from meshq.signals.figures import Signals, Wishes

log = logging.getLogger(__name__)

InFlight = Callable[[str], Mapping[str, int]]
"""Topic -> messages in flight by pod name (meshq.core.cluster.pod_of) or pod address, of those pods that are known."""


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

    def __init__(self, signals: Signals, cluster: Cluster, targets: Sequence[Target], in_flight: InFlight) -> None:
        self._signals = signals
        self._cluster = cluster
        self._targets = targets
        self._in_flight = in_flight
        self._ordered: dict[str, int] = {}
        """Target -> the replicas that were there when it was last in order."""
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
        if signal is None or signal.decision.desired is None or signal.decision.stale:
            return
        try:
            await self._bring(target, signal.decision.desired)
        except ClusterFault as fault:
            self._say(target, str(fault))
        else:
            if self._faults.pop(target.name, None) is not None:
                log.info("%s is scaled again", target.name)

    async def _bring(self, target: Target, desired: int) -> None:
        scale = await self._cluster.scale(target.namespace, target.deployment)
        if scale.replicas != self._ordered.get(target.name):
            await self._was_changed(target, scale.replicas)
        if desired < scale.replicas:
            await self._mark(target, scale, desired)
        if desired != scale.replicas:
            await self._cluster.set_replicas(target.namespace, target.deployment, desired, scale.version)
            log.info("%s: %d replicas, there were %d (%s)", target.name, desired, scale.replicas, target.topic)
        self._ordered[target.name] = desired

    async def _was_changed(self, target: Target, replicas: int) -> None:
        """By somebody else, or it is seen for the first time: what a person did once is undone, but another scaler would go on."""
        known = self._ordered.pop(target.name, None)
        if scaler := await self._scaled_by(target):
            raise ClusterFault(_conflict(target, scaler))
        if known is not None:
            log.warning("somebody else changed %s from %d to %d replicas", target.name, known, replicas)

    async def _mark(self, target: Target, scale: Scale, desired: int) -> None:
        pods = await self._cluster.pods(target.namespace, scale.selector)
        for pod, cost in deletion_costs(pods, desired, self._in_flight(target.topic)).items():
            await self._cluster.set_deletion_cost(target.namespace, pod, cost)

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
