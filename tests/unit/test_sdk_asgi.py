"""A service as an ASGI application: requests and answers, where it is mounted, hanging up, and its lifespan. The other side of the
protocol is played here; a real server plays it in tests/e2e/test_sdk_mounted.py."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from meshq import Context, Mesh, Reply, Service
from meshq.core.http import Headers
from meshq.sdk.bodies import MAX_BODY

Message = MutableMapping[str, Any]
DEADLINE_SECONDS = 10
GONE: Message = {"type": "http.disconnect"}


def a_service(**more: Any) -> Service:
    # Where nobody listens: a subscription fails at once.
    service = Service("orders", mesh=Mesh("http://127.0.0.1:1", health_timeout=0.01), **more)

    @service.get("/orders/{name}")
    async def find(name: str, ctx: Context, limit: int = 7) -> dict[str, object]:
        return {"name": name, "limit": limit, "id": ctx.message_id, "target": ctx.request.target.decode()}

    @service.post("/length")
    async def length(body: bytes, ctx: Context) -> Reply:
        return Reply(f"{len(body)} {ctx.request.body is None}", status=201, headers={"X-Seen": "yes"})

    @service.delete("/orders/{name}")
    async def drop(name: str) -> None:
        return None

    return service


def scope(method: str, path: str, headers: Headers | None = None, **more: Any) -> Message:
    path, _, query = path.partition("?")
    given = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers or []}
    return {**given, **more}


class Caller:
    """What a server does for one connection. `gone` is set when the other end hangs up."""

    def __init__(self, *messages: Message) -> None:
        self.gone = asyncio.Event()
        self.sent: list[Message] = []
        self._messages = list(messages)

    async def receive(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        await self.gone.wait()
        return GONE

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        start, body = self.sent
        assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
        return start["status"], dict(start["headers"]), body["body"]


def asked(app: Any, given: Message, *messages: Message) -> tuple[int, dict[bytes, bytes], bytes]:
    async def ask() -> tuple[int, dict[bytes, bytes], bytes]:
        caller = Caller(*(messages or [{"type": "http.request"}]))
        async with asyncio.timeout(DEADLINE_SECONDS):
            await app(given, caller.receive, caller.send)
        return caller.answer

    return asyncio.run(ask())


def test_a_request_is_answered() -> None:
    status, headers, body = asked(
        a_service().asgi(), scope("GET", "/orders/tea?limit=3", [(b"meshq-message-id", b"7f")])
    )
    assert status == 200
    assert body == b'{"name":"tea","limit":3,"id":"7f","target":"/orders/tea?limit=3"}'
    assert headers == {b"content-type": b"application/json", b"content-length": b"%d" % len(body)}


def test_an_answer_without_a_body_has_no_length() -> None:
    assert asked(a_service().asgi(), scope("DELETE", "/orders/tea")) == (204, {}, b"")


def test_a_head_has_the_length_of_what_a_get_had() -> None:
    _, get, _ = asked(a_service().asgi(), scope("GET", "/orders/tea"))
    status, head, body = asked(a_service().asgi(), scope("HEAD", "/orders/tea"))
    assert (status, body) == (200, b"")
    assert head == get


@pytest.mark.parametrize(
    ("path", "root", "raw", "target"),
    [
        ("/mesh/orders/tea", "/mesh", b"/mesh/orders/tea", "/orders/tea"),
        ("/a/b/orders/tea", "/a/b/", b"/%61/b/orders/tea", "/orders/tea"),
        ("/mesh/orders/a/b", "/mesh", b"/mesh/orders/a%2Fb", "/orders/a%2Fb"),
        ("/orders/ä b", "", None, "/orders/%C3%A4%20b"),
        ("/orders/tea", "/mesh", b"/orders/tea", "/orders/tea"),
        ("/meshes/orders", "/mesh", b"/meshes/orders", None),
    ],
)
def test_what_stands_before_the_mount_is_not_the_handlers(
    path: str, root: str, raw: bytes | None, target: str | None
) -> None:
    status, _, body = asked(a_service().asgi(), scope("GET", path, root_path=root, raw_path=raw))
    assert status == (200 if target else 404)
    assert target is None or f'"target":"{target}"'.encode() in body


def test_it_is_mounted_in_fastapi() -> None:
    app = FastAPI()
    app.mount("/mesh", a_service().asgi())
    status, _, body = asked(app, scope("GET", "/mesh/orders/tea", raw_path=b"/mesh/orders/tea", root_path=""))
    assert (status, b'"target":"/orders/tea"' in body) == (200, True)
    assert asked(app, scope("GET", "/orders/tea", root_path=""))[0] == 404


@pytest.mark.parametrize(
    ("headers", "chunks", "said"),
    [
        ([(b"content-length", b"5")], [b"he", b"", b"llo"], b"5 False"),
        ([(b"content-length", b"0")], [b""], b"0 False"),
        ([(b"transfer-encoding", b"chunked")], [b"x" * MAX_BODY], b"%d False" % MAX_BODY),
        ([], [b""], b"0 True"),
        ([], [b"over HTTP/2"], b"11 False"),
    ],
)
def test_a_body_comes_in_pieces(headers: Headers, chunks: list[bytes], said: bytes) -> None:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    status, fields, body = asked(
        a_service().asgi(), scope("POST", "/length", headers), *messages, {"type": "http.request"}
    )
    assert (status, body, fields[b"x-seen"]) == (201, said, b"yes")


def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    half = {"type": "http.request", "body": bytes(MAX_BODY // 2 + 1), "more_body": True}
    status, headers, body = asked(a_service().asgi(), scope("POST", "/length"), half, half)
    assert (status, headers[b"content-type"]) == (413, b"application/problem+json")
    assert b'"code": "too-large"' in body


def test_a_caller_that_hangs_up_in_its_body_asked_nothing() -> None:
    async def hang_up() -> list[Message]:
        caller = Caller({"type": "http.request", "body": b"he", "more_body": True}, GONE)
        await a_service().asgi()(scope("POST", "/length"), caller.receive, caller.send)
        return caller.sent

    assert asyncio.run(hang_up()) == []


def test_a_handler_whose_caller_hung_up_is_cancelled_and_has_let_go() -> None:
    service, ends = Service("orders"), []

    async def hang_up() -> list[Message]:
        begun = asyncio.Event()

        @service.get("/slow")
        async def slow() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        caller = Caller({"type": "http.request"})
        async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
            asking = group.create_task(service.asgi()(scope("GET", "/slow"), caller.receive, caller.send))
            await begun.wait()
            caller.gone.set()
            await asking
        return caller.sent

    assert asyncio.run(hang_up()) == []
    assert ends == ["cancelled"]


# --- lifespan ---------------------------------------------------------------------------------------------------------------


def lived(service: Service) -> list[Message]:
    async def live() -> list[Message]:
        caller = Caller({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
        async with asyncio.timeout(DEADLINE_SECONDS):
            await service.asgi()({"type": "lifespan"}, caller.receive, caller.send)
        return caller.sent

    return asyncio.run(live())


def test_the_lifespan_is_the_services() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        steps.append("begins")
        yield
        steps.append("ends")

    assert [each["type"] for each in lived(a_service(lifespan=lifespan))] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert steps == ["begins", "ends"]


def test_a_subscription_that_cannot_be_made_fails_the_start_and_the_lifespan_ends() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
        finally:
            steps.append("ends")

    service = a_service(lifespan=lifespan)

    @service.on("payments.settled@1")
    async def settled(event: dict[str, str]) -> None:
        """Never given one."""

    (failed,) = lived(service)
    assert failed["type"] == "lifespan.startup.failed"
    assert "no sidecar answers at http://127.0.0.1:1" in failed["message"]
    assert steps == ["ends"]


def test_an_end_that_fails_is_said() -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        raise OSError("the disk is full")

    begun, failed = lived(a_service(lifespan=lifespan))
    assert begun["type"] == "lifespan.startup.complete"
    assert failed == {"type": "lifespan.shutdown.failed", "message": "the disk is full"}


def test_what_is_not_http_is_refused_as_asgi_wants_it() -> None:
    with pytest.raises(ValueError, match="no websocket"):
        asked(a_service().asgi(), {"type": "websocket"})
