"""A Redis Cluster: which server has a key, learnt from the servers themselves and again whenever one says that it moved."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from meshq.adapters.redis_asking import ask_all
from meshq.adapters.redis_client import Command, ServerLink, Tls, server_pool
from meshq.adapters.redis_faults import LOST
from meshq.adapters.redis_url import Address, RedisUrl

SLOTS = 16384
MOST_MOVES = 5
"""How often a command is sent on. Slots move one at a time, and rarely."""
CONNECT_SHARE = 0.5
"""Of the time to connect, for each server: one whose host is gone is found out before the call is over."""
MOVE_SECONDS = 0.05
"""For a slot to move. Meanwhile a script on several keys, not all of which exist, is told to try again."""


class ClusterLink:
    """A `redis_client.Link` over all servers of a cluster."""

    def __init__(self, url: RedisUrl, seconds: float, tls: Tls | None, single: bool) -> None:
        self._url = url
        self._seconds = seconds
        self._tls = tls
        self._single = single
        self._servers: dict[Address, ServerLink] = {}
        self._slots: list[Address | None] = []
        """Who has each; [] while that is to be asked."""
        self._asking = asyncio.Lock()

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return await self._ask(commands)
        except BaseException:  # also a cancellation: a server that is silent was waited for, and may have been replaced
            self._slots = []
            raise

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        slots = await self._learn()
        answers: list[Any] = [None] * len(commands)
        places = [self._place(slots, command) for command in commands]
        todo = list(range(len(commands)))
        for _ in range(MOST_MOVES):
            await self._ask_each(commands, places, todo, answers)
            todo = [n for n in todo if isinstance(answers[n], AskError | TryAgainError)]  # MovedError is an AskError
            if not todo:
                break
            if any(isinstance(answers[n], TryAgainError) for n in todo):
                await asyncio.sleep(MOVE_SECONDS)
            for n in todo:
                places[n] = self._moved(answers[n], places[n])
        return answers

    async def check(self) -> None:
        self._slots = []
        masters = {address for address in await self._learn() if address is not None}
        for said in await asyncio.gather(*(self._server(m).check() for m in masters), return_exceptions=True):
            if said is not None:
                raise said

    async def rest(self) -> None:
        for server in self._servers.values():
            await server.rest()

    async def close(self) -> None:
        for server in self._servers.values():
            await server.close()

    # --- who has what -------------------------------------------------------------------------------------------------------

    async def _learn(self) -> list[Address | None]:
        async with self._asking:
            if not self._slots:
                known = dict.fromkeys((*self._url.hosts, *self._servers))
                self._slots = (await ask_all([partial(self._map, address) for address in known], 0))[0]
                for address in self._servers.keys() - {*self._url.hosts, *self._slots}:
                    await self._servers.pop(address).close()
            return self._slots

    async def _map(self, address: Address) -> list[Address | None]:
        (ranges,) = await self._server(address).ask([Command("", ("CLUSTER", "SLOTS"))])
        if isinstance(ranges, Exception):
            raise ranges
        slots: list[Address | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            named = host.decode() if host else ""
            has = (named if named not in ("", "?") else address[0], int(port))
            slots[first : last + 1] = [has] * (last + 1 - first)
        return slots

    def _place(self, slots: list[Address | None], command: Command) -> tuple[Address, bool]:
        address = slots[key_slot(command.key.encode())]
        if address is None:
            raise ClusterDownError("no server has some of the keys")
        return address, False

    def _moved(self, error: AskError | TryAgainError, place: tuple[Address, bool]) -> tuple[Address, bool]:
        """Where it goes now, and whether only this once: while a slot moves, its keys are asked for at both."""
        if isinstance(error, TryAgainError):
            return place
        address = error.host, error.port
        if isinstance(error, MovedError) and self._slots:
            self._slots[error.slot_id] = address
        return address, not isinstance(error, MovedError)

    # --- the servers --------------------------------------------------------------------------------------------------------

    def _server(self, address: Address) -> ServerLink:
        if address not in self._servers:
            seconds = CONNECT_SHARE * self._seconds
            pool = server_pool(address, self._url.user, self._url.password, 0, seconds, self._tls)
            self._servers[address] = ServerLink(pool, self._single)
        return self._servers[address]

    async def _ask_each(
        self, commands: Sequence[Command], places: list[tuple[Address, bool]], todo: list[int], answers: list[Any]
    ) -> None:
        shares: dict[Address, list[int]] = {}
        for n in todo:
            shares.setdefault(places[n][0], []).append(n)
        told = await asyncio.gather(
            *(self._ask_one(address, commands, places, share) for address, share in shares.items()),
            return_exceptions=True,
        )
        for share, said in zip(shares.values(), told, strict=True):
            if isinstance(said, BaseException):
                raise said
            for n, answer in zip(share, said, strict=True):
                if isinstance(answer, LOST):
                    raise answer
                answers[n] = answer

    async def _ask_one(
        self, address: Address, commands: Sequence[Command], places: list[tuple[Address, bool]], share: list[int]
    ) -> list[Any]:
        asking = Command("", ("ASKING",))
        sent = [command for n in share for command in ((asking, commands[n]) if places[n][1] else (commands[n],))]
        answers = await self._server(address).ask(sent)
        return [answer for command, answer in zip(sent, answers, strict=True) if command is not asking]
