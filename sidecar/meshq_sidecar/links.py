"""The links that the app opened: what it asks over them, and what is asked of it instead of over HTTP.

An app may have several (one a worker process). Deliveries go to the one with the fewest at work, of those that answer. While any serves, nothing goes to the
app's port; when the last one says goodbye or breaks, the port has it again, where there is one.
"""

import asyncio
from collections.abc import Callable

from meshq.core import link
from meshq.core.answers import problem
from meshq.core.errors import Code, Problem, refuse
from meshq.core.headers import Carried
from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse, header
from meshq.linking import Done, Link, LinkExchange
from meshq.ports import Exchange, HttpClient
from meshq_sidecar.health import Probed

UPGRADE_REQUIRED = 426
_NO_LINK = Failed(Failure.REFUSED, "the app has no link open, and no port")


class Links:
    """ports.HttpClient over whatever reaches the app. `port` is None for an app without one. `on_serving(serves)` is called when the
    first link that serves came, and when the last one went."""

    def __init__(self, port: HttpClient | None, max_body: int, on_serving: Callable[[bool], None]) -> None:
        self._port = port
        self._max_body = max_body
        self._on_serving = on_serving
        self._handle: Callable[[LinkExchange], None] = _nobody
        self._links: list[Link] = []
        self._serving: list[Link] = []
        self._unwell: set[Link] = set()
        """Those that did not answer the last probe, or not well: they get something only where all are so."""

    def open(self, handle: Callable[[LinkExchange], None]) -> None:
        """From now on; `handle` gets what apps ask."""
        self._handle = handle

    @property
    def serves(self) -> bool:
        return bool(self._serving)

    def __len__(self) -> int:
        return len(self._links)

    # --- the app opens one --------------------------------------------------------------------------------------------------

    def accept(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """`GET /v1/link` with `Upgrade: meshq-link/1`. Raises Refused."""
        if not _asks_for_link(exchange.request):
            exchange.respond(_upgrade_required())
        else:
            opened = Link(
                self._handle,
                max_body=self._max_body,
                on_hello=self._on_hello,
                on_goodbye=self._on_goodbye,
                on_end=self._on_end,
            )
            if not exchange.upgrade(link.PROTOCOL, opened):
                raise refuse(
                    Code.UNAVAILABLE, "no link on this connection: something else is asked on it, or it is closing"
                )
            self._links.append(opened)

    def _on_hello(self, opened: Link) -> None:
        if opened.peer is not None and opened.peer.serves:
            self._serving.append(opened)
            if len(self._serving) == 1:
                self._on_serving(True)

    def _on_goodbye(self, opened: Link) -> None:
        if opened in self._serving:
            self._serving.remove(opened)
            self._unwell.discard(opened)
            if not self._serving:
                self._on_serving(False)

    def _on_end(self, opened: Link) -> None:
        if opened in self._links:
            self._links.remove(opened)
        self._on_goodbye(opened)

    # --- the app is asked -----------------------------------------------------------------------------------------------------

    def request(self, request: HttpRequest, timeout: float, done: Done) -> Callable[[], None]:
        if self._serving:
            return min(self._serving, key=self._reluctance).request(request, timeout, done)
        if self._port is not None:
            return self._port.request(request, timeout, done)
        done(_NO_LINK)
        return _nothing

    def _reluctance(self, opened: Link) -> tuple[bool, int]:
        return opened in self._unwell, opened.busy

    async def probe(self, timeout: float) -> Probed:
        """How the app says it is: well if it is over one of its links, given less if it wants less over one."""
        asked = list(self._serving)
        if not asked:
            return Probed("the app has no link open")
        found = await asyncio.gather(*(each.ping(timeout) for each in asked))
        answers = zip(asked, found, strict=True)
        self._unwell = {each for each, said in answers if (said is None or said.fault) and each in self._serving}
        said = [each for each in found if each is not None]
        if not said:
            return Probed(f"the app did not answer over its link within {timeout:g} s")
        fault = "" if any(not each.fault for each in said) else said[0].fault
        return Probed(fault, any(each.less for each in said))

    async def close(self) -> None:
        for each in list(self._links):
            each.abort()
        if self._port is not None:
            await self._port.close()


def _asks_for_link(request: HttpRequest) -> bool:
    wanted = header(request.headers, b"upgrade") or b""
    connection = header(request.headers, b"connection") or b""
    tokens = {each.strip().lower() for each in connection.split(b",")}
    return wanted.strip().lower() == link.PROTOCOL.encode() and b"upgrade" in tokens


def _upgrade_required() -> HttpResponse:
    detail = f"this is where an app opens its link: send Connection: Upgrade and Upgrade: {link.PROTOCOL}"
    response = problem(UPGRADE_REQUIRED, "Upgrade Required", detail)
    response.headers.append((b"Upgrade", link.PROTOCOL.encode()))
    return response


def _nobody(exchange: LinkExchange) -> None:
    exchange.respond(Problem(Code.UNAVAILABLE, "the sidecar is starting").as_response())


def _nothing() -> None:
    """Nothing is left to cancel."""
