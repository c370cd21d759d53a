"""One durable call until its sender has an answer: the receipt (202), the answer itself where he waits a while, or why not."""

from collections.abc import Callable
from typing import Protocol

from meshq.core.callreq import Call
from meshq.core.deprecations import tell
from meshq.core.errors import Problem
from meshq.core.http import HttpResponse
from meshq.core.message import Fault, Request, Response
from meshq.core.outcomes import as_result
from meshq.core.routing import Route
from meshq.core.usage import Usage
from meshq.sending_handover import Fate

REQUESTS = "/v1/requests/"

Done = Callable[[HttpResponse], None]


class Answers(Protocol):
    """The way of waited calls (meshq.calling.Caller)."""

    usage: Usage

    def expect(
        self, message_id: str, service: str, seconds: float, told: Callable[[Response | Fault | None], None]
    ) -> Callable[[], None]: ...
    def denial(self, exchange: str, key: str) -> Problem | None: ...


class Owner(Protocol):
    """Who makes it (meshq.sending.Sender)."""

    def note_accepted(self, sending: "Sending") -> None: ...
    def no_queue(self, sending: "Sending") -> Problem: ...
    def count(self, call: Call, code: str, since: float) -> None: ...


class Sending:
    __slots__ = (
        "_accepted", "_done", "_forget", "_owner", "_since", "_wait", "call", "ident", "random", "request", "route",
    )  # fmt: skip

    def __init__(self, owner: Owner, call: Call, random: bytes, done: Done, since: float) -> None:
        self.call = call
        self.random = random
        self.ident = random.hex()
        """Its message id."""
        self.route: Route | None = None
        self.request: Request | None = None
        """As it was sent, until it is accepted."""
        self._owner = owner
        self._done: Done | None = done
        self._since = since
        self._wait = 0
        """Seconds in which the answer itself would do, while that is so."""
        self._forget: Callable[[], None] | None = None
        self._accepted = False

    def wait(self, answers: Answers, seconds: int) -> None:
        """Raises Full."""
        self._forget = answers.expect(self.ident, self.call.address.service, seconds, self._on_answer)
        self._wait = seconds

    def give_up(self) -> None:
        """Nobody is there any more to take an answer."""
        if self._done is not None:
            self._end("hung-up")

    def refuse(self, problem: Problem) -> None:
        self._answer(problem.as_response(), problem.code.value)

    def on_fate(self, fate: Fate | Problem) -> None:
        if isinstance(fate, Problem):
            self.refuse(fate)
            return
        if fate is Fate.UNROUTABLE:
            self.refuse(self._owner.no_queue(self))
            return
        self._owner.note_accepted(self)
        # What the spool has goes out later, and by then there may be nobody at `answer_to`.
        if fate is Fate.CONFIRMED and self._wait:
            self._accepted = True
        else:
            self._answer(self._receipt(), "202")

    def _on_answer(self, answer: Response | Fault | None) -> None:
        wait, self._wait = self._wait, 0
        if answer is not None:
            response = as_result(answer, self.call.method)
            response.headers.append((b"Preference-Applied", b"respond-async, wait=%d" % wait))
            self._answer(response, str(response.status))
        elif self._accepted:
            self._answer(self._receipt(), "202")

    def _receipt(self) -> HttpResponse:
        assert self.route is not None
        ident = self.ident.encode()
        headers = [
            (b"Content-Type", b"application/json"),
            (b"Location", REQUESTS.encode() + ident),
            (b"Preference-Applied", b"respond-async"),
        ]
        body = b'{"id": "%b", "status": "accepted", "topic": "%b"}\n' % (ident, self.route.topic.encode())
        return HttpResponse(202, headers, body)

    def _answer(self, response: HttpResponse, code: str) -> None:
        done = self._done
        if done is not None:
            self._end(code)
            if self.route is not None:
                tell(response.headers, self.route.told)
            response.headers.append((b"Meshq-Message-Id", self.ident.encode()))
            done(response)

    def _end(self, code: str) -> None:
        self._done = None
        if self._forget is not None:
            self._forget()
        self._owner.count(self.call, code, self._since)
