"""What `Mesh.send` gives: a durable call that goes on by itself, and what became of it."""

import asyncio
from typing import TYPE_CHECKING, Any

from meshq.core.errors import Code
from meshq.core.http import HttpResponse, header
from meshq.sdk.problem import APP_ERROR, Problem, of_response
from meshq.sdk.reply import as_answer

if TYPE_CHECKING:
    from meshq.sdk.mesh import Mesh

FIRST_LOOK, LONGEST_LOOK = 0.02, 1.0
"""Seconds between two looks; each pause half as long again as the last."""
REQUEST_STATUS = b"meshq-request-status"
"""`pending`, `done` or `failed`; not there where the sidecar knows of no such request."""


class Ticket:
    """A durable call, by its id. Made by `Mesh.send` and `Mesh.ticket`.

    Example::

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
        return not _is_pending(await self._look())

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
        return as_answer(response, self._returns if returns is None else returns, "the result")

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
            try:
                response = await self._look()
                if not _is_pending(response):
                    return response
            except Problem as problem:
                if not _passes(problem):
                    raise
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LONGEST_LOOK)

    async def _look(self) -> HttpResponse:
        response = await self._mesh.look(f"/v1/requests/{self.id}")
        if header(response.headers, REQUEST_STATUS) is None and (problem := of_response(response)) is not None:
            raise problem
        return response


def _is_pending(response: HttpResponse) -> bool:
    return header(response.headers, REQUEST_STATUS) == b"pending"


def _passes(problem: Problem) -> bool:
    """The sidecar was restarted just then, or what it asks is away; one that stays away is not waited for for ever."""
    return problem.by_mesh and (problem.code == Code.BAD_GATEWAY.value or problem.retry_after is not None)


def _failure(response: HttpResponse) -> Problem | None:
    problem = of_response(response)
    if problem is None and header(response.headers, REQUEST_STATUS) == b"failed":
        return Problem(APP_ERROR, "it is a dead letter", status=response.status, retryable=False)
    return problem
