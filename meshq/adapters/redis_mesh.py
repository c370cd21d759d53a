"""The mesh as a whole: the revision of the picture, its epoch, the log of changes, and when leases are to be looked at.

A change is steps, because in a cluster a service and the mesh as a whole are on different servers: the service's script, which marks
it as unsaid; `note`; and said.lua, which takes the mark away. What was broken off before `note` is still owed here, and noted before
anything else is asked; and whoever finds the mark notes it again, so that no answer that got lost, and no process that ended, leaves
others with an old picture. (A registration has no mark: it is repeated until it is answered.)
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from meshq.adapters.redis_calls import Calls
from meshq.adapters.redis_client import Command
from meshq.adapters.redis_keys import Keys, mesh_script

TURN_MS = 1000
"""Who looks at the leases has so long; then it is the turn of the next who asks."""
MOST_NAMED = 20
"""Instances of a service that a change names; of one of more, the whole service is read again."""
NO_PICTURE = ""
NOT_ASKED = "-"


class Seen(NamedTuple):
    """The mesh at one moment."""

    change: str
    """The id of the last change, `<revision>-<random>`."""
    epoch: str
    holding: bool
    now_ms: int
    due_ms: int | None
    """Milliseconds until leases are to be looked at; 0: now, by who asked; None: there are none."""
    whole: bool
    """Whether `what` are all services there are, and not only what changed."""
    what: tuple[str, ...]
    """`<service>`; of what changed also `<service>/<id>`, and `<service>/` where no instance did."""

    @property
    def revision(self) -> int:
        return revision_of(self.change)


def named(service: str, instances: Sequence[str]) -> list[str]:
    """How the log names these instances of a service; "" is all of it."""
    return (
        [service] if len(instances) > MOST_NAMED or "" in instances else [word(service, ident) for ident in instances]
    )


def word(service: str, instance: str) -> str:
    return service if any(character.isspace() for character in instance) else f"{service}/{instance}"


def revision_of(change: str) -> int:
    return int(change.partition("-")[0])


class MeshSlot:
    def __init__(self, calls: Calls, keys: Keys) -> None:
        self._calls = calls
        self._keys = keys
        self._owed: dict[str, int | None] = {}
        """What changed, as in the log, and was not noted yet -> when that changes next by itself."""

    async def look(self, service: str = "", since: str = NOT_ASKED) -> Seen:
        """`service` is one that has just renewed, "" for none. `since` asks for what changed since that id."""
        if self._owed:
            await self.note("again")
        now, change, epoch, holding, left, whole, what = await self._run("look", TURN_MS, service, since)
        return Seen(
            change.decode(),
            epoch.decode(),
            bool(holding),
            now,
            None if left < 0 else left,
            bool(whole),
            tuple(name.decode() for name in what),
        )

    async def glance(self, seen: Seen) -> Seen:
        """As `seen`, with what is now the last change and the epoch: the least that can be asked."""
        if self._owed:
            await self.note("again")
        state = self._keys.mesh[0]
        change, epoch = await self._calls.ask(Command(state, ("HMGET", state, "rev", "epoch")))
        return seen._replace(change=(change or b"0-0").decode(), epoch=(epoch or b"").decode())

    async def note(self, op: str, what: str = "", due_ms: int = -1, *, forgotten: str = "") -> int:
        """`what` changed: see `named`. `due_ms`: when it changes next by itself, -1 for never. `forgotten` is a service that is known
        no more. Returns the revision."""
        if what:
            self._owe(what, due_ms)
        owed = dict(self._owed)
        dues = [due for due in owed.values() if due is not None]
        change = await self._run("note", op, " ".join(owed), min(dues, default=-1), forgotten)
        self._paid(owed)
        return revision_of(change.decode())

    async def swept(self, changed: Sequence[str], due_ms: int, holding: bool) -> None:
        for what in changed:
            self._owe(what, -1)
        owed = dict(self._owed)
        await self._run("swept", " ".join(owed), due_ms, int(holding))
        self._paid(owed)

    async def allow(self, wanted: int, most: int) -> int:
        """How many of `wanted` may be given up now, if `most` may be within a second."""
        allowed: int = await self._calls.run(mesh_script("allow"), self._keys.mesh, (wanted, most))
        return allowed

    def _owe(self, what: str, due_ms: int) -> None:
        before = self._owed.get(what)
        due = None if due_ms < 0 else due_ms
        self._owed[what] = due if before is None else before if due is None else min(before, due)

    def _paid(self, owed: dict[str, int | None]) -> None:
        for what, due in owed.items():
            if what in self._owed and self._owed[what] == due:
                del self._owed[what]

    async def _run(self, name: str, *args: object) -> Any:
        epoch = f"{random.getrandbits(64):016x}"  # for data that have none yet
        return await self._calls.run(mesh_script(name), self._keys.mesh, (epoch, random.getrandbits(31), *args))
