"""What a function takes and gives, and what becomes of a request that it handles; without a sidecar."""

import asyncio
import json
import logging
import threading
from typing import Annotated, Any, Literal

import msgpack
import pytest
from pydantic import BaseModel

from meshq import Context, Problem, Reply, Service
from meshq.core.http import Headers, HttpRequest, HttpResponse, header
from meshq.sdk.handlers import read
from meshq.sdk.operation import Operation, Template, parse
from meshq.sdk.upgrades import chain


class Order(BaseModel):
    id: str


def asked(service: Service, method: str, target: str, body: Any = None, *fields: tuple[bytes, bytes]) -> HttpResponse:
    given: Headers = list(fields)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        given.append((b"Content-Type", b"application/json"))
    return asyncio.run(service.respond(HttpRequest(method.encode(), target.encode(), given, body)))


def said(response: HttpResponse) -> Any:
    return json.loads(response.body)


# --- operations and paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        ("POST /create", Operation("POST", "/create")),
        ("/orders?a=%20b", Operation("GET", "/orders?a=%20b")),
        ("patch   /a", Operation("PATCH", "/a")),
    ],
)
def test_operations(text: str, operation: Operation) -> None:
    assert parse(text) == operation


@pytest.mark.parametrize(
    "text", ["", "POST", "POST create", "POST /a b", "/ü", "/a#b", "POST /a\n", "PO ST /a", "P-T /a"]
)
def test_what_is_no_operation(text: str) -> None:
    with pytest.raises(ValueError, match="is not a method and a path"):
        parse(text)


@pytest.mark.parametrize(
    ("template", "path", "places"),
    [
        ("/orders/{id}", "/orders/7", {"id": "7"}),
        ("/orders/{id}", "/orders/7/8", None),
        ("/orders/{id}", "/orders/", None),
        ("/files/{name:path}", "/files/a/b", {"name": "a/b"}),
        ("/a.b/{x}-{y}", "/a.b/1-2", {"x": "1", "y": "2"}),
        ("/a.b/{x}", "/acb/1", None),
        ("/grün/{x}", "/gr%C3%BCn/1", {"x": "1"}),
    ],
)
def test_templates(template: str, path: str, places: dict[str, str] | None) -> None:
    assert Template(template).match(path) == places


@pytest.mark.parametrize("text", ["orders", "/{id}/{id}", "/{}", "/{id", "/{a b}", "/{id:int}"])
def test_what_is_no_template(text: str) -> None:
    with pytest.raises(ValueError, match="the path"):
        Template(text)


# --- signatures ---------------------------------------------------------------------------------------------------------------


def test_what_a_signature_says() -> None:
    def function(
        id: int, order: Order, ctx: Context, limit: Annotated[int, "most"] = 3, kind: Literal["a", "b"] | None = None
    ) -> list[Order]:
        """Doc."""
        raise AssertionError

    handler = read(function, Template("/orders/{id}"))
    assert [each.name for each in handler.path] == ["id"]
    assert [(each.name, each.required) for each in handler.query] == [("limit", False), ("kind", False)]
    assert (handler.body, handler.body_name, handler.body_required) == (Order, "order", True)
    assert (handler.context_name, handler.returns, handler.is_async, handler.doc) == ("ctx", list[Order], False, "Doc.")


def two_bodies(a: Order, b: dict) -> None: ...  # type: ignore[type-arg]
def without_the_place(other: int) -> None: ...
def with_rest(*rest: int) -> None: ...
def positional(id: int, /) -> None: ...
def of_unknown(id: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (two_bodies, "a, b cannot all be the body"),
        (without_the_place, r"the path /\{id\} has \{id\}, which the function does not take"),
        (with_rest, r"\*rest: int has no place in a request"),
        (positional, "id: int has no place in a request"),
        (of_unknown, "'Nowhere' is not defined"),
    ],
)
def test_what_a_handler_cannot_be(function: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        read(function, Template("/{id}"))


class Callable:
    async def __call__(self, order: Order) -> str:
        return order.id


# --- dispatch -----------------------------------------------------------------------------------------------------------------


def test_a_request_finds_its_handler() -> None:
    service = Service("orders")

    @service.get("/orders/last")
    async def last() -> str:
        return "last"

    @service.get("/orders/{id}")
    async def one(id: str) -> str:
        return id

    @service.route("delete", "/orders/{id}")
    async def gone(id: str) -> None: ...

    service.post("/orders")(Callable())

    assert asked(service, "GET", "/orders/last").body == b"last"
    assert asked(service, "GET", "/orders/a%2Fb?x=1").body == b"a/b"
    assert asked(service, "DELETE", "/orders/7").status == 204
    assert asked(service, "POST", "/orders", {"id": "made"}).body == b"made"
    head = asked(service, "HEAD", "/orders/last")
    assert (head.status, head.body, header(head.headers, b"content-length")) == (200, b"", b"4")
    missing, wrong = asked(service, "GET", "/nowhere"), asked(service, "PUT", "/orders/7")
    assert (missing.status, said(missing)["code"]) == (404, "not-found")
    assert (wrong.status, said(wrong)["detail"]) == (405, "/orders/7 takes DELETE, GET, not PUT")
    with pytest.raises(ValueError, match="GET /orders/last is handled already"):
        service.get("/orders/last")(last)


def test_answers() -> None:
    service = Service("orders")
    answers: dict[str, Any] = {
        "text": "ü", "bytes": b"\xff", "none": None, "empty": "", "zero": 0, "model": Order(id="a"),
        "created": Reply({"a": 1}, 201, {"X-A": "ü"}), "gone": Reply("unseen", 204), "typed": Reply(b"a", content_type="image/png"),
        "broken": object(), "header": Reply(None, 200, {"X A": "b"}), "large": Reply({"a": 1}, 200, {"X-A": "a\nb"}),
    }  # fmt: skip

    @service.get("/{name}")
    async def answer(name: str) -> Any:
        return answers[name]

    def of(name: str, *fields: tuple[bytes, bytes]) -> tuple[int, bytes | None, bytes]:
        found = asked(service, "GET", f"/{name}", None, *fields)
        return found.status, header(found.headers, b"content-type"), found.body

    assert of("text") == (200, b"text/plain; charset=utf-8", "ü".encode())
    assert of("bytes") == (200, b"application/octet-stream", b"\xff")
    assert of("none") == (204, None, b"")
    assert of("empty") == (200, b"text/plain; charset=utf-8", b"")
    assert of("zero") == (200, b"application/json", b"0")
    assert of("model") == (200, b"application/json", b'{"id":"a"}')
    assert of("created") == (201, b"application/json", b'{"a":1}')
    assert of("gone")[::2] == (204, b"")
    assert of("typed") == (200, b"image/png", b"a")
    status, content_type, body = of("model", (b"Accept", b"application/msgpack, */*"))
    assert (status, content_type, msgpack.unpackb(body)) == (200, b"application/msgpack", {"id": "a"})
    for name in ("broken", "header", "large"):
        assert of(name)[0] == 500
    with pytest.raises(ValueError, match="99 is not the status of an answer"):
        Reply(status=99)


def test_what_handlers_raise(caplog: pytest.LogCaptureFixture) -> None:
    service = Service("orders")

    @service.post("/{how}")
    def raise_it(how: str, ctx: Context) -> None:
        match how:
            case "problem":
                raise Problem("sold-out", "no tea", status=409, fields={"left": 0, "status": "hidden", "at": object()})
            case "retry":
                ctx.retry(2.5, "later")
            case "reject":
                ctx.reject("wrong")
        raise KeyError(how)

    problem = asked(service, "POST", "/problem")
    assert problem.status == 409
    assert said(problem) | {"at": ""} == {
        "type": "https://meshq.io/problems/sold-out", "title": "Sold out", "status": 409, "detail": "no tea", "code": "sold-out",
        "retryable": False, "left": 0, "at": "",
    }  # fmt: skip
    later = asked(service, "POST", "/retry")
    assert (later.status, header(later.headers, b"retry-after"), said(later)["retryable"]) == (503, b"3", True)
    rejected = asked(service, "POST", "/reject")
    assert (rejected.status, said(rejected)["code"], said(rejected)["detail"]) == (422, "rejected", "wrong")
    with caplog.at_level(logging.ERROR):
        failed = asked(service, "POST", "/other")
    assert (failed.status, said(failed)["code"]) == (500, "handler-failed")
    assert "KeyError" in caplog.text  # to the log, and not to the caller
    assert b"KeyError" not in failed.body


def test_handlers_that_block_have_threads_of_their_own() -> None:
    service, together = Service("orders"), threading.Barrier(3)

    @service.get("/")
    def wait() -> str:
        together.wait(10)  # none gets past before all are there
        return threading.current_thread().name

    async def scene() -> set[bytes]:
        answers = await asyncio.gather(*(service.respond(HttpRequest(b"GET", b"/", [], None)) for _ in range(3)))
        return {each.body for each in answers}

    assert len(asyncio.run(scene())) == 3


# --- events -------------------------------------------------------------------------------------------------------------------


class V1(BaseModel):
    cents: int


class V3(BaseModel):
    amount: float


def test_events_and_their_older_majors() -> None:
    service, seen = Service("orders"), list[Any]()

    @service.on("payments.settled@3", mode="ordered", filter={"ce-type": "x"})
    async def on_settled_(event: V3, ctx: Context) -> None:
        seen.append((event, ctx.event.type if ctx.event else None))

    @service.upgrade("payments.settled", 1, 2)
    def first(old: V1) -> dict[str, float]:
        return {"amount": old.cents / 100}

    @service.upgrade("payments.settled", 2, 3)
    def second(old: dict[str, float], ctx: Context) -> V3:
        return V3(**old)

    service.on("parcels.*", name="all", start="first", mode="replay")(on_settled_)
    common = {"mode": "ordered", "filter": {"ce-type": "x"}}
    assert service.subscriptions("/mesh") == {
        "on-settled": {"event": "payments.settled@3", "path": "/mesh/.meshq/on/on-settled", **common},
        "on-settled-v1": {"event": "payments.settled@1", "path": "/mesh/.meshq/on/on-settled-v1", **common},
        "on-settled-v2": {"event": "payments.settled@2", "path": "/mesh/.meshq/on/on-settled-v2", **common},
        "all": {"events": "parcels.*@1", "path": "/mesh/.meshq/on/all", "mode": "replay", "from": "first"},
    }
    assert asked(service, "POST", "/.meshq/on/on-settled-v1", {"cents": 150}, (b"ce-type", b"p")).status == 204
    assert asked(service, "POST", "/.meshq/on/on-settled-v2", {"amount": 2.5}).status == 204
    assert asked(service, "POST", "/.meshq/on/on-settled", {"amount": 3.5}).status == 204
    assert seen == [(V3(amount=1.5), "p"), (V3(amount=2.5), None), (V3(amount=3.5), None)]
    assert asked(service, "POST", "/.meshq/on/on-settled-v1", {"cents": "many"}).status == 422
    assert len(seen) == 3


def test_the_shortest_way_of_upgrades() -> None:
    service = Service("orders")
    for old, new in [(1, 2), (2, 3), (1, 3), (3, 4), (2, 9)]:
        service.upgrade("a.b", old, new)(lambda event: event)
    steps = [(step.old, step.new) for step in chain(service.upgrades, "a.b", 1, 4)]
    assert steps == [(1, 3), (3, 4)]
    assert chain(service.upgrades, "a.b", 1, 5) == ()
    assert chain(service.upgrades, "a.c", 1, 4) == ()


def test_what_cannot_be_subscribed_or_upgraded() -> None:
    service = Service("orders")

    async def handler(event: dict[str, Any]) -> None: ...

    service.on("a.b")(handler)
    with pytest.raises(ValueError, match="there is a subscription 'handler' already"):
        service.on("a.c")(handler)
    with pytest.raises(ValueError, match="Mode"):
        service.on("a.b", mode="sometimes")
    with pytest.raises(ValueError, match="A b"):
        service.on("A b")
    with pytest.raises(ValueError, match="a pattern has a major version"):
        service.on("a.*@x")
    with pytest.raises(ValueError, match="from a lower major to a higher one"):
        service.upgrade("a.b", 2, 2)
    with pytest.raises(TypeError, match="no async"):
        service.upgrade("a.b", 1, 2)(handler)
    for name, version in (("Bad name", "1.0.0"), ("orders", "one")):
        with pytest.raises(ValueError, match=r"Bad name|one"):
            Service(name, version=version)
