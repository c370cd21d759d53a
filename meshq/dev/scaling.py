"""Starts and ends replicas of the apps that say `scale`, as the scaling signals of their topics want it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from meshq.dev import checks
from meshq.dev.output import RUNNER, Output
from meshq.dev.plan import Scaled, Unit
from meshq.dev.replica import Replica, Replicas
from meshq.settings import BadSettings
from meshq.signals.figures import Signals
from meshq.tasks import Tasks
from meshq_sidecar.listening import PortTaken

END_SECONDS = 25.0
"""What an app may take to end once it is told to; nothing is at it any more then."""


class Scaler:
    """Use: `start`, `close`: from then on nothing is started any more, and what was leaving is left to the caller."""

    def __init__(self, apps: Sequence[Scaled], replicas: Replicas, signals: Signals, output: Output) -> None:
        self._apps = {app.topic: app for app in apps}
        self._replicas = replicas
        self._signals = signals
        self._output = output
        self._refused: dict[str, str] = {}
        """By label: what was said last of a replica that could not be started."""
        self._tasks = Tasks()
        self._closed = False

    def start(self) -> None:
        self._end = self._signals.on_change(self._on_change)
        for app in self._apps.values():
            self._look(app)

    async def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._end()
        self._closed = True
        await self._tasks.close()

    def about(self) -> list[dict[str, Any]]:
        """What the control API's /v1/status tells of it."""
        return [self._about(app) for app in self._apps.values()]

    def _about(self, app: Scaled) -> dict[str, Any]:
        signal = self._signals.of_topic(app.topic)
        there = self._replicas.of(app.units[0].index)
        return {
            "name": app.name,
            "topic": app.topic,
            "min": app.policy.min,
            "max": app.policy.max,
            "replicas": sum(not replica.leaving for replica in there),
            "leaving": sum(replica.leaving for replica in there),
            "desired": None if signal is None else signal.decision.desired,
            "reason": "nothing is known yet" if signal is None else signal.decision.reason,
        }

    # --- decisions ----------------------------------------------------------------------------------------------------------

    def _on_change(self, topic: str) -> None:
        if (app := self._apps.get(topic)) is not None:
            self._look(app)

    def _look(self, app: Scaled) -> None:
        signal = self._signals.of_topic(app.topic)
        if self._closed or signal is None or signal.decision.desired is None:
            return
        there = self._replicas.of(app.units[0].index)
        staying = [replica for replica in there if not replica.leaving]
        wanted = min(max(signal.decision.desired, app.policy.min), app.policy.max)
        if wanted > len(staying):
            held = {replica.label for replica in there}
            free = [unit for unit in app.units if unit.label not in held]
            added = [self._add(unit) for unit in free[: wanted - len(staying)]]
            self._say(app, len(staying), len(staying) + sum(added), signal.decision.reason)
        elif wanted < len(staying):
            for replica in victims(staying, len(staying) - wanted):
                replica.leaving = True
                self._tasks.start(self._take_out(app, replica), f"end {replica.label}")
            self._say(app, len(staying), wanted, signal.decision.reason)

    def _say(self, app: Scaled, before: int, after: int, reason: str) -> None:
        if before != after:
            self._output.said(RUNNER, f"{app.name}: {before} -> {after} replicas: {reason}")

    # --- up -----------------------------------------------------------------------------------------------------------------

    def _add(self, unit: Unit) -> bool:
        """Whether it is being started; if not, the next decision tries again."""
        if taken := checks.taken_ports_of(unit):
            self._refuse(unit, "; ".join(taken))
            return False
        try:
            replica = self._replicas.add(unit)
        except (BadSettings, ValueError, OSError) as error:
            self._refuse(unit, str(error))
            return False
        self._tasks.start(self._bring_up(replica), f"start {unit.label}")
        return True

    async def _bring_up(self, replica: Replica) -> None:
        try:
            await replica.start_sidecar()
        except (PortTaken, OSError) as error:
            self._refuse(replica.unit, str(error))
            await self._replicas.remove(replica)
            return
        self._refused.pop(replica.label, None)
        if not replica.leaving:
            replica.start_app()

    def _refuse(self, unit: Unit, fault: str) -> None:
        if self._refused.get(unit.label) != fault:
            self._output.said(unit.label, f"cannot be started: {fault}", wrong=True)
        self._refused[unit.label] = fault

    # --- down ---------------------------------------------------------------------------------------------------------------

    async def _take_out(self, app: Scaled, replica: Replica) -> None:
        await replica.drain()
        try:
            async with asyncio.timeout(END_SECONDS):
                await replica.terminate()
        except TimeoutError:
            self._output.said(replica.label, f"still runs {END_SECONDS:g} s after SIGTERM: it is killed", wrong=True)
            await replica.kill()
        await self._replicas.remove(replica)
        self._output.said(replica.label, "ended, as it is not needed any more")
        self._look(app)  # its place is free again


def victims(staying: Sequence[Replica], count: int) -> list[Replica]:
    """Those with the least to finish, of these the youngest. `staying` has the oldest first. The one whose sidecar listens for all
    goes last."""
    youngest_first = reversed(staying)
    return sorted(youngest_first, key=lambda each: (bool(each.unit.intercept), each.sidecar.at_work))[:count]
