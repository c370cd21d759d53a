"""What goes wrong at an app, by order of the test: in front of its handlers, behind everything of the mesh."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from meshq.core.http import HttpRequest, HttpResponse, header
from meshq.sdk.service import EVENTS_PATH
from meshq.testing.recording import is_event, is_request, split_topic

Respond = Callable[[HttpRequest], Awaitable[HttpResponse]]


@dataclass(slots=True)
class Fault:
    """`operation`: a method and a path, or an event; None: any. `times`: how many requests it still hits; None: all. After `seconds` of
    the mesh's clock the app breaks off, or gives this answer; None: its handler's."""

    operation: str | None
    times: int | None
    answer: HttpResponse | None = None
    seconds: float = 0.0
    breaks: bool = False

    def hits(self, request: HttpRequest) -> bool:
        if self.times == 0:
            return False
        if self.operation is None:
            return True
        if "/" in self.operation:
            return is_request(request.method.decode("latin-1"), request.target.decode("latin-1"), self.operation)
        topic = (header(request.headers, b"meshq-topic") or b"").decode("latin-1")
        return request.target.startswith(EVENTS_PATH.encode()) and is_event(*split_topic(topic), self.operation)


@dataclass(slots=True)
class Faults:
    """Of one service, in the order in which they were given; one request meets the first that is for it."""

    given: list[Fault] = field(default_factory=list)

    async def meet(self, request: HttpRequest, respond: Respond, break_off: Callable[[], None]) -> HttpResponse:
        """What the app answers. `break_off` ends its connection, so that this is cancelled."""
        fault = next((each for each in self.given if each.hits(request)), None)
        if fault is None:
            return await respond(request)
        if fault.times is not None:
            fault.times -= 1
        await asyncio.sleep(fault.seconds)
        if fault.breaks:
            break_off()
            await asyncio.Event().wait()
        return await respond(request) if fault.answer is None else fault.answer
