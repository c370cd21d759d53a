"""Calls that go on in the background while a test breaks something, and what must hold of them afterwards."""

import http.client
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import NamedTuple

from meshq.core.errors import Code
from tests.e2e.pods import App, Connection, Sidecar
from tests.servers.processes import wait_for

CODES = {code.value for code in Code}
BETWEEN = 0.02
"""Seconds that a caller waits between two calls: the load is to be there, not to take the machine."""


class Call(NamedTuple):
    method: str
    path: str
    started: float
    """time.monotonic"""
    status: int
    code: str
    error: str
    """Why there was no answer; "" when there was one."""


class Load:
    """What was called so far."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._stop = threading.Event()

    def wait_for_more(self, count: int) -> None:
        """Until `count` more calls were answered well."""
        wanted = self._well() + count
        try:
            wait_for(lambda: self._well() >= wanted, 60, f"{count} more calls")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the last: {self.calls[-10:]}") from None

    def _well(self) -> int:
        return sum(1 for call in self.calls if call.status == 200)

    def stop(self) -> None:
        self._stop.set()

    def run(self, sidecar: Sidecar, address: str) -> None:
        connection = Connection(sidecar.port, timeout=30)
        methods = cycle(("GET", "POST"))
        while not self._stop.wait(BETWEEN):
            self.calls.append(_one(connection, next(methods), address, f"/load/{uuid.uuid4().hex}"))
        connection.close()

    # --- what must hold -----------------------------------------------------------------------------------------------------

    def failed(self, since: float = 0.0) -> list[Call]:
        """Those begun since then that were not answered well."""
        return [call for call in self.calls if call.started >= since and call.status != 200]

    def assert_answered(self) -> None:
        """Every call had an answer: the app's, or one from the table of errors."""
        assert len(self.calls) > 10
        assert [call for call in self.calls if call.error] == []
        assert {call.code for call in self.failed()} <= CODES

    def assert_well(self) -> None:
        self.assert_answered()
        assert self.failed() == []


def _one(connection: Connection, method: str, address: str, path: str) -> Call:
    headers = {"Meshq-Timeout": "10s"}
    started = time.monotonic()
    try:
        answer = connection.ask(method, f"/v1/call/{address}{path}", headers, b"load" if method == "POST" else None)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return Call(method, path, started, 0, "", repr(error))
    return Call(method, path, started, answer.status, answer.code, "")


@contextmanager
def load(sidecar: Sidecar, *addresses: str) -> Iterator[Load]:
    """Two callers for each address, half of their calls unsafe, while the body runs."""
    found = Load()
    threads = [threading.Thread(target=found.run, args=(sidecar, address)) for address in addresses * 2]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.stop()
        for thread in threads:
            thread.join()


def assert_nothing_twice(app: App) -> None:
    """No unsafe call was begun twice by the apps of this service."""
    begun = Counter(record.path for record in app.handled() if record.method == "POST")
    assert {path: times for path, times in begun.items() if times > 1} == {}
