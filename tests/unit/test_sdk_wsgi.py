"""A service as a WSGI application: requests and answers, where it is mounted, its lifespan and the end of its process. What the
environment looks like from real servers: tests/e2e/test_sdk_mounted.py."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from meshq import Context, Mesh, Problem, Reply, Service
from meshq.sdk.bodies import MAX_BODY
from meshq.sdk.wsgi import Wsgi

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 30


def a_service(**more: Any) -> Service:
    # Where nobody listens: a subscription fails at once.
    service = Service("orders", mesh=Mesh("http://127.0.0.1:1", health_timeout=0.01), **more)

    @service.get("/orders/{name}")
    async def find(name: str, ctx: Context, limit: int = 7) -> dict[str, object]:
        return {"name": name, "limit": limit, "id": ctx.message_id, "target": ctx.request.target.decode()}

    @service.post("/length")
    def length(body: bytes, ctx: Context) -> Reply:
        return Reply(f"{len(body)} {ctx.request.body is None}", status=201, headers={"X-Seen": "yes"})

    return service


@contextmanager
def serving(service: Service) -> Iterator[Wsgi]:
    app = service.wsgi()
    try:
        yield app
    finally:
        app.close()


class Answer:
    def __init__(self, app: Callable[..., Any], method: str = "GET", path: str = "/", **more: Any) -> None:
        path, _, query = path.partition("?")
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "SCRIPT_NAME": "", **more}
        setup_testing_defaults(environ)
        self.status, self.headers = 0, dict[str, str]()
        pieces = validator(app)(environ, self._start)
        try:
            self.body = b"".join(pieces)
        finally:
            pieces.close()

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        self.status, self.headers = int(status.partition(" ")[0]), dict(headers)
        return lambda data: None


def test_a_request_is_answered() -> None:
    with serving(a_service()) as app:
        answer = Answer(app, path="/orders/tea?limit=3", HTTP_MESHQ_MESSAGE_ID="7f")
    assert answer.status == 200
    assert answer.body == b'{"name":"tea","limit":3,"id":"7f","target":"/orders/tea?limit=3"}'
    assert answer.headers == {"Content-Type": "application/json", "Content-Length": str(len(answer.body))}


def test_a_refusal_is_a_problem() -> None:
    with serving(a_service()) as app:
        answer = Answer(app, "POST", "/orders/tea")
    assert (answer.status, answer.headers["Content-Type"]) == (405, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "more", "target"),
    [
        ("/orders/tea", {"SCRIPT_NAME": "/mesh"}, "/orders/tea"),
        ("/orders/a/b", {"SCRIPT_NAME": "/m", "RAW_URI": "/m/orders/a%2Fb?limit=1"}, "/orders/a%2Fb"),
        ("/orders/a/b", {"REQUEST_URI": "/orders/a%2Fb"}, "/orders/a%2Fb"),
        ("/orders/tea", {"RAW_URI": "/before/it/was/rewritten"}, "/orders/tea"),
        ("/orders/\xc3\xa4 b", {}, "/orders/%C3%A4%20b"),
    ],
)
def test_what_stands_before_the_mount_is_not_the_handlers(path: str, more: dict[str, str], target: str) -> None:
    with serving(a_service()) as app:
        answer = Answer(app, path=path, **more)
    assert answer.status == 200
    assert f'"target":"{target}"'.encode() in answer.body


def test_it_is_mounted_in_flask() -> None:
    flask = Flask(__name__)
    flask.add_url_rule("/", view_func=lambda: "for people")
    with serving(a_service()) as app:
        flask.wsgi_app = DispatcherMiddleware(flask.wsgi_app, {"/mesh": app})  # type: ignore[method-assign]
        with flask.test_client() as client:
            assert client.get("/").text == "for people"
            answer = client.get("/mesh/orders/a%2Fb?limit=1")
            assert (answer.json or {})["name"] == "a/b"
            assert client.post("/mesh/length", data=b"hello").text == "5 False"
            assert client.get("/orders/tea").status_code == 404


class Terminated(BytesIO):
    """A chunked body, decoded by the server, which gives what it has."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size, 1000) if size and size > 0 else size)


@pytest.mark.parametrize(
    ("environ", "body", "said"),
    [
        ({"CONTENT_LENGTH": "5"}, b"hello, and the next request", b"5 False"),
        ({"CONTENT_LENGTH": "0"}, b"", b"0 False"),
        ({"CONTENT_LENGTH": ""}, b"not ours", b"0 True"),
        ({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}, b"x" * 4096, b"4096 False"),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, b"without an end", b"0 True"),
    ],
)
def test_a_body_has_its_length_or_its_end(environ: dict[str, Any], body: bytes, said: bytes) -> None:
    with serving(a_service()) as app:
        answer = Answer(app, "POST", "/length", **environ, **{"wsgi.input": Terminated(body)})
    assert (answer.status, answer.body, answer.headers["X-Seen"]) == (201, said, "yes")


@pytest.mark.parametrize(
    ("environ", "body", "status"),
    [
        ({"CONTENT_LENGTH": "6"}, b"hello", 400),
        ({"CONTENT_LENGTH": str(MAX_BODY + 1)}, b"", 413),
        ({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}, bytes(MAX_BODY + 1), 413),
    ],
)
def test_a_body_that_is_not_whole_or_too_large_reaches_no_handler(
    environ: dict[str, Any], body: bytes, status: int
) -> None:
    with serving(a_service()) as app:
        answer = Answer(app, "POST", "/length", **environ, **{"wsgi.input": BytesIO(body)})
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")


def test_threads_are_served_side_by_side_on_one_loop() -> None:
    most = 4 + (os.cpu_count() or 1) + 1  # more than asyncio's own number of threads
    service, together = a_service(), threading.Barrier(most)
    loops = set()

    @service.get("/meet")
    def meet() -> str:
        together.wait(DEADLINE_SECONDS)
        return "met"

    @service.get("/loop")
    async def loop() -> str:
        loops.add(asyncio.get_running_loop())
        return "seen"

    with serving(service) as app, ThreadPoolExecutor(most) as threads:
        assert {answer.body for answer in threads.map(lambda _: Answer(app, path="/meet"), range(most))} == {b"met"}
        assert {answer.body for answer in threads.map(lambda _: Answer(app, path="/loop"), range(most))} == {b"seen"}
    assert len(loops) == 1


def test_the_lifespan_is_from_the_first_request_to_the_end_and_a_later_request_begins_anew() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        steps.append("begins")
        yield
        steps.append("ends")

    with serving(a_service(lifespan=lifespan)) as app:
        assert steps == []
        assert Answer(app, path="/orders/tea").status == Answer(app, path="/orders/tea").status == 200
        assert steps == ["begins"]
        app.close()
        assert steps == ["begins", "ends"]
        assert Answer(app, path="/orders/tea").status == 200
    assert steps == ["begins", "ends"] * 2


def test_a_lifespan_that_cannot_begin_fails_the_request_and_is_tried_again() -> None:
    tries: list[int] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        tries.append(len(tries))
        if len(tries) == 1:
            raise OSError("no database yet")
        yield

    with serving(a_service(lifespan=lifespan)) as app:
        with pytest.raises(OSError, match="no database yet"):
            Answer(app, path="/orders/tea")
        assert Answer(app, path="/orders/tea").status == 200


def test_a_start_without_a_sidecar_says_so_and_a_request_is_answered_all_the_same() -> None:
    service = a_service()

    @service.on("payments.settled@1")
    async def settled(event: dict[str, str]) -> None:
        """Never given one."""

    with serving(service) as app:
        with pytest.raises(Problem, match="no sidecar answers"):
            app.start("/mesh")
        assert Answer(app, path="/orders/tea").status == 200


PROGRAM = """
import os, sys, threading
from contextlib import asynccontextmanager
from wsgiref.util import setup_testing_defaults
from meshq import Service

def say(words):
    os.write(1, f"{words}\\n".encode())

@asynccontextmanager
async def lifespan():
    say("begins")
    yield
    say("ends")

service = Service("orders", lifespan=lifespan)

@service.get("/stuck")
async def stuck():
    import asyncio
    begun.set()
    await asyncio.Event().wait()

@service.get("/")
def root():
    return "answered"

app, begun = service.wsgi(), threading.Event()

def ask(path):
    environ = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    return b"".join(app(environ, lambda *_: None)).decode()

def forked():
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        return
    say(ask("/"))
    sys.exit()

"""


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("say(ask('/'))", ["begins", "answered", "ends"]),
        (
            "threading.Thread(target=ask, args=('/stuck',), daemon=True).start()\nassert begun.wait(30)",
            ["begins", "ends"],
        ),
        ("app.start()\nforked()\nforked()", ["begins", "answered", "ends"] * 2),
        ("app.start()", []),
    ],
    ids=["after a request", "in the middle of one", "forked", "without one"],
)
def test_the_process_ends_when_its_main_thread_does(rest: str, said: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PROGRAM + rest],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, said), done.stderr
    # asyncio's debug mode says besides what took long, on a machine with too much to do.
    assert [line for line in done.stderr.splitlines() if not line.startswith("Executing <")] == []
