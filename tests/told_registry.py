"""`ports.Registry` of one instance; what it answers next is up to the test."""

import asyncio
from collections.abc import Mapping, Sequence

from meshq.core.instances import Instance, Load, Renewal, Snapshot, State
from meshq.core.policy import Policy
from meshq.core.reports import Report, Reported
from meshq.ports import Fenced, RegistryAway

NOW_MS = 2_000_000_000_000


class ToldRegistry:
    """`said` is all that was asked of it but the picture: (method, what)."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []
        self.registered: list[Instance] = []
        self.away = ""
        self.refuses_policies = False
        self.fenced = False
        self.known = False
        self.generation = 0
        self.picture = Snapshot(1, {})
        self.snapshots = 0
        self.held: asyncio.Event | None = None
        """Renewals wait for it."""
        self.report: Report | None = None
        """The last."""
        self.waking: asyncio.Event | None = None
        """Wakes wait for it."""
        self.renewing = self.most_renewing = 0
        self._changed = asyncio.Event()

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    def _check(self, generation: int | None = None) -> None:
        if self.away:
            raise RegistryAway(self.away)
        if generation is not None and (self.fenced or generation != self.generation):
            raise Fenced

    async def register(self, instance: Instance) -> int:
        self._check()
        self.generation += 1
        self.known = True
        self.registered.append(instance)
        self.said.append(("register", instance.state))
        return self.generation

    async def renew(
        self, service: str, instance: str, generation: int, load: Load, report: Report | None = None
    ) -> Renewal | None:
        self.renewing += 1
        self.most_renewing = max(self.most_renewing, self.renewing)
        try:
            if self.held is not None:
                await self.held.wait()
            self._check(generation)
        finally:
            self.renewing -= 1
        self.said.append(("renew", load.in_flight))
        self.report = report
        return Renewal(NOW_MS, self.picture.revision) if self.known else None

    async def set_state(self, service: str, instance: str, generation: int, state: State) -> None:
        self._check(generation)
        self.said.append(("state", state))

    async def describe(self, service: str, instance: str, generation: int, metadata: Mapping[str, str]) -> None:
        self._check(generation)
        self.said.append(("describe", dict(metadata)))

    async def deregister(self, service: str, instance: str, generation: int) -> None:
        self._check(generation)
        self.known = False
        self.said.append(("deregister", instance))

    async def pause(self, service: str, instance: str, reason: str, for_ms: int | None, generation: int | None) -> bool:
        self._check(generation)
        self.said.append(("pause", reason, for_ms))
        return True

    async def resume(self, service: str, instance: str, generation: int | None) -> bool:
        self._check(generation)
        self.said.append(("resume",))
        return True

    async def order_drain(self, service: str, instance: str) -> bool:
        raise NotImplementedError("an operator's")

    async def called(self, caller: str, topics: Sequence[str]) -> None:
        self._check()
        self.said.append(("called", *topics))

    async def callers(self, service: str) -> Mapping[tuple[int, str], int]:
        raise NotImplementedError("an operator's")

    async def put_policy(self, service: str, policy: Policy | None) -> None:
        self._check()
        if self.refuses_policies:
            raise RegistryAway("no rights")
        self.said.append(("policy", service, policy))

    async def retire(self, service: str, major: int) -> bool:
        raise NotImplementedError("an operator's")

    async def reports(self) -> Sequence[Reported]:
        raise NotImplementedError("for whoever scales")

    async def wake(self, topics: Sequence[str]) -> None:
        if self.waking is not None:
            await self.waking.wait()
        self._check()
        self.said.append(("wake", *topics))

    async def woken(self, after: str, timeout: float) -> tuple[str, Sequence[str]]:
        raise NotImplementedError("for whoever scales")

    async def snapshot(self) -> Snapshot:
        self._check()
        self.snapshots += 1
        return self.picture

    async def changed(self, revision: int, timeout: float) -> int:
        try:
            async with asyncio.timeout(timeout):
                while self.picture.revision == revision and not self.away:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        self._check()
        return self.picture.revision

    def change(self, picture: Snapshot | None = None, away: str = "") -> None:
        self.picture, self.away = picture or self.picture, away
        self._changed.set()
