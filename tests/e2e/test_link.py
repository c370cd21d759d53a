"""An app without a port, that its sidecar reaches over the link alone: killed, frozen, and its sidecar restarted."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.pods import PATIENCE, Answer, Handled, Mesh, Sidecar, ask, environment, mesh
from tests.servers.processes import ServerProcess, wait_for

DURABLY = {"Prefer": "respond-async"}
EMBEDDED = pytest.param("embedded", id="embedded")
SERVERS = pytest.param("servers", id="servers", marks=[pytest.mark.rabbitmq, pytest.mark.redis])


class LinkedApp:
    """The process of linked_app.py; those of one sidecar share its journal."""

    def __init__(self, sidecar: Sidecar, folder: Path, *options: str) -> None:
        self._journal = folder / "linked.journal"
        self._journal.touch()
        command = [sys.executable, "-m", "tests.e2e.linked_app", str(self._journal), *options]
        env = environment({"MESHQ_URL": f"http://127.0.0.1:{sidecar.port}"})
        self.process = ServerProcess(command, folder / "linked.log", env)
        self.process.start()

    def handled(self) -> list[Handled]:
        whole, _, _ = self._journal.read_text().rpartition("\n")
        return [Handled(**json.loads(line)) for line in whole.splitlines()]

    def wait_handled(self, count: int) -> list[Handled]:
        wait_for(lambda: len(self.handled()) >= count, PATIENCE, f"{count} requests at the app", poll=0.02)
        return self.handled()


class Pod:
    """One service: a sidecar on which nothing is set of its app, and the app's processes."""

    def __init__(self, found: Mesh) -> None:
        self._folder = found.folder
        self.sidecar = found.sidecar("orders", app_concurrency="32", retry="5:100ms")
        self.apps: list[LinkedApp] = []

    def app(self, *options: str) -> LinkedApp:
        app = LinkedApp(self.sidecar, self._folder, *options)
        self.apps.append(app)
        return app

    def wait_ready(self) -> None:
        """The app takes messages."""
        self.sidecar.wait(lambda: self.sidecar.checks().get("app") == "ok" and self.sidecar.ready, "the app's link")

    def send(self, name: str) -> str:
        """Durably. Returns the id."""
        answer = self.sidecar.call("orders", f"/{name}", "POST", DURABLY)
        assert answer.status == 202, answer.body
        return str(json.loads(answer.body)["id"])

    def result(self, ident: str) -> Answer:
        def done() -> bool:
            return ask(self.sidecar.port, f"/v1/requests/{ident}").headers["Meshq-Request-Status"] == "done"

        self.sidecar.wait(done, f"the result of {ident}")
        return ask(self.sidecar.port, f"/v1/requests/{ident}")


@pytest.fixture
def pod(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pod]:
    urls = ("embedded:", "embedded:")
    if request.param == "servers":
        urls = (request.getfixturevalue("broker_url"), request.getfixturevalue("redis_url"))
    with mesh(*urls, tmp_path / "mesh") as found:
        pod = Pod(found)
        try:
            yield pod
        finally:
            for app in pod.apps:
                app.process.kill()


@pytest.mark.parametrize("pod", [EMBEDDED, SERVERS], indirect=True)
def test_an_app_killed_with_messages_in_flight_loses_none(pod: Pod) -> None:
    first = pod.app("hold")
    pod.wait_ready()
    sent = [pod.send(f"n{n}") for n in range(20)]
    with ThreadPoolExecutor(1) as threads:
        waited = threads.submit(pod.sidecar.call, "orders", "/waited", "POST", {"Meshq-Timeout": "20s"})
        first.wait_handled(21)
        assert pod.sidecar.metric("inbound_in_flight") == 21
        assert pod.sidecar.metric("links") == 1
        first.process.kill()
        assert waited.result(PATIENCE).status == 502  # a POST that may have been handled is not repeated
    second = pod.app()
    answers = [pod.result(ident) for ident in sent]
    assert [answer.status for answer in answers] == [200] * 20
    assert {json.loads(answer.body)["attempt"] for answer in answers} == {2}
    again = [record.path for record in second.handled() if record.pid == second.process.pid]
    assert sorted(again) == sorted(f"/n{n}" for n in range(20))


@pytest.mark.parametrize("pod", [EMBEDDED], indirect=True)
def test_a_frozen_app_is_found_unwell_and_burns_nothing(pod: Pod) -> None:
    app = pod.app()
    pod.wait_ready()
    app.process.pause()
    pod.sidecar.wait(lambda: pod.sidecar.checks()["app"] != "ok", "the frozen app found")
    assert pod.sidecar.checks()["app"] == "the app did not answer over its link within 2 s"
    sent = [pod.send(f"n{n}") for n in range(5)]
    assert pod.sidecar.metric("inbound_in_flight") == 0
    assert app.handled() == []
    app.process.resume()
    assert [json.loads(pod.result(ident).body)["attempt"] for ident in sent] == [1] * 5


@pytest.mark.parametrize("pod", [EMBEDDED], indirect=True)
def test_the_link_comes_back_with_its_sidecar_and_so_do_subscriptions(pod: Pod) -> None:
    app = pod.app()
    pod.wait_ready()

    def publish(times: int) -> None:
        def subscribed() -> bool:
            names = [each["name"] for each in json.loads(ask(pod.sidecar.port, "/v1/subscriptions").body)]
            return names == ["counted"]

        pod.sidecar.wait(subscribed, "the subscription")
        assert ask(pod.sidecar.port, "/v1/publish/stock.counted", "POST").status == 202
        app.wait_handled(times)

    publish(1)
    pod.sidecar.stop()
    pod.sidecar.start()
    pod.wait_ready()
    publish(2)
    assert [record.path for record in app.handled()] == ["/counted"] * 2
    assert app.process.running
