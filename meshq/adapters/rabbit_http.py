"""Asking a node of RabbitMQ by HTTP, its management API or its Prometheus endpoint: a whole answer in time, or one sentence that says
why there is none."""

import asyncio
import base64
import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from meshq.ports import Clock

TIMEOUT = 5.0
"""Seconds; a node that is under an alarm or has thousands of queues still answers within this."""
MAX_ANSWER = 64 * 2**20
_PIECE = 2**18

T = TypeVar("T")


async def aside(work: Callable[[], T]) -> T:
    """What it returns or raises, from a thread that nobody waits for: a program ends while a node that is silent is still being asked,
    which asyncio.to_thread does not let it."""
    found = Future[T]()
    found.set_running_or_notify_cancel()  # from here on it cannot be cancelled: the thread may set it, whoever listens

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            found.set_exception(error)

    threading.Thread(target=run, name="ask RabbitMQ", daemon=True).start()
    return await asyncio.wrap_future(found)


class _Nowhere(urllib.request.HTTPRedirectHandler):
    """Where a redirect leads the broker's password must not go."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Endpoint:
    """Where to ask. `setting` is what the URL was given in and `what` is there; both are named when there is no answer. Raises
    ValueError for a URL that makes no sense."""

    def __init__(self, url: str, what: str, setting: str, clock: Clock, user: tuple[str, str] | None = None) -> None:
        """`user`: name and password where the URL has none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{what}'s URL begins with http:// or https://")
        self.where = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        self.what = what
        self.setting = setting
        self._clock = clock
        self._base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._headers = {"User-Agent": "meshq", **_authorization(parts, user)}
        # Without the environment's proxies: this is a neighbour of the broker, which no proxy leads to either.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Nowhere)

    def ask(self, target: str) -> bytes:
        """What is at `target`, a path and query below the URL's own. Blocks. Raises OSError, whose message says why there is nothing."""
        request = urllib.request.Request(self._base + target, headers=self._headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return self._read(answer, self._clock.monotonic() + TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            why = "refuses the user" if error.code in (401, 403) else f"answers {error.code}"
            raise OSError(f"{self.what} at {self.where} {why}; set {self.setting}") from error
        except http.client.HTTPException as error:
            raise self.no_figures("it breaks off, or does not speak HTTP") from error
        except OSError as error:
            raise self.no_figures(getattr(error, "reason", error)) from error

    def no_figures(self, reason: object) -> OSError:
        return OSError(f"{self.what} at {self.where} gives no figures ({reason}); set {self.setting}")

    def other(self) -> OSError:
        return OSError(f"what answers at {self.where} is not {self.what}; set {self.setting}")

    def _read(self, answer: http.client.HTTPResponse, until: float) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while piece := answer.read1(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER:
                raise OSError(f"its answer is over {MAX_ANSWER // 2**20} MiB")
            if self._clock.monotonic() > until:
                raise TimeoutError("timed out")
        if answer.length:  # less came than was announced
            raise http.client.IncompleteRead(b"")
        return b"".join(pieces)


def _authorization(parts: SplitResult, user: tuple[str, str] | None) -> dict[str, str]:
    if parts.username is not None:
        user = unquote(parts.username), unquote(parts.password or "")
    if user is None:
        return {}
    token = base64.b64encode(":".join(user).encode()).decode()
    return {"Authorization": f"Basic {token}"}
