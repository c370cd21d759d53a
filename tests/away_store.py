"""A store that can be away, in front of one that is there."""

from collections.abc import Sequence

from meshq.ports import RequestRecord, Store, StoreAway


class AwayStore:
    """`ports.Store`, as much of it as durable calls need."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = False
        self.asked = 0
        """Operations, those too that failed."""
        self.told: list[tuple[str, list[str]]] = []
        """What `accepted` was called with: the service, and ids."""

    async def accepted(self, caller: str, called: str, ids: Sequence[str], keep: float) -> None:
        self._check()
        await self._store.accepted(caller, called, ids, keep)
        self.told.append((called, list(ids)))

    async def completed(self, caller: str, ident: str, called: str, result: bytes, status: int) -> None:
        self._check()
        await self._store.completed(caller, ident, called, result, status)

    async def request(self, caller: str, ident: str) -> RequestRecord | None:
        self._check()
        return await self._store.request(caller, ident)

    async def start(self, called: str, ids: Sequence[str]) -> list[bool]:
        self._check()
        return await self._store.start(called, ids)

    async def cancel(self, called: str, ident: str) -> bool:
        self._check()
        return await self._store.cancel(called, ident)

    def _check(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreAway("away, says the test")
