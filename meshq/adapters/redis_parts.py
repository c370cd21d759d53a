"""One service of the picture, from what the scripts snapshot.lua and some.lua answer."""

import hashlib
import logging
from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

import msgpack

from meshq.adapters import redis_records as records
from meshq.core.instances import Service
from meshq.core.names import Version, parse_version
from meshq.core.policy import Policy

log = logging.getLogger(__name__)

MAX_REMEMBERED = 1000
"""Broken records remembered, so that each is logged once."""


class Part(NamedTuple):
    """What follows `policy` is of when all of the service was read last."""

    service: Service
    policy: Policy | None
    leases: int
    """Of those who were not given up."""
    expired: int
    unsaid: bool
    """Time has changed something that was not counted as a change yet."""
    late: bool
    """Somebody could be given up."""
    returned_ms: int
    """When last a lease was renewed that was over; 0: never."""


class Parts:
    def __init__(self) -> None:
        self._broken: set[tuple[str, str, bytes]] = set()

    def read(self, name: str, packed: bytes, old: Part | None = None, only: Sequence[str] = ()) -> Part:
        """The service as it is now. With `old`, the answer is of the instances `only`, and the others are as they were."""
        now, fields, leases, gone, about = msgpack.unpackb(packed, raw=True)
        known, deadlines = records.pairs(fields), records.pairs(leases)
        entries: list[records.Entry] = []
        for ident in (*deadlines, *gone[::2]):
            try:
                entries.append(records.read(name, ident, known, deadlines, now))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._note_broken(name, ident.decode(errors="replace"), known.get(ident, b""), error)
        what = records.pairs(about)
        policy, majors = self._about(name, what)
        instances = [entry.instance for entry in entries]
        if old is not None:
            read = set(only)
            instances += [instance for instance in old.service.instances if instance.id not in read]
        service = Service(name, MappingProxyType(majors), tuple(sorted(instances, key=lambda i: i.id)))
        if old is not None:
            return old._replace(service=service, policy=policy)
        return Part(
            service,
            policy,
            len(deadlines),
            sum(entry.expired for entry in entries),
            any(entry.unsaid for entry in entries),
            any(entry.late for entry in entries),
            int(returned) if (returned := what.get(b"returned", b"")).isdigit() else 0,
        )

    def _about(self, name: str, fields: dict[bytes, bytes]) -> tuple[Policy | None, dict[int, Version]]:
        policy: Policy | None = None
        majors: dict[int, Version] = {}
        for field, text in fields.items():
            try:
                if field == b"policy":
                    policy = records.read_policy(name, text)
                elif field.isdigit():
                    majors[int(field)] = parse_version(text.decode())
            except (ValueError, RecursionError) as error:
                what = "route policy" if field == b"policy" else f"major {field.decode()}"
                self._note_broken(name, what, text, error)
        return policy, dict(sorted(majors.items()))

    def _note_broken(self, service: str, what: str, content: bytes, error: Exception) -> None:
        """Say it once of each; a later version of meshq may have written it, so it is left out and left alone."""
        mark = (service, what, hashlib.sha256(content).digest())
        if mark not in self._broken and len(self._broken) < MAX_REMEMBERED:
            self._broken.add(mark)
            log.warning("the registry's record of %s %s cannot be read and is left out: %r", service, what, error)
