"""This instance's place in the mesh: what it is, what the registry is told of it, and what it learns of others there.

Four parts that know nothing of each other come together here: the registration (membership), the picture of everybody (pictures),
the pauses, and the one decision whether messages are taken (duty).
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from meshq.core import views
from meshq.core.instances import Instance, Load, Orders
from meshq.core.reports import Report
from meshq.core.standing import Circumstances
from meshq.core.usage import Usage
from meshq.ports import Clock, Registry
from meshq.settings import Settings
from meshq.tasks import Tasks
from meshq_sidecar.duty import Duty
from meshq_sidecar.membership import Membership
from meshq_sidecar.own_address import endpoint, own_address
from meshq_sidecar.pausing import Pauses
from meshq_sidecar.pictures import OnDisk, Pictures
from meshq_sidecar.services_api import ServicesApi
from meshq_sidecar.watching import Watching

FIRST_LOOK = 3.0
"""The longest that anything waits for the first picture: a registry that does not answer costs 2 s before the disk is read."""


class Place:
    """`start` and `stop` consuming messages; `drain` begins to drain; `load` and `report` are what is told with every renewal;
    `usage` what this service sends to."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        clock: Clock,
        disk: OnDisk | None,
        *,
        start: Callable[[], None],
        stop: Callable[[], None],
        drain: Callable[[], None],
        load: Callable[[], Load],
        report: Callable[[], Report],
        usage: Callable[[], Usage],
    ) -> None:
        self._settings = settings
        self._drain = drain
        first = Circumstances(serves=bool(settings.majors), waiting=bool(settings.wait_for))
        self.duty = Duty(first, start, stop, lambda state: self.membership.set_state(state))
        self.pauses = Pauses(clock, self._on_pauses)
        instance = Instance(
            settings.service, settings.instance, settings.service_version, settings.majors, self.duty.told
        )
        self.membership = Membership(
            registry, clock, instance, load, report, usage, lambda: self.duty.note(fenced=True)
        )
        self.watching = Watching(
            settings.service,
            settings.instance,
            settings.wait_for,
            lambda: self.membership.generation,
            self._obey,
            lambda: self.duty.note(waiting=False),
        )
        self.pictures = Pictures(registry, clock, disk, settings.service)
        self.services = ServicesApi()
        self.pictures.on_change(self.watching.see)
        self.pictures.on_change(self.services.see)

    async def open(self, tasks: Tasks) -> None:
        """From now on the mesh knows of it, as soon as the registry answers."""
        address, port = await own_address(self._settings.registry_url), self._settings.app_port
        endpoints: Mapping[str, str] = {} if port is None else {"http": endpoint(address, port)}
        self.membership.found_at(endpoint(address, self._settings.port), endpoints)
        tasks.start(self.membership.keep(), "keep the registration")
        tasks.start(self.pictures.follow(), "follow the registry")
        tasks.start(self.pictures.keep(), "keep the picture of the mesh")

    async def look(self) -> None:
        """Wait a moment for the first picture: who may call is known from it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await self.pictures.asked.wait()

    async def close(self) -> None:
        """After the tasks were closed."""
        self.pauses.close()
        self.services.close()
        await self.pictures.close()

    # --- what the parts say to each other -------------------------------------------------------------------------------------

    def _on_pauses(self) -> None:
        own, ordered = self.pauses.own, self.pauses.ordered
        self.membership.set_pause(own)
        self.duty.note(paused=own is not None, ordered_pause=ordered is not None)

    def _obey(self, orders: Orders, now: bool) -> None:
        if now:  # older ones are obeyed, but not said again to a registry that may know better
            self.membership.ordered(orders)
        self.pauses.obey(orders.pause)
        if orders.drain:
            self._drain()

    # --- what is shown --------------------------------------------------------------------------------------------------------

    def checks(self) -> dict[str, str]:
        """Of /readyz."""
        checks = {"registry": self._registry_fault()}
        if self.watching.missing:
            checks["waitFor"] = f"no ready instance yet of {', '.join(map(str, self.watching.missing))}"
        return checks

    def _registry_fault(self) -> str:
        """Once the mesh knew this instance, or while a picture from the disk serves, the registry's absence does not count."""
        if not self.pictures.pictured:
            return self.pictures.fault
        if self.membership.fenced or not (self.membership.was_registered or self.pictures.from_disk):
            return self.membership.fault
        return ""

    def as_json(self) -> dict[str, Any]:
        """Of /v1/self."""
        instance, missing = self.membership.instance, self.watching.missing
        return {
            "service": instance.service,
            "version": str(instance.version),
            "instance": instance.id,
            "state": self.duty.state.value,
            "consuming": self.duty.consumes,
            "registered": self.membership.generation is not None and not self.membership.fenced,
            "address": instance.address,
            "endpoints": dict(instance.endpoints),
            "metadata": dict(instance.metadata),
            "pause": self._pause(),
            "orders": self._orders(),
            "waitFor": {str(each): "missing" if each in missing else "ready" for each in self._settings.wait_for},
            "picture": self._picture(),
        }

    def _pause(self) -> dict[str, Any] | None:
        """An operator's before its own, which it can lift itself."""
        for by, held in (("operator", self.pauses.ordered), ("self", self.pauses.own)):
            if held is not None:
                return {**views.pause(self.pauses.as_pause(held)), "by": by}
        return None

    def _orders(self) -> dict[str, Any]:
        held = self.pauses.ordered
        pause = None if held is None else views.pause(self.pauses.as_pause(held))
        return {"pause": pause, "drain": self.watching.orders.drain}

    def _picture(self) -> dict[str, Any] | None:
        pictures = self.pictures
        if not pictures.pictured:
            return None
        return {
            "revision": pictures.picture.revision,
            "age": round(pictures.age, 1),
            "stale": pictures.picture.stale,
            "fromDisk": pictures.from_disk,
        }
