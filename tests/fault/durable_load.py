"""Durable messages that go on in the background while a test breaks something: calls and events, each with an id of its own, and
what its sender was told. `settled` waits for the full drain and has the checker judge the history."""

import http.client
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.e2e.pods import App, Connection, Sidecar
from tests.fault.checker import Report, check
from tests.servers.processes import wait_for

BETWEEN = 0.01
"""Seconds between two messages of one sender: the load is to be there, not to take the machine."""
DRAINED_WITHIN = 120.0

Target = tuple[str, Mapping[str, str]]
"""Path on the sidecar's port, and fields."""


def call(address: str, key: str = "") -> Target:
    ordered = {"Meshq-Key": key} if key else {}
    return f"/v1/call/{address}/work", {"Prefer": "respond-async", **ordered}


def event(name: str, key: str = "") -> Target:
    return f"/v1/publish/{name}", {"Meshq-Key": key} if key else {}


class History:
    """Ids are `<target's number>-<hex>`; the app finds them in the field X-Id."""

    def __init__(self) -> None:
        self.attempted: set[str] = set()
        self.acknowledged: set[str] = set()
        self.order: dict[str, list[str]] = {}
        """Sender -> what it was acknowledged, in order."""
        self.idents: dict[str, str] = {}
        """Message id -> id"""
        self.requests: list[str] = []
        """Message ids of the calls that were accepted."""
        self.answers: Counter[str] = Counter()
        """Status and code, or the error."""
        self._stop = threading.Event()

    def run(self, name: str, port: Callable[[], int], target: Target) -> None:
        path, fields = target
        connection: Connection | None = None
        while not self._stop.wait(BETWEEN):
            ident = f"{name}-{uuid.uuid4().hex[:12]}"
            self.attempted.add(ident)
            try:
                connection = connection or Connection(port(), timeout=60)
                answer = connection.ask("POST", path, {"X-Id": ident, **fields}, ident.encode())
            except (OSError, http.client.HTTPException) as error:
                self.answers[type(error).__name__] += 1
                if connection is not None:
                    connection.close()
                connection = None
                continue
            self.answers[f"{answer.status} {answer.code}".strip()] += 1
            if answer.status == 202:
                self.acknowledged.add(ident)
                self.order.setdefault(name, []).append(ident)
                self.idents[answer.headers["Meshq-Message-Id"]] = ident
                if "Location" in answer.headers:
                    self.requests.append(answer.headers["Meshq-Message-Id"])
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        self._stop.set()

    def wait_for_more(self, count: int, within: float = 90.0) -> None:
        """Until `count` more messages were accepted."""
        wanted = len(self.acknowledged) + count
        try:
            wait_for(lambda: len(self.acknowledged) >= wanted, within, f"{count} more messages accepted", poll=0.05)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; so far {dict(self.answers)}") from None


@contextmanager
def durable_load(sidecar: Sidecar, *targets: Target) -> Iterator[History]:
    """One sender for each target while the body runs."""
    history = History()
    threads = [
        threading.Thread(target=history.run, args=(str(number), lambda: sidecar.port, target))
        for number, target in enumerate(targets)
    ]
    for thread in threads:
        thread.start()
    try:
        yield history
    finally:
        history.stop()
        for thread in threads:
            thread.join()


def delivered(*apps: App) -> list[str]:
    """The ids that the apps began with, one for each time. Apps that share a journal are named once."""
    return [record.headers["x-id"] for app in apps for record in app.handled() if "x-id" in record.headers]


def settled(
    history: History, app: App, dead: Callable[[], Collection[str]] = set, within: float = DRAINED_WITHIN
) -> Report:
    """Wait until all that was acknowledged was delivered or is dead, then judge. What is missing after `within` seconds is lost."""

    def drained() -> bool:
        return history.acknowledged <= {*delivered(app), *dead()}

    with suppress(TimeoutError):  # the report says what is missing
        wait_for(drained, within, "the full drain", poll=0.25)
    return check(history.attempted, history.acknowledged, delivered(app), dead())
