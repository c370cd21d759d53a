"""Taking a major version out of the mesh: only when nothing uses it any more, and otherwise saying what does.

The registry has the last word on instances, the broker on messages: between the look and the deed one may come, and then stays.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meshq.control.pictures import Pictures, asking
from meshq.control.retiring_reasons import (
    Reason,
    of_callers,
    of_instances,
    of_policy,
    of_queues,
    queues_of,
    waiting_in_delay,
)
from meshq.control.unreachable import Unreachable
from meshq.core import names, topology
from meshq.core.errors import Code, refuse
from meshq.core.instances import Service, Snapshot, State
from meshq.core.selectors import Address
from meshq.core.topology import Queue, Topology
from meshq.ports import Broker, Clock, QueueStats

QUIET_MS = 3_600_000
"""A caller that called within this time may call again."""
LOOKS, AGAIN_SECONDS = 10, 0.5
"""At queues of which nobody says whether they are gone; the management API may tell of a deleted one a little longer."""

LEFT = "was not deleted: a message has come, somebody consumes it, or this user may not delete it; retire it again"
UNKNOWN = "may not be deleted: the broker does not tell whether it is still there; retire it again"


class Version(NamedTuple):
    service: str
    major: int

    @property
    def topic(self) -> str:
        return names.topic(self.service, self.major)


@dataclass(frozen=True, slots=True)
class Outcome:
    version: Version
    retired: bool
    reasons: list[Reason]
    """Why not; of a version that was retired all the same, what was passed over."""
    queues: list[str]
    """That are deleted with it."""
    warning: str = ""


class Retiring:
    """`listed` gives every queue that the broker tells of, or None where it tells of none. Every method may raise Refused and
    Unreachable."""

    def __init__(
        self,
        pictures: Pictures,
        broker: Callable[[], Broker],
        listed: Callable[[], Awaitable[Sequence[QueueStats] | None]],
        clock: Clock,
    ) -> None:
        self._pictures = pictures
        self._broker = broker
        self._listed = listed
        self._clock = clock

    async def look(self, version: Version, quiet_ms: int = QUIET_MS) -> Outcome:
        """What would become of it."""
        picture = await self._pictures.now()
        if picture.stale:
            raise Unreachable(
                "the registry does not answer, and who uses a version is decided with nothing less: try again"
            )
        listed = await self._listed()
        if listed is None:
            raise Unreachable(
                f"which queues {version.topic} has only the broker's management API tells, and it does not: "
                "set MESHQ_MANAGEMENT_URL"
            )
        service = picture.services.get(version.service)
        figures = queues_of(version.topic, listed)
        if not figures and (service is None or version.major not in service.majors):
            raise _unknown(version, service)
        exact = await self._connected().stats([each.queue for each in figures])
        with asking():
            callers = await self._pictures.registry.callers(version.service)
        since = _now_ms(picture, self._clock) - quiet_ms
        reasons = [
            *of_instances(version.major, service),
            *of_callers(version.major, callers, since),
            *of_queues(figures, exact),
            *of_policy(version.major, picture.policies.get(version.service)),
        ]
        queues = [each.queue for each in figures] + _results_queue(version, service, listed)
        return Outcome(version, False, reasons, queues, waiting_in_delay(listed))

    async def retire(self, version: Version, quiet_ms: int = QUIET_MS, *, force: bool = False) -> Outcome:
        """`force` passes over the reasons that are `forcible`."""
        found = await self.look(version, quiet_ms)
        if any(not (force and reason.forcible) for reason in found.reasons):
            return found
        with asking():
            free = await self._pictures.registry.retire(version.service, version.major)
        if not free:
            late = Reason("instances", version.topic, "an instance of it has registered meanwhile")
            return Outcome(version, False, [*found.reasons, late], found.queues)
        left = await self._delete(found.queues)
        return Outcome(version, not left, [*found.reasons, *left], found.queues, found.warning)

    async def _delete(self, queues: list[str]) -> list[Reason]:
        """Returns what is left of them."""
        await self._connected().withdraw(Topology(queues=tuple(Queue(name, ()) for name in queues)))
        own = [name for name in queues if not name.endswith(".results")]
        there, unknown = await self._look_after(own)
        for _ in range(LOOKS - 1):
            if not unknown:
                break
            await asyncio.sleep(AGAIN_SECONDS)
            there, unknown = await self._look_after(own)
        return [Reason("messages", name, LEFT if name in there else UNKNOWN) for name in own if name in there | unknown]

    async def _look_after(self, queues: list[str]) -> tuple[set[str], set[str]]:
        """Those that are there, and those of which that is not known: the broker says nothing of a queue that is not there, or of
        which it does not tell in time; the list has it, or there is none."""
        listed = await self._listed()
        there = {each.queue for each in await self._connected().stats(queues)}
        names_listed = set(queues) if listed is None else {each.queue for each in listed}
        return there, {name for name in queues if name in names_listed and name not in there}

    def _connected(self) -> Broker:
        """One that can be asked for its queues."""
        broker = self._broker()
        if not broker.state.consuming:
            raise Unreachable(broker.state.fault or "the broker is being connected to: try again in a moment")
        return broker


def version_of(address: Address) -> Version:
    """Raises Refused."""
    if address.selector is None or address.selector.major is None:
        raise refuse(
            Code.BAD_ADDRESS, f"{address} is not one version: a major is retired as a whole, as in {address.service}@1"
        )
    return Version(address.service, address.selector.major)


def _now_ms(picture: Snapshot, clock: Clock) -> int:
    """By the registry's clock, in which callers are dated: whoever is ready was seen seconds ago. Ours may be wrong."""
    seen = [i.last_seen_ms for s in picture.services.values() for i in s.instances if i.state is State.READY]
    return max(seen, default=clock.mesh_ms())


def _results_queue(version: Version, service: Service | None, listed: Sequence[QueueStats]) -> list[str]:
    """Where the service's answers come in goes with its last version, if it is empty."""
    if service is not None and (set(service.majors) - {version.major} or _lives(service)):
        return []
    name = topology.results_queue(version.service)
    return [name] if any(each.queue == name for each in listed) else []


def _lives(service: Service) -> bool:
    return any(instance.state is not State.DOWN for instance in service.instances)


def _unknown(version: Version, service: Service | None) -> Exception:
    if service is None:
        return refuse(Code.UNKNOWN_SERVICE, f"{version.service!r} was never registered and has no queue")
    there = ", ".join(f"v{major}" for major in sorted(service.majors)) or "no version"
    return refuse(Code.NO_SUCH_VERSION, f"{version.service} has no v{version.major}; it has {there}")
