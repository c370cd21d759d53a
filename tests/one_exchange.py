"""One HTTP request that waits for its answer, without a connection: for what answers requests."""

from collections.abc import Callable

from meshq.core.headers import Carried, carry
from meshq.core.http import Headers, HttpRequest, HttpResponse, header
from tests.doubles import until


class OneExchange:
    """`ports.Exchange`."""

    def __init__(self, method: str, target: str, headers: Headers | None = None, body: bytes | None = None) -> None:
        self.request = HttpRequest(method.encode(), target.encode(), headers or [], body)
        self.local_port = 3600
        self.responses: list[HttpResponse] = []
        self._hangup: Callable[[], None] | None = None

    def respond(self, response: HttpResponse) -> None:
        self.responses.append(response)

    def on_hangup(self, callback: Callable[[], None]) -> None:
        self._hangup = callback

    def hang_up(self) -> None:
        assert self._hangup is not None
        self._hangup()

    @property
    def carried(self) -> Carried:
        return carry(self.request.headers)

    async def answer(self) -> HttpResponse:
        """The only one."""
        await until(lambda: self.responses)
        (response,) = self.responses
        return response


def field(response: HttpResponse, name: str) -> str | None:
    value = header(response.headers, name.lower().encode())
    return None if value is None else value.decode()
