"""What instances reported for scaling, read from Redis (redis_scripts/service/common.lua has the layout)."""

import logging
from collections.abc import Iterator

import msgpack

from meshq.adapters.redis_calls import Calls
from meshq.adapters.redis_client import Command
from meshq.adapters.redis_evaluate import Run
from meshq.adapters.redis_keys import Keys, service_script
from meshq.core.reports import Report, Reported, decode_report, encode_report

log = logging.getLogger(__name__)

MAX_REMEMBERED = 1000
"""Instances whose reports cannot be read, remembered so that each is logged once."""


def packed(report: Report | None) -> bytes:
    """As renew.lua takes it."""
    return b"" if report is None else encode_report(report)


class Reports:
    def __init__(self, calls: Calls, keys: Keys) -> None:
        self._calls = calls
        self._keys = keys
        self._broken: set[tuple[str, str]] = set()

    async def read(self) -> list[Reported]:
        key = self._keys.services
        services = sorted(name.decode() for name in await self._calls.ask(Command(key, ("SMEMBERS", key))))
        script = service_script("reports")
        answers = await self._calls.run_each([Run(script, self._keys.service(name), ()) for name in services])
        found = zip(services, answers, strict=True)
        return [each for name, answer in found if answer is not None for each in self._of_service(name, answer)]

    def _of_service(self, service: str, answer: bytes) -> Iterator[Reported]:
        flat = msgpack.unpackb(answer, raw=True)
        for ident, text in zip(flat[::2], flat[1::2], strict=True):
            instance = ident.decode(errors="replace")
            at, _, content = text.partition(b" ")
            try:
                yield Reported(service, instance, int(at), decode_report(content))
            except ValueError as error:
                self._note_broken(service, instance, error)

    def _note_broken(self, service: str, instance: str, error: ValueError) -> None:
        """A later version of meshq may have written it."""
        mark = (service, instance)
        if mark not in self._broken and len(self._broken) < MAX_REMEMBERED:
            self._broken.add(mark)
            log.warning("the report of %s %s in Redis cannot be read and is left out: %s", service, instance, error)
