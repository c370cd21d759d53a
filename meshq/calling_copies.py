"""Copies of waited calls for a route policy's `mirror`: sent after the call itself, and nobody hears of them again.

A copy has an id of its own, bears `mirrored`, asks for no reply and expires with its call. What stands in its way it is dropped
for, and counted: it never makes its call wait or fail.
"""

import asyncio
from collections.abc import Callable

from meshq.core.errors import Problem
from meshq.core.message import Request, encode_request
from meshq.core.mirroring import copy_of
from meshq.core.places import Place, call_place
from meshq.ports import Broker, Metrics, Publication


class Copying:
    """`objection`: service and place -> what nothing may go there for."""

    def __init__(
        self,
        broker: Broker,
        metrics: Metrics,
        objection: Callable[[str, Place], Problem | None],
        fresh: Callable[[int], bytes],
    ) -> None:
        self._broker = broker
        self._metrics = metrics
        self._objection = objection
        self._fresh = fresh

    def copy(self, topic: str, service: str, request: Request, left_ms: int, priority: int | None) -> None:
        """Send a copy of `request` to `topic` once this turn of the event loop has sent its calls."""
        asyncio.get_running_loop().call_soon(self._copy, topic, service, request, left_ms, priority)

    def _copy(self, topic: str, service: str, request: Request, left_ms: int, priority: int | None) -> None:
        place = call_place(topic, request.key)
        sent = self._objection(service, place) is None and self._send(place, request, left_ms, priority)
        self._metrics.count("mirrored" if sent else "mirror_dropped")

    def _send(self, place: Place, request: Request, left_ms: int, priority: int | None) -> bool:
        copy = copy_of(request, self._fresh(16).hex())
        return self._broker.send(
            Publication(place.exchange, place.key, encode_request(copy), copy.id, "call", "", max(1, left_ms), priority)
        )
