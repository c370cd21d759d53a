"""Pods without Kubernetes: an app's process and a sidecar's beside it, on free ports, and what tests do to them."""

import http.client
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers.processes import LOOPBACK, ServerProcess, free_port, listening, wait_for

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds after which a test that waits for something has failed."""


# --- asking ---------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    headers: Message
    body: bytes

    @property
    def code(self) -> str:
        """The mesh's own error code; "" for an answer of the app's."""
        return str(self.headers.get("Meshq-Error", ""))

    @property
    def detail(self) -> str:
        """What the mesh says to people."""
        return str(json.loads(self.body)["detail"])


class Connection:
    """One kept alive, for one request after another. `ask` raises OSError or http.client.HTTPException."""

    def __init__(self, port: int, timeout: float = PATIENCE, host: str = LOOPBACK) -> None:
        self._inner = http.client.HTTPConnection(host, port, timeout=timeout)

    def ask(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        self._inner.request(method, target, body, dict(headers or {}))
        response = self._inner.getresponse()
        return Answer(response.status, response.headers, response.read())

    def close(self) -> None:
        self._inner.close()


def ask(
    port: int,
    target: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = PATIENCE,
    host: str = LOOPBACK,
) -> Answer:
    """One request on a connection of its own."""
    connection = Connection(port, timeout, host)
    try:
        return connection.ask(method, target, headers, body)
    finally:
        connection.close()


# --- processes ------------------------------------------------------------------------------------------------------------


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's without settings of a sidecar that may be in it, and with `settings`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESHQ_")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "sidecar")])
    return {**kept, "PYTHONPATH": path, **settings}


class Sidecar:
    """One sidecar's process."""

    def __init__(self, service: str, settings: Mapping[str, str], log: Path) -> None:
        self.service = service
        self.port, self.admin_port, self.dns_port = free_port(), free_port(), free_port()
        numbers = {"MESHQ_PORT": self.port, "MESHQ_ADMIN_PORT": self.admin_port, "MESHQ_DNS_PORT": self.dns_port}
        ports = {name: str(port) for name, port in numbers.items()}
        env = environment({"MESHQ_SERVICE_VERSION": "1.0.0", **settings, **ports, "MESHQ_SERVICE": service})
        self._process = ServerProcess([sys.executable, "-m", "meshq_sidecar"], log, env)

    def start(self) -> "Sidecar":
        self._process.start()
        return self

    def kill(self) -> None:
        """SIGKILL; gone when this returns."""
        self._process.kill()

    def terminate(self) -> None:
        """SIGTERM; returns at once."""
        self._process.send(signal.SIGTERM)

    def stop(self) -> None:
        """SIGTERM; gone when this returns."""
        self._process.stop()

    def wait_exit(self, timeout: float = PATIENCE) -> int:
        """The exit code, once it has ended."""
        wait_for(lambda: not self.running, timeout, f"the end of {self.service}'s sidecar", poll=0.02)
        code = self._process.exit_code
        assert code is not None
        return code

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def output(self) -> str:
        return self._process.log.read_text(errors="replace")

    def call(
        self,
        address: str,
        path: str = "/",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float = PATIENCE,
    ) -> Answer:
        """A call by the path way."""
        return ask(self.port, f"/v1/call/{address}{path}", method, headers, body, timeout)

    def checks(self) -> dict[str, str]:
        """What /readyz says of each part, `ok` where all is well; {} while nothing answers there."""
        try:
            answer = ask(self.admin_port, "/readyz", timeout=5)
        except (OSError, http.client.HTTPException):
            return {}
        found: dict[str, str] = json.loads(answer.body)["checks"]
        assert answer.status == (200 if all(text == "ok" for text in found.values()) else 503)
        return found

    @property
    def ready(self) -> bool:
        checks = self.checks()
        return bool(checks) and all(text == "ok" for text in checks.values())

    def wait_ready(self, timeout: float = PATIENCE) -> "Sidecar":
        self.wait(lambda: self.ready, "ready", timeout)
        return self

    def wait(self, predicate: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
        """`wait_for`, that on failure also tells what this sidecar says."""
        try:
            wait_for(predicate, timeout, what, poll=0.02)
        except TimeoutError as error:
            said = f"{self.service}'s checks: {self.checks()}; the end of its log:\n{self._process.tail(30)}"
            raise TimeoutError(f"{error}; {said}") from None

    def story(self) -> list[str]:
        """Its last words in the log and its counters that are not 0, for a failure's message."""
        counters = (
            re.findall(r"^meshq_\w+_total.* (?!0\.0)\S+$", self.metrics(), re.MULTILINE)
            if self.running
            else ["it has ended"]
        )
        return [f"--- {self.service}, port {self.port}", *self.output.splitlines()[-40:], *counters]

    def metrics(self) -> str:
        return ask(self.admin_port, "/metrics").body.decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all samples of `meshq_<name>` that have these labels; 0 when there is none."""
        total = 0.0
        for line in self.metrics().splitlines():
            sample = re.fullmatch(r"meshq_(\w+)(?:\{(.*)\})? (\S+)", line)
            if sample is not None and sample[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', sample[2] or ""))
                if labels.items() <= found.items():
                    total += float(sample[3])
        return total

    def instances(self, service: str) -> list[dict[str, Any]]:
        """Those of `service` as this sidecar knows them."""
        answer = ask(self.port, f"/v1/services/{service}")
        found: list[dict[str, Any]] = json.loads(answer.body)["instances"] if answer.status == 200 else []
        return found


class Handled(NamedTuple):
    """One request as the app saw it, when it began with it."""

    method: str
    path: str
    pid: int
    headers: dict[str, str]
    """By lower-case name."""


class App:
    """A held app's process (held_app.py); those of one service share its journal."""

    def __init__(self, journal: Path, log: Path) -> None:
        self.port = free_port()
        self._journal = journal
        journal.touch()
        command = [sys.executable, "-m", "tests.e2e.held_app", str(self.port), str(journal)]
        self._process = ServerProcess(command, log, environment({}))

    def start(self) -> "App":
        self._process.start()
        return self

    def wait_ready(self) -> "App":
        wait_for(lambda: listening(self.port), PATIENCE, "the app", poll=0.02)
        return self

    def kill(self) -> None:
        self._process.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def handled(self, path: str = "") -> list[Handled]:
        """What the apps of this service began with so far: all of it, or the requests for `path`."""
        whole, _, _ = self._journal.read_text().rpartition(
            "\n"
        )  # of a line that is being written only a part may be there yet
        records = (Handled(**json.loads(line)) for line in whole.splitlines())
        return [record for record in records if path in ("", record.path)]

    def wait_handled(self, path: str, times: int = 1) -> Handled:
        """Wait until a request for `path` has begun `times` times; returns the last."""
        wait_for(lambda: len(self.handled(path)) >= times, PATIENCE, f"{path} at the app", poll=0.02)
        return self.handled(path)[-1]

    def release(self, name: str) -> None:
        """Answer what is held as /hold/<name>, and what will come by that name."""
        ask(self.port, f"/release/{name}")

    def mode(self, name: str) -> None:
        """From now on: `well`, `slow`, `garbage`, `half` or a status (held_app.py)."""
        ask(self.port, f"/mode/{name}")

    def most_at_once(self) -> int:
        return int(ask(self.port, "/busy").body)


class Pod(NamedTuple):
    app: App
    sidecar: Sidecar

    def kill(self) -> None:
        self.app.kill()
        self.sidecar.kill()


class Mesh:
    """The pods on one broker and one registry. Every process of it ends with `close`."""

    def __init__(self, broker_url: str, registry_url: str, folder: Path) -> None:
        self.broker_url = broker_url
        self.registry_url = registry_url
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._common = {
            "MESHQ_BROKER_URL": broker_url,
            "MESHQ_REGISTRY_URL": registry_url,
            "MESHQ_LOG_FORMAT": "text",
            "MESHQ_DRAIN_TIMEOUT": "10s",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        self._apps: list[App] = []
        self._sidecars: list[Sidecar] = []

    def sidecar(self, service: str, variables: Mapping[str, str] | None = None, /, **settings: str) -> Sidecar:
        """A sidecar that is starting; `settings` without their MESHQ_, `variables` as they are."""
        named = {f"MESHQ_{name.upper()}": value for name, value in settings.items()} | dict(variables or {})
        log = self.folder / f"{service}-{len(self._sidecars)}.log"
        found = Sidecar(service, self._common | named, log)
        self._sidecars.append(found)
        return found.start()

    def app(self, service: str) -> App:
        """An app that is starting."""
        found = App(self.folder / f"{service}.journal", self.folder / f"{service}-app-{len(self._apps)}.log")
        self._apps.append(found)
        return found.start()

    def pod(self, service: str, variables: Mapping[str, str] | None = None, /, **settings: str) -> Pod:
        """A held app and its sidecar, starting."""
        app = self.app(service)
        return Pod(app, self.sidecar(service, variables, app_port=str(app.port), **settings))

    def close(self) -> None:
        for sidecar in self._sidecars:
            sidecar.terminate()
        for app in self._apps:
            app.kill()
        for sidecar in self._sidecars:
            sidecar.stop()

    def logs(self) -> str:
        """The end of what each sidecar said, and its counters."""
        return "\n".join(line for sidecar in self._sidecars for line in sidecar.story())

    def tracebacks(self) -> list[str]:
        """What no sidecar may ever log: an exception that nobody expected."""
        return [f"{s.service}: {s.output}" for s in self._sidecars if "Traceback" in s.output]


@contextmanager
def mesh(broker_url: str, registry_url: str, folder: Path) -> Iterator[Mesh]:
    """A mesh without pods yet. Raises AssertionError at the end if a sidecar met an exception that nobody expected."""
    found = Mesh(broker_url, registry_url, folder)
    try:
        yield found
    except BaseException:
        print(found.logs())  # pytest shows it with the failure
        raise
    finally:
        found.close()
    tracebacks = found.tracebacks()
    assert not tracebacks, "\n".join(tracebacks)
