"""`/v1/self` on port 3600: what this instance is, its description, and its own pause (INTERFACE part 6)."""

from collections.abc import Callable, Mapping
from typing import Any

from meshq.core import views
from meshq.core.answers import as_json
from meshq.core.errors import Code, refuse
from meshq.core.headers import Carried
from meshq.core.self_requests import parse_patch, parse_pause, patched
from meshq.ports import Exchange
from meshq_sidecar.pausing import Pauses


class SelfApi:
    """Whoever hands a change over has checked that its sender may make it. `shown` gives the body of `/v1/self`; `metadata` what it
    says of itself now, and `describe` what from now on; `limit` sets its capacity, None to the settings' own, and raises ValueError.
    """

    def __init__(
        self,
        shown: Callable[[], dict[str, Any]],
        pauses: Pauses,
        metadata: Callable[[], Mapping[str, str]],
        describe: Callable[[Mapping[str, str]], None],
        limit: Callable[[int | None], None],
        instance: str,
    ) -> None:
        self._shown = shown
        self._pauses = pauses
        self._metadata = metadata
        self._describe = describe
        self._limit = limit
        self._instance = instance

    def handle(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """GET and PATCH. Raises Refused."""
        if exchange.request.method == b"PATCH":
            try:
                self._patch(exchange.request.body)
            except ValueError as error:
                raise refuse(Code.BAD_REQUEST, str(error)) from error
        exchange.respond(as_json(self._shown()))

    def handle_pause(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """POST. Raises Refused."""
        try:
            wanted = parse_pause(exchange.request.body)
        except ValueError as error:
            raise refuse(Code.BAD_REQUEST, str(error)) from error
        self._pauses.pause(wanted.reason, wanted.for_ms)
        exchange.respond(as_json(self._shown()))

    def handle_resume(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """POST. Raises Refused where an operator's pause goes on."""
        self._pauses.resume()
        ordered = self._pauses.ordered
        if ordered is not None:
            order = views.pause(self._pauses.as_pause(ordered))
            because = f" ({order['reason']})" if order["reason"] else ""
            until = f"until {order['until']}" if order["until"] else "until an operator resumes it"
            raise refuse(
                Code.DENIED,
                f"an operator paused this instance{because}, {until}; its app cannot lift that, "
                f"`meshq resume {self._instance}` does",
            )
        exchange.respond(as_json(self._shown()))

    def _patch(self, body: bytes | None) -> None:
        """All of it or nothing. Raises ValueError."""
        wanted = parse_patch(body)
        metadata = patched(self._metadata(), wanted.metadata)
        if wanted.sets_capacity:
            self._limit(wanted.capacity)
        self._describe(metadata)
