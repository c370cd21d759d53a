"""What makes thousands of the registry's adapters affordable in one process: the adapter itself is not changed, and Redis gets the same
commands and gives the same replies, but

- a connection is a few lines here and not the library's, which costs a few times as much CPU;
- what several readers read of a service is decoded once for all of a process, because real sidecars decode on machines of
  their own.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

from redis.exceptions import NoScriptError, ResponseError

from meshq.adapters import redis_pictures
from meshq.adapters.redis import RedisRegistry
from meshq.adapters.redis_client import Command
from meshq.adapters.redis_mesh import Seen
from meshq.adapters.redis_parts import Part, Parts
from meshq.core.instances import Snapshot

DECODED_FOR = 30.0
"""Seconds for which what was decoded is used for every reader. Loads and renewals are as old as that; what a picture is measured by,
its revision, is not decoded here."""
REMEMBERED = 10_000


# --- a connection -----------------------------------------------------------------------------------------------------------


class Incomplete(Exception):
    """The rest is still on its way."""


def read_reply(data: bytes, at: int) -> tuple[Any, int]:
    """The reply (RESP 2) at this place, and where the next one begins. An error is returned as its exception. Raises Incomplete."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise Incomplete
    kind, rest, after = data[at], data[at + 1 : end], end + 2
    if kind == ord("$"):
        length = int(rest)
        if length < 0:
            return None, after
        if len(data) < after + length + 2:
            raise Incomplete
        return data[after : after + length], after + length + 2
    if kind == ord(":"):
        return int(rest), after
    if kind == ord("*"):
        if int(rest) < 0:
            return None, after
        items = []
        for _ in range(int(rest)):
            item, after = read_reply(data, after)
            items.append(item)
        return items, after
    if kind == ord("-"):
        return (NoScriptError if rest.startswith(b"NOSCRIPT") else ResponseError)(rest.decode()), after
    return rest, after


def encode(words: Sequence[Any]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(
        [
            _text(word) if isinstance(word, str) else _bulk(word if isinstance(word, bytes) else str(word).encode())
            for word in words
        ]
    )


@lru_cache(maxsize=50_000)
def _text(word: str) -> bytes:
    """Keys, digests and names come again and again."""
    return _bulk(word.encode())


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)


class Connection(asyncio.Protocol):
    """Everything is sent at once and answered in turn."""

    def __init__(self) -> None:
        self.open = True
        self._received = b""
        self._waiting: deque[tuple[int, list[Any], asyncio.Future[list[Any]]]] = deque()
        """How many answers, those that came, and who waits for them."""

    @property
    def idle(self) -> bool:
        return not self._waiting

    def ask(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((len(commands), [], answered))
        self._transport.write(b"".join(encode(command.words) for command in commands))
        return answered

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        at = 0
        try:
            while self._waiting:
                count, answers, answered = self._waiting[0]
                while len(answers) < count:
                    answer, at = read_reply(self._received, at)
                    answers.append(answer)
                self._waiting.popleft()
                if not answered.done():
                    answered.set_result(answers)
        except Incomplete:
            pass
        self._received = self._received[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        waiting, self._waiting = self._waiting, deque()
        for _, _, answered in waiting:
            if not answered.done():
                answered.set_exception(ConnectionError("closed"))


class LightLink:
    """`redis_client.Link`: one connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        async with self._opening:
            if self._connection is None or not self._connection.open:
                _, self._connection = await asyncio.get_running_loop().create_connection(Connection, *self._address)
        return await self._connection.ask(commands)

    async def check(self) -> None:
        await self.ask([Command("", ("PING",))])

    async def rest(self) -> None:
        connection = self._connection
        if connection is not None and connection.idle:
            self._connection = None
            connection.close()

    async def close(self) -> None:
        await self.rest()


# --- a decoder in common ----------------------------------------------------------------------------------------------------


class SharedParts(Parts):
    """Decodes for every reader of this process what it decodes for one."""

    def __init__(self) -> None:
        super().__init__()
        self._decoded: dict[tuple[str, int, tuple[str, ...]], tuple[float, Part | None, Part]] = {}
        """Service, what was known of it before, the instances that were read -> when, what was known, what it is."""

    def read(self, name: str, packed: bytes, old: Part | None = None, only: Sequence[str] = ()) -> Part:
        now, mark = time.monotonic(), (name, id(old), tuple(only))
        known = self._decoded.get(mark)
        if known is not None and now < known[0] + DECODED_FOR:
            return known[2]
        if len(self._decoded) >= REMEMBERED:
            self._decoded.clear()
        part = super().read(name, packed, old, only)
        self._decoded[mark] = now, old, part
        return part


def shared_join(join: Callable[..., Snapshot]) -> Callable[..., Snapshot]:
    """Puts a picture together once for all of a process."""
    last: dict[str, Snapshot] = {}

    def joined(seen: Seen, parts: Mapping[str, Part]) -> Snapshot:
        if seen.change not in last:
            last.clear()
            last[seen.change] = join(seen, parts)
        return last[seen.change]

    return joined


class Sharing:
    """Of the registries of one process. `light`: over connections of this file."""

    def __init__(self, url: str, mesh: str, light: bool) -> None:
        self._url = url
        self._mesh = mesh
        self._light = light
        self._parts = SharedParts()
        redis_pictures._joined = shared_join(redis_pictures._joined)
        self._first = self.registry()

    def registry(self) -> RedisRegistry:
        registry = RedisRegistry(self._url, self._mesh)
        if self._light:
            registry._calls.link, registry._waiting.link = LightLink(self._url), LightLink(self._url)
        registry._pictures._reader = self._parts
        return registry

    async def take_picture(self) -> None:
        """One for all of them, so that not each needs its first one now."""
        self._picture: Snapshot = await self._first.snapshot()

    def give_picture(self, registry: RedisRegistry) -> int:
        """As if it had taken one some time ago, all at different times. Returns the revision."""
        ours, theirs = self._first._pictures, registry._pictures
        theirs._seen, theirs._parts, theirs.instances = ours._seen, ours._parts, ours.instances
        lasts = ours.instances * ours.instances / redis_pictures.READINGS
        theirs._whole_at = asyncio.get_running_loop().time() - random.uniform(0, lasts)
        return self._picture.revision

    async def close(self) -> None:
        await self._first.close()
