"""Registration of containers that have no sidecar: they say where they are, and renew by saying it again.

Such an instance serves no queues (its majors are none), so it never counts as a receiver of calls: it is there for those who look
it up, here and by DNS. Nothing is kept here between two requests: the registry's picture says what is registered and under which
generation, so that any replica of the control API may get the next one.
"""

from dataclasses import replace
from typing import NamedTuple

from meshq.control.pictures import Pictures, asking
from meshq.control.refusals import InTheWay, NotThere
from meshq.core.errors import Code, refuse
from meshq.core.instances import TTL_MS, Instance, Snapshot, State, visible_state
from meshq.ports import Fenced

MAX_INSTANCES = 5000
"""Of one service. A token that got out can do no more harm than this."""


class Registered(NamedTuple):
    instance: Instance
    """As readers see it."""
    now_ms: int
    created: bool
    """It was not there before."""


class Registration:
    """Every method may raise InTheWay, Refused, Unreachable."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    async def put(self, wanted: Instance) -> Registered:
        """Register or renew `wanted`, whose state is what it says of itself."""
        picture = await self._pictures.current()
        known = _find(picture, wanted.service, wanted.id)
        if known is not None and known.state is not State.DOWN:
            _check_no_sidecar(known)
            if _is_same(known, wanted) and (renewed := await self._renew(known, wanted)) is not None:
                return renewed
        elif known is None:
            _check_room(picture, wanted.service)
        with asking():
            await self._pictures.registry.register(wanted)
        found = _find(await self._pictures.now(), wanted.service, wanted.id) or wanted
        return Registered(found, found.last_seen_ms, created=known is None or known.state is State.DOWN)

    async def remove(self, service: str, ident: str) -> None:
        """Raises NotThere."""
        for picture in (await self._pictures.current(), await self._pictures.now()):
            known = _find(picture, service, ident)
            if known is None:
                break
            _check_no_sidecar(known)
            try:
                with asking():
                    await self._pictures.registry.deregister(service, ident, known.generation)
            except Fenced:  # it was registered again after the picture was taken
                continue
            return
        raise NotThere(f"{service} has no instance {ident[:80]!r}")

    async def _renew(self, known: Instance, wanted: Instance) -> Registered | None:
        """None: it has to be registered again, because the registry lost it or another request was faster."""
        registry, generation = self._pictures.registry, known.generation
        try:
            with asking():
                renewal = await registry.renew(wanted.service, wanted.id, generation, wanted.load)
                if renewal is None:
                    return None
                if dict(known.metadata) != dict(wanted.metadata):
                    await registry.describe(wanted.service, wanted.id, generation, wanted.metadata)
                # Only who says it is ready is seen as a suspect. What a paused one said of itself the picture does not tell.
                told = State.READY if known.state is State.SUSPECT else known.state
                if told is not wanted.state or told is State.PAUSED:
                    await registry.set_state(wanted.service, wanted.id, generation, wanted.state)
        except Fenced:
            return None
        now_ms = renewal.now_ms
        state = visible_state(wanted.state, known.pause, known.orders, now_ms, expired=False, evicted=False)
        return Registered(replace(wanted, state=state, pause=known.pause, orders=known.orders), now_ms, created=False)


def _find(picture: Snapshot, service: str, ident: str) -> Instance | None:
    there = picture.services.get(service)
    return None if there is None else next((i for i in there.instances if i.id == ident), None)


def _is_same(known: Instance, wanted: Instance) -> bool:
    """Whether nothing has changed but what a renewal can tell."""
    return (
        known.version == wanted.version
        and dict(known.endpoints) == dict(wanted.endpoints)
        and (known.ttl_ms or TTL_MS) == wanted.ttl_ms
    )


def _check_no_sidecar(known: Instance) -> None:
    if known.majors:
        raise InTheWay(
            f"{known.service}/{known.id} has a sidecar, which registers it: give this container another id, such as its host name"
        )


def _check_room(picture: Snapshot, service: str) -> None:
    there = picture.services.get(service)
    if there is not None and len(there.instances) >= MAX_INSTANCES:
        raise refuse(
            Code.OVERLOADED, f"{service} has {len(there.instances):,} instances already, and more are not taken"
        )
