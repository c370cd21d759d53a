"""What an operator wants of an instance: paused, resumed, drained. It obeys when it renews next, and cannot lift it itself."""

from meshq.control.pictures import Pictures, asking
from meshq.control.refusals import NotThere
from meshq.core.errors import Code, refuse
from meshq.core.instances import Instance, Snapshot

SHOWN = 10


class Orders:
    """An instance is named by its id, and by its service where several services have that id. Every method returns what is known
    of it afterwards, and may raise NotThere, Refused, Unreachable."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    async def find(self, ident: str, service: str | None) -> Instance:
        return _one(await self._pictures.now(), ident, service)

    async def pause(self, ident: str, service: str | None, reason: str, for_ms: int | None) -> Instance:
        """`for_ms` None: until it is resumed."""
        found = await self.find(ident, service)
        with asking():
            there = await self._pictures.registry.pause(found.service, found.id, reason, for_ms, None)
        return await self._after(there, found)

    async def resume(self, ident: str, service: str | None) -> Instance:
        """Ends an operator's pause; the instance's own stays."""
        found = await self.find(ident, service)
        with asking():
            there = await self._pictures.registry.resume(found.service, found.id, None)
        return await self._after(there, found)

    async def drain(self, ident: str, service: str | None) -> Instance:
        """Does not end but with the instance's process."""
        found = await self.find(ident, service)
        with asking():
            there = await self._pictures.registry.order_drain(found.service, found.id)
        return await self._after(there, found)

    async def _after(self, there: bool, found: Instance) -> Instance:
        if not there:
            raise NotThere(f"{found.service}/{found.id} is gone")
        return _one(await self._pictures.now(), found.id, found.service)


def _one(picture: Snapshot, ident: str, service: str | None) -> Instance:
    named = [i for each in picture.services.values() for i in each.instances if i.id == ident]
    found = [i for i in named if service in (None, i.service)]
    if len(found) > 1:
        services = ", ".join(sorted(i.service for i in found))
        raise refuse(
            Code.BAD_REQUEST, f"{ident} is an instance of {services}: say which is meant, with ?service= (--service)"
        )
    if not found:
        of = f" of {service}" if service is not None else ""
        raise NotThere(f"there is no instance {ident[:80]!r}{of}; {_there(picture, service)}")
    return found[0]


def _there(picture: Snapshot, service: str | None) -> str:
    ids = sorted(i.id for s in picture.services.values() for i in s.instances if service in (None, i.service))
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"instances known: {', '.join(ids[:SHOWN]) or 'none'}{more}"
