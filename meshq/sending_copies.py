"""Copies of durable calls for a route policy's `mirror`: sent once the call itself was accepted, and nobody hears of them again.

A copy has an id of its own, bears `mirrored`, and asks for neither result nor callback. It is given to the broker once: what the
broker does not take at once is dropped and counted, and never takes room in the spool.
"""

from collections.abc import Callable

from meshq.core.errors import Problem
from meshq.core.message import Request, encode_request
from meshq.core.mirroring import copy_of
from meshq.core.places import Place, work_place
from meshq.ports import Broker, Metrics, Publication, Published
from meshq.sending_keys import KeyQueues


class Copying:
    """`objection`: service and place -> what nothing may go there for."""

    def __init__(
        self,
        broker: Broker,
        metrics: Metrics,
        keys: KeyQueues,
        objection: Callable[[str, Place], Problem | None],
        fresh: Callable[[int], bytes],
    ) -> None:
        self._broker = broker
        self._metrics = metrics
        self._keys = keys
        self._objection = objection
        self._fresh = fresh

    def copy(self, topic: str, service: str, request: Request, delay: int, priority: int | None) -> None:
        """Send a copy of `request` to `topic`, after as many seconds as the call itself."""
        place = work_place(topic, request.key, delay)
        copy = copy_of(request, self._fresh(16).hex(), delay)
        if self._objection(service, place) is not None:
            self._told(Published.REFUSED)
        elif delay and request.key:
            self._keys.ask(topic, lambda takes: self._send_keyed(place, copy, priority, takes))
        else:
            self._send(place, copy, priority)

    def _send_keyed(self, place: Place, copy: Request, priority: int | None, takes_keys: bool) -> None:
        if takes_keys:
            self._send(place, copy, priority)
        else:
            self._told(Published.UNROUTABLE)

    def _send(self, place: Place, copy: Request, priority: int | None) -> None:
        made = Publication(place.exchange, place.key, encode_request(copy), copy.id, "call", priority=priority)
        self._broker.publish(made, self._told)

    def _told(self, outcome: Published) -> None:
        self._metrics.count("mirrored" if outcome is Published.CONFIRMED else "mirror_dropped")
