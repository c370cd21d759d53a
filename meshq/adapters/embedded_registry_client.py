"""The embedded registry as its clients have it: `ports.Registry`, which waits where another one would."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from meshq.core.instances import Instance, Load, Renewal, Snapshot, State
from meshq.core.policy import Policy
from meshq.core.reports import Report, Reported

if TYPE_CHECKING:
    from meshq.adapters.embedded_registry import EmbeddedRegistryHub


class EmbeddedRegistry:
    """`ports.Registry`: one client of a hub."""

    def __init__(self, hub: "EmbeddedRegistryHub") -> None:
        self._hub = hub

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def register(self, instance: Instance) -> int:
        return self._hub.register(instance)

    async def renew(
        self, service: str, instance: str, generation: int, load: Load, report: Report | None = None
    ) -> Renewal | None:
        return self._hub.renew(service, instance, generation, load, report)

    async def set_state(self, service: str, instance: str, generation: int, state: State) -> None:
        self._hub.set_state(service, instance, generation, state)

    async def describe(self, service: str, instance: str, generation: int, metadata: Mapping[str, str]) -> None:
        self._hub.describe(service, instance, generation, metadata)

    async def deregister(self, service: str, instance: str, generation: int) -> None:
        self._hub.deregister(service, instance, generation)

    async def pause(self, service: str, instance: str, reason: str, for_ms: int | None, generation: int | None) -> bool:
        return self._hub.pause(service, instance, reason, for_ms, generation)

    async def resume(self, service: str, instance: str, generation: int | None) -> bool:
        return self._hub.resume(service, instance, generation)

    async def order_drain(self, service: str, instance: str) -> bool:
        return self._hub.order_drain(service, instance)

    async def snapshot(self) -> Snapshot:
        return self._hub.snapshot()

    async def changed(self, revision: int, timeout: float) -> int:
        return await self._hub.changed(revision, timeout)

    async def put_policy(self, service: str, policy: Policy | None) -> None:
        self._hub.put_policy(service, policy)

    async def called(self, caller: str, topics: Sequence[str]) -> None:
        self._hub.called(caller, topics)

    async def callers(self, service: str) -> Mapping[tuple[int, str], int]:
        return self._hub.callers(service)

    async def retire(self, service: str, major: int) -> bool:
        return self._hub.retire(service, major)

    async def reports(self) -> Sequence[Reported]:
        return self._hub.reports()

    async def wake(self, topics: Sequence[str]) -> None:
        self._hub.wake(topics)

    async def woken(self, after: str, timeout: float) -> tuple[str, Sequence[str]]:
        return await self._hub.woken(after, timeout)
