"""Apps that may be at zero replicas from the start: their topics are made known, and their queues made, as their sidecars would do
it, so that messages wait for the first replica."""

import asyncio
from functools import reduce
from operator import add

from meshq.core import names, topology
from meshq.core.instances import Instance, State
from meshq.core.subscriptions import Mode, declarations
from meshq.core.topology import Topology
from meshq.ports import Broker, Registry, RegistryAway
from meshq.settings import Settings

AGAIN_AFTER = 0.5
"""Seconds until the servers are asked again after one of them was away."""
ITS_ID = "scaled-to-zero"
"""Of the instance under which a topic is made known, for a moment."""


class Asleep:
    """One such app. `settings` are those of any of its sidecars."""

    def __init__(self, label: str, settings: Settings, broker: Broker, registry: Registry) -> None:
        self.label = label
        self.ready = False
        """Whether messages for it have where to wait."""
        self.why_not = "its queues are being made"
        self._settings = settings
        self._broker = broker
        self._registry = registry

    async def run(self) -> None:
        """Until it is ready, however long its servers are away."""
        wanted = queues(self._settings)
        while True:
            self.why_not = await self._prepare(wanted)
            if not self.why_not:
                self.ready = True
                return
            await asyncio.sleep(AGAIN_AFTER)

    async def _prepare(self, wanted: Topology) -> str:
        """Returns why not."""
        await self._broker.declare(wanted)
        state = self._broker.state
        if not state.consuming or state.fault:
            return state.fault or "the broker is being connected to"
        try:
            await self._make_known()
        except RegistryAway as away:
            return f"the registry is away: {away}"
        return ""

    async def _make_known(self) -> None:
        """While a major has no instance, selectors are held against the version that was ready last: from now on this one's."""
        service, version = self._settings.service, self._settings.service_version
        known = (await self._registry.snapshot()).services.get(service)
        if known is not None and all(known.majors.get(major) == version for major in self._settings.majors_of_link):
            return
        instance = Instance(service, ITS_ID, version, self._settings.majors_of_link, State.READY)
        generation = await self._registry.register(instance)
        await self._registry.deregister(service, ITS_ID, generation)


def queues(settings: Settings) -> Topology:
    """Those of its calls, messages, results and events, and the shared parts."""
    service = settings.service
    own = names.topic(service, settings.service_version.major)
    parts = [topology.shared(), topology.results(service), topology.dead(own)]
    parts += [topology.service(names.topic(service, major), settings.ordered) for major in settings.majors_of_link]
    parts += [topology.log(event.topic) for event in settings.log_events]
    # What is broadcast is for instances that are there.
    parts += [declarations(each, own, "") for each in settings.subscribe if each.mode is not Mode.BROADCAST]
    return reduce(add, parts)
