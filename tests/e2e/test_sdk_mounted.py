"""Handlers inside uvicorn and gunicorn, asked by a sidecar at the app's port."""

import http.client
import json
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from meshq.sdk.bodies import MAX_BODY
from tests.e2e.dev_mesh import DEADLINE_SECONDS, Dev, ask, echo, free_ports, running, write_mesh
from tests.servers.processes import wait_for

UVICORN = f"exec {sys.executable} -m uvicorn mounted_app:application --port $PORT --log-level warning"
GUNICORN = f"exec {sys.executable} -m gunicorn mounted_app:application --bind 127.0.0.1:$PORT --no-control-socket"
SERVERS = {
    "uvicorn": (f"{UVICORN} --lifespan on", "asgi"),
    "gunicorn": (f"{GUNICORN} --threads 8", "wsgi"),
    "gunicorn, forked after the start": (f"{GUNICORN} --threads 8 --workers 2 --preload", "wsgi started"),
}


class Mounted(NamedTuple):
    dev: Dev
    port: int
    sidecar: str
    """Of another service."""
    own_sidecar: str


@pytest.fixture(params=SERVERS.values(), ids=SERVERS)
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    with running_mounted(tmp_path / "mesh", *request.param) as found:
        yield found


@contextmanager
def running_mounted(folder: Path, command: str, how: str) -> Iterator[Mounted]:
    first = free_ports()
    app = {"service": "mounted", "version": "1.0.0", "command": command, "port": first + 90, "sidecarPort": first}
    file = write_mesh(folder, {**app, "env": {"MOUNTED": how}}, echo("echo", first + 10))
    for program in ("mounted_app.py", "mounted_fastapi.py"):
        shutil.copy(Path(__file__).with_name(program), file.parent)
    with running(file.parent, "--control-port", "0") as dev:
        dev.wait_for("all 2 apps are ready")
        yield Mounted(dev, first + 90, f"http://127.0.0.1:{first + 10}", f"http://127.0.0.1:{first}")


def test_mounted_handlers_answer_and_call_others(mounted: Mounted) -> None:
    for number in range(20):
        answer = ask(mounted.sidecar, "POST", "/v1/call/mounted/double", json.dumps({"number": number}))
        assert answer.status == 415, "what is not said to be JSON is not taken for it"
        body = json.dumps({"number": number})
        answer = ask(mounted.sidecar, "POST", "/v1/call/mounted/double", body, Content_Type="application/json")
        assert (answer.status, answer.body["doubled"]) == (200, 2 * number)
    nested = ask(mounted.sidecar, "GET", "/v1/call/mounted/nested/a%2Fb%20c")
    assert nested.status == 200, nested.text
    assert nested.body["name"] == "a/b c"
    assert nested.body["echo"]["path"] == "/of/echo"
    assert nested.body["echo"]["caller"] == "mounted"
    assert ask(mounted.sidecar, "GET", "/v1/call/mounted/nowhere").status == 404
    assert ask(mounted.sidecar, "GET", "/v1/call/mounted/double").status == 405
    assert mounted.dev.end() == 0, mounted.dev.text
    began = set(re.findall(r"lifespan begins in (\d+)", mounted.dev.text))
    assert began, mounted.dev.text
    assert began == set(re.findall(r"lifespan ends in (\d+)", mounted.dev.text))
    assert "Traceback" not in mounted.dev.text


def test_mounted_handlers_are_given_events(mounted: Mounted) -> None:
    ask(mounted.sidecar, "GET", "/v1/call/mounted/nowhere")  # the first request, where nobody called `start`
    wait_for(lambda: ask(mounted.own_sidecar, "GET", "/v1/subscriptions").body, DEADLINE_SECONDS, "the subscription")
    for what in ("a flood", "a fire"):
        published = ask(
            mounted.sidecar,
            "POST",
            "/v1/publish/things.happened",
            json.dumps({"what": what}),
            Content_Type="application/json",
        )
        assert published.status == 202
        mounted.dev.wait_for(f"{what} happened, attempt 2")


def test_a_fastapi_app_has_a_mesh_while_it_runs_and_handlers_below_a_path(tmp_path: Path) -> None:
    with running_mounted(tmp_path / "mesh", UVICORN.replace("mounted_app", "mounted_fastapi"), "in FastAPI") as mounted:
        asked = ask(f"http://127.0.0.1:{mounted.port}", "GET", "/ask/how")
        assert (asked.status, asked.body["path"], asked.body["caller"]) == (200, "/how", "mounted")
        assert ask(mounted.sidecar, "GET", "/v1/call/mounted/mesh/hello/ada").text == "hello ada"
        assert ask(mounted.sidecar, "GET", "/v1/call/mounted/hello/ada").status == 404
        published = json.dumps({"what": "a flood"})
        ask(mounted.sidecar, "POST", "/v1/publish/things.happened", published, Content_Type="application/json")
        mounted.dev.wait_for("a flood happened")
        assert mounted.dev.end() == 0, mounted.dev.text
        assert "Traceback" not in mounted.dev.text


@pytest.mark.parametrize("mounted", [SERVERS["uvicorn"]], ids=["uvicorn"], indirect=True)
def test_a_handler_whose_caller_hung_up_is_cancelled(mounted: Mounted) -> None:
    with socket.create_connection(("127.0.0.1", mounted.port), DEADLINE_SECONDS) as caller:
        caller.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        mounted.dev.wait_for("slow begins")
    mounted.dev.wait_for("slow is cancelled")


def test_a_body_that_is_too_large_is_refused(mounted: Mounted) -> None:
    for body in (bytes(MAX_BODY + 1), iter([bytes(2**20)] * 17)):  # of a length that is said; in chunks
        connection = http.client.HTTPConnection("127.0.0.1", mounted.port, timeout=DEADLINE_SECONDS)
        with suppress(BrokenPipeError, ConnectionResetError):  # it need not be read to its end
            connection.request("POST", "/double", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["code"]) == (413, "too-large")
        connection.close()
