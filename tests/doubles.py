"""Plain implementations of ports, for tests that look at what is behind them."""

import asyncio
from collections import Counter
from collections.abc import Callable

from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse

SECONDS = 10
"""The longest wait for something that must happen; it takes milliseconds."""


class Counted:
    """`ports.Metrics` that can be asked."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.answered: Counter[tuple[str, str]] = Counter()
        self.done: Counter[tuple[str, str]] = Counter()

    def count(self, event: str) -> None:
        self.events[event] += 1

    def call_answered(self, service: str, route: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.answered[service, code] += 1

    def handled(self, topic: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.done[topic, code] += 1


class Asked:
    """One request at the app, to be answered by the test."""

    def __init__(self, request: HttpRequest, timeout: float, done: Callable[[HttpResponse | Failed], None]) -> None:
        self.request = request
        self.timeout = timeout
        self._done: Callable[[HttpResponse | Failed], None] | None = done

    def answer(self, outcome: HttpResponse | Failed) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(outcome)

    def ok(self, body: bytes = b"done", status: int = 200) -> None:
        self.answer(HttpResponse(status, [(b"Content-Type", b"text/plain")], body))

    def fail(self, failure: Failure, detail: str = "the test says so") -> None:
        self.answer(Failed(failure, detail))

    @property
    def headers(self) -> dict[str, str]:
        """Of repeated ones the last."""
        return {name.decode(): value.decode() for name, value in self.request.headers}


class App:
    """`ports.HttpClient`: an app whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def request(
        self, request: HttpRequest, timeout: float, done: Callable[[HttpResponse | Failed], None]
    ) -> Callable[[], None]:
        asked = Asked(request, timeout, done)
        self.asked.append(asked)
        return lambda: asked.fail(Failure.CANCELLED)

    async def close(self) -> None: ...


async def turn() -> None:
    """Let the event loop turn once."""
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until it holds. For what happens in the next few turns; raises TimeoutError."""
    async with asyncio.timeout(SECONDS):
        while not holds():
            await turn()


async def settle() -> None:
    """Let everything happen that is due now: the embedded broker takes a few turns of the loop for it."""
    for _ in range(30):
        await turn()
