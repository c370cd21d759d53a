"""What `Mesh.send` gives: a durable call that goes on by itself, and what became of it."""

import asyncio
from typing import TYPE_CHECKING, Any

from meshq.core.http import HttpResponse, header
from meshq.sdk.bodies import Invalid, decode
from meshq.sdk.problem import APP_ERROR, Problem, of_response

if TYPE_CHECKING:
    from meshq.sdk.mesh import Mesh

FIRST_LOOK, LONGEST_LOOK = 0.02, 1.0
"""Seconds between two looks; each pause half as long again as the last."""
PENDING = 202
GONE_STATUS = b"meshq-request-status"


class Ticket:
    """A durable call, by its id. Made by `Mesh.send` and `Mesh.ticket`.

    Example:
        ticket = await mesh.send("orders", "POST /create", order, returns=Receipt)
        receipt = await ticket.result(timeout=60)
    """

    def __init__(self, id: str, mesh: "Mesh", returns: Any = Any) -> None:
        self.id = id
        """128 random bits, in hex. Only this service can ask for it."""
        self._mesh = mesh
        self._returns = returns

    def __repr__(self) -> str:
        return f"<Ticket {self.id}>"

    async def done(self) -> bool:
        """Whether there is a result, or a reason why there will be none. Raises Problem where the sidecar knows neither."""
        return (await self._look()).status != PENDING

    async def result(self, timeout: float | None = None, returns: Any = None) -> Any:
        """Wait for it.

        Args:
            timeout: seconds; None: for ever.
            returns: as of `Mesh.call`; default: what was said when it was sent.

        Returns:
            The answer's body. It can be asked for again, for an hour.

        Raises:
            Problem: it is dead (the app's answer, or the reason), or its result is not kept any more (status 410).
            TimeoutError: it is not there yet; the call goes on.
        """
        async with asyncio.timeout(timeout):
            response = await self._finished()
        if (problem := _failure(response)) is not None:
            raise problem
        content_type = (header(response.headers, b"content-type") or b"").decode("latin-1")
        body = response.body if response.body or content_type else None
        try:
            return decode(body, content_type, self._returns if returns is None else returns)
        except Invalid as invalid:
            raise Problem(
                invalid.problem.code, f"the result: {invalid.problem.detail}", status=502, retryable=False
            ) from None

    async def cancel(self) -> bool:
        """Whether it is cancelled: it had not started, and never will. Raises Problem where that cannot be said."""
        try:
            await self._mesh.ask("DELETE", f"/v1/requests/{self.id}")
        except Problem as problem:
            if problem.status == 409:
                return False
            raise
        return True

    async def _finished(self) -> HttpResponse:
        pause = FIRST_LOOK
        while True:
            response = await self._look()
            if response.status != PENDING:
                return response
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LONGEST_LOOK)

    async def _look(self) -> HttpResponse:
        response = await self._mesh.look(f"/v1/requests/{self.id}")
        if response.status == PENDING or header(response.headers, GONE_STATUS) is not None:
            return response
        problem = of_response(response)
        if problem is not None:
            raise problem
        return response


def _failure(response: HttpResponse) -> Problem | None:
    problem = of_response(response)
    if problem is None and header(response.headers, GONE_STATUS) == b"failed":
        return Problem(APP_ERROR, "it is a dead letter", status=response.status, retryable=False)
    return problem
