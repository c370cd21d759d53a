"""The SDK's values: problems, contexts, retries, where the sidecar is, what is sent; without a sidecar."""

import asyncio
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq import Context, Mesh, Problem, Retry, ServiceView, VersionView, retrying
from meshq.core.errors import TABLE, Code
from meshq.core.errors import Problem as MeshProblem
from meshq.core.http import HttpRequest, HttpResponse
from meshq.sdk import reach
from meshq.sdk.context import within
from meshq.sdk.events import batches, fates
from meshq.sdk.outgoing import checked, duration, field, segment
from meshq.sdk.problem import of_response

# --- problems -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", list(Code))
def test_the_meshs_own_answers_are_what_they_say(code: Code) -> None:
    found = of_response(MeshProblem(code, "why").as_response())
    assert found is not None
    assert (found.code, found.status, found.retryable) == (code.value, TABLE[code].status, TABLE[code].retryable)
    assert (found.detail, found.by_mesh, found.fields) == ("why", True, {})
    assert Problem(code.value).status == found.status


@given(
    st.text(min_size=1, max_size=20),
    st.text(max_size=50),
    st.integers(400, 599),
    st.booleans() | st.none(),
    st.integers(0, 10**6) | st.none(),
    st.dictionaries(st.sampled_from(["left", "errors", "x"]), st.integers() | st.text() | st.none()),
)
def test_a_problem_comes_back_from_its_answer(
    code: str, detail: str, status: int, retryable: bool | None, retry_after: int | None, fields: dict[str, Any]
) -> None:
    problem = Problem(code, detail, status=status, retryable=retryable, retry_after=retry_after, fields=fields)
    for found in (of_response(problem.as_response()), pickle.loads(pickle.dumps(problem))):
        assert vars(found) == vars(problem) | ({} if detail or found.detail == detail else {"detail": found.detail})


@pytest.mark.parametrize(
    ("response", "code", "detail", "retryable"),
    [
        (HttpResponse(500, [], b"<html>oops"), "app-error", "<html>oops", True),
        (HttpResponse(404, [(b"Content-Type", b"application/json")], b"[1]"), "app-error", "[1]", False),
        (HttpResponse(429, [(b"Content-Type", b"application/json")], b"{"), "app-error", "{", True),
        (HttpResponse(409, [(b"Content-Type", b"application/json")], b'{"code": 7}'), "7", '{"code": 7}', False),
        (HttpResponse(799, [], b""), "app-error", "", False),
    ],
)
def test_what_is_no_problem_document(response: HttpResponse, code: str, detail: str, retryable: bool) -> None:
    found = of_response(response)
    assert found is not None
    assert (found.code, found.detail, found.retryable, found.by_mesh) == (code, detail, retryable, False)


def test_no_problem() -> None:
    assert of_response(HttpResponse(399, [], b"")) is None
    for more in ({"status": 200}, {"status": 1000}, {"retry_after": -1}, {"retry_after": float("nan")}):
        with pytest.raises(ValueError, match=r"is not"):
            Problem("a", **more)  # type: ignore[arg-type]
    strange = Problem("a", fields={"b": {(1, 2): object()}, "c": "\ud800"})
    assert json.loads(strange.as_response().body)["c"] == "\ud800"


# --- contexts -----------------------------------------------------------------------------------------------------------------

MESSAGE = [
    (b"Meshq-Message-Id", b"7f"), (b"Idempotency-Key", b"7f"), (b"Meshq-Attempt", b"2"), (b"Meshq-Caller", b"checkout"),
    (b"Meshq-Topic", b"orders.v2"), (b"Meshq-Key", "ü".encode()), (b"X-Old", b"\xfc"),
    (b"traceparent", b"00-1-2-01"), (b"tracestate", b"a=1"), (b"baggage", b"b=2"),
]  # fmt: skip
DEADLINE = (b"Meshq-Deadline", b"1800000000123")


def context(*more: tuple[bytes, bytes], target: bytes = b"/pay") -> Context:
    return Context(HttpRequest(b"POST", target, [*MESSAGE, *more], b""), None)


def test_what_a_context_says() -> None:
    ctx = context(DEADLINE)
    assert (ctx.message_id, ctx.attempt, ctx.caller, ctx.caller_claimed, ctx.topic) == (
        "7f",
        2,
        "checkout",
        "checkout",
        "orders.v2",
    )
    assert (ctx.key, ctx.headers["x-old"], ctx.deadline, ctx.event) == ("ü", "ü", 1_800_000_000.123, None)
    assert ctx.time_left is not None
    with pytest.raises(RuntimeError, match="outside a mesh"):
        _ = ctx.mesh
    outside = Context(HttpRequest(b"GET", b"/", [(b"Meshq-Caller-Claimed", b"shop")], None), None)
    assert (outside.message_id, outside.attempt, outside.caller, outside.caller_claimed) == ("", 1, "", "shop")
    assert (outside.deadline, outside.time_left, outside.repeated) == (None, None, False)
    event = context(
        (b"ce-type", b"a.b"),
        (b"ce-id", b"1"),
        (b"ce-source", b"/x"),
        (b"ce-time", b"t"),
        (b"ce-subject", b"gr%C3%BCn%20"),
    )
    assert event.event == ("a.b", "1", "/x", "t", "grün ")


def test_what_calls_inherit() -> None:
    trace = [(b"traceparent", b"00-1-2-01"), (b"tracestate", b"a=1"), (b"baggage", b"b=2")]
    assert context(DEADLINE).inherited(waited=True) == [*trace, DEADLINE]
    assert context(DEADLINE).inherited(waited=False) == trace
    assert context().repeated  # durable
    assert not context(DEADLINE).repeated
    assert context(DEADLINE, (b"Idempotency-Key", b"own")).repeated


def test_keys_of_calls_are_the_same_the_next_time_and_otherwise_not() -> None:
    def keys(ctx: Context) -> list[str]:
        return [
            ctx.nested_key("POST /a", b"1"),
            ctx.nested_key("POST /a", b"1"),
            ctx.nested_key("POST /a", b"2"),
            ctx.nested_key("POST /b", b"1"),
        ]

    assert keys(context()) == keys(context())
    assert len({*keys(context()), *keys(context(target=b"/other")), *keys(context((b"Idempotency-Key", b"own")))}) == 12


def test_a_retried_call_keeps_its_key() -> None:
    """So that what was done by the attempt whose answer was lost is not done again."""
    asked: list[HttpRequest] = []

    class Transport:
        way = None

        async def open(self, within: float) -> None: ...

        async def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
            asked.append(request)
            return HttpResponse(503 if len(asked) < 3 else 204, [], b"")

    async def scene() -> None:
        mesh = Mesh()
        mesh._transports[asyncio.get_running_loop()] = Transport()  # type: ignore[assignment]
        with within(context()):
            await mesh.call("orders", "POST /a", {"n": 1}, retry=Retry(first=0.001), timeout=5)
            await mesh.call("orders", "PUT /a", {"n": 1})

    asyncio.run(scene())
    keys = [dict(request.headers).get(b"Idempotency-Key") for request in asked]
    assert keys[0] is not None
    assert keys == [keys[0], keys[0], keys[0], None]
    timeouts = [int(dict(request.headers)[b"Meshq-Timeout"][:-2]) for request in asked[:3]]
    assert 5000 >= timeouts[0] >= timeouts[1] >= timeouts[2] > 4000


# --- retries ------------------------------------------------------------------------------------------------------------------


def test_pauses() -> None:
    retry, problem = Retry(attempts=10, first=0.1, most=1.0), Problem("overloaded")
    assert [retry.pause(attempt, problem, None, lambda: 1.0) for attempt in range(1, 7)] == [
        0.1,
        0.2,
        0.4,
        0.8,
        1.0,
        1.0,
    ]
    assert retry.pause(10, problem, None, lambda: 1.0) is None
    assert retry.pause(1, Problem("overloaded", retry_after=2), 3.0, lambda: 0.5) == 2.05
    assert retry.pause(1, Problem("overloaded", retry_after=2), 2.0, lambda: 0.5) is None
    assert retry.pause(1, Problem("denied"), None, lambda: 0.5) is None


def test_it_gives_up_with_the_last_problem_and_lets_other_errors_pass() -> None:
    calls: list[int] = []

    async def failing() -> None:
        calls.append(1)
        raise Problem("overloaded", str(len(calls)))

    async def broken() -> None:
        calls.append(1)
        raise KeyError("a")

    with pytest.raises(Problem, match="3"):
        asyncio.run(retrying(failing, Retry(attempts=3, first=0.001)))
    calls.clear()
    with pytest.raises(KeyError):
        asyncio.run(retrying(broken))
    assert len(calls) == 1
    calls.clear()
    with within(context((b"Meshq-Deadline", b"1"))), pytest.raises(Problem):  # nobody waits any more
        asyncio.run(retrying(failing))
    assert len(calls) == 1


# --- where the sidecar is -----------------------------------------------------------------------------------------------------


def test_where_it_is() -> None:
    assert reach.read({}) == reach.Reach("127.0.0.1", 3600, "", 60.0)
    environment = {"MESHQ_URL": "http://[::1]:3700/", "MESHQ_TOKEN": "t", "MESHQ_HEALTH_TIMEOUT": "250ms"}
    found = reach.read(environment)
    assert found == reach.Reach("::1", 3700, "t", 0.25)
    assert found.url == "http://[::1]:3700"
    assert reach.read(environment, "http://localhost", "", 3) == reach.Reach("localhost", 80, "", 3)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"MESHQ_URL": "https://localhost"}, "MESHQ_URL: 'https://localhost' is not like"),
        ({"MESHQ_URL": "localhost:3600"}, "MESHQ_URL"),
        ({"MESHQ_URL": "http://localhost:99999"}, "MESHQ_URL: "),
        ({"MESHQ_URL": "http://localhost/path"}, "MESHQ_URL"),
        ({"MESHQ_HEALTH_TIMEOUT": "soon"}, "MESHQ_HEALTH_TIMEOUT: "),
        ({"MESHQ_HEALTH_TIMEOUT": "0s"}, "MESHQ_HEALTH_TIMEOUT: 0 is not a number of seconds above 0"),
        ({"MESHQ_TOKEN": "a\nb"}, "Meshq-Token: "),
    ],
)
def test_settings_that_are_wrong(environment: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=why):
        Mesh()


# --- what is sent -------------------------------------------------------------------------------------------------------------


@given(st.text())
def test_a_field_is_sent_as_it_is_or_not_at_all(value: str) -> None:
    try:
        name, sent = field("X-A", value)
    except ValueError:
        assert any(
            ord(character) < 32 or ord(character) == 127 or 0xD800 <= ord(character) < 0xE000 for character in value
        )
    else:
        assert (name, sent.decode()) == (b"X-A", value.strip(" \t"))
        assert not set(sent) & {0, 10, 13}


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_an_address_is_one_segment(text: str) -> None:
    assert not set(segment(text)) & set(b"/?# \r\n")


def test_limits() -> None:
    assert duration(0.0015) == b"2ms"
    for wrong in (-1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="is not a number of seconds"):
            duration(wrong)
    with pytest.raises(Problem, match="too-large"):
        checked(HttpRequest(b"POST", b"/", [], bytes(16 * 2**20 + 1)))
    with pytest.raises(ValueError, match="header fields"):
        checked(HttpRequest(b"POST", b"/", [(b"a", bytes(70_000))], None))


def test_batches_are_neither_too_long_nor_too_large() -> None:
    assert [batch.size for batch in batches(range(1001), None, None)] == [500, 500, 1]
    assert [batch.size for batch in batches(["a" * 40, "b" * 40, "c" * 200, "d"], None, None, 300)] == [2, 1, 1]
    assert batches([], None, None) == []
    (batch,) = batches([b"\xff", "ü", {"a": None}, None], lambda item: "k", lambda item: "i")
    assert json.loads(batch.body) == [
        {"specversion": "1.0", "id": "i", "partitionkey": "k", **more}
        for more in (
            {"datacontenttype": "application/octet-stream", "data_base64": "/w=="},
            {"datacontenttype": "text/plain; charset=utf-8", "data_base64": "w7w="},
            {"data": {"a": None}},
            {},
        )
    ]


def test_fates() -> None:
    body = {
        "events": [
            {"id": "1", "status": "accepted"},
            {"id": "2", "status": "accepted", "subscribers": 0},
            {"id": "3", "status": "refused", "code": "overloaded"},
        ]
    }
    found = fates(HttpResponse(202, [], json.dumps(body).encode()))
    assert found is not None
    assert [(fate.id, fate.subscribers, fate.problem and fate.problem.code) for fate in found] == [
        ("1", None, None), ("2", False, None), ("3", None, "overloaded"),
    ]  # fmt: skip
    for other in (b"{", b"[]", b'{"events": [1]}', b'{"events": [{}]}'):
        assert fates(HttpResponse(200, [], other)) is None


def test_who_only_calls_is_not_ready_to_be_called() -> None:
    versions = (
        VersionView("1.0.0", None, 1, 1, (("ready", 1),)),
        VersionView("2.0.0", "orders.v2", 3, 2, (("ready", 2),)),
    )
    assert ServiceView("orders", versions, 7, False).ready == 2
