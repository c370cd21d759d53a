"""A request on its way out: where it goes, what of it crosses, how long its caller waits."""

import pytest

from meshq.core.callreq import Call, Durable, read_call, split_path
from meshq.core.errors import Code, Refused
from meshq.core.fields import DEFAULT_TIMEOUT_MS, MAX_CALLBACK
from meshq.core.http import Headers, HttpRequest
from meshq.core.selectors import parse_address

ORDERS = parse_address("orders")
TRACE = (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


@pytest.mark.parametrize(
    ("target", "address", "path"),
    [
        (b"/v1/call/orders", "orders", b"/"),
        (b"/v1/call/orders/", "orders", b"/"),
        (b"/v1/call/orders/a/b?c=d", "orders", b"/a/b?c=d"),
        (b"/v1/call/orders?c=/d", "orders", b"/?c=/d"),
        (b"/v1/call/orders@2/a", "orders@2", b"/a"),
        (b"/v1/call/orders@^2.1/a", "orders@^2.1", b"/a"),
        (b"/v1/call/orders%40%5E2.1/a", "orders@^2.1", b"/a"),
        (b"/v1/call/orders@%3E=2.1,%3C3/a", "orders@>=2.1,<3", b"/a"),
        (b"/v1/call/orders@latest/a", "orders@latest", b"/a"),
        (b"/v1/call/orders//a//../%2e%2E/./b%2Fc", "orders", b"//a//../%2e%2E/./b%2Fc"),
        (b"/v1/call/orders/\xc3\xa9?%zz&a=b;c", "orders", b"/\xc3\xa9?%zz&a=b;c"),
        (b"/v1/call/orders/v1/call/billing/", "orders", b"/v1/call/billing/"),
    ],
)
def test_the_path_way(target: bytes, address: str, path: bytes) -> None:
    assert split_path(target) == (parse_address(address), path)


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/call/", b"/v1/call//a", b"/v1/call/?a", b"/v1/call/Orders/a", b"/v1/call/orders@/a", b"/v1/call/orders@x/a",
        b"/v1/call/reply/a", b"/v1/call/%C3%A9/a", b"/v1/call/\xc3\xa9/a", b"/v1/call/orders%2Fa", b"/v1/call/orders%00/a",
        b"/v1/call/orders%zz/a",
    ],
)  # fmt: skip
def test_an_address_in_the_path_that_is_none(target: bytes) -> None:
    with pytest.raises(Refused) as refused:
        split_path(target)
    assert refused.value.problem.code is Code.BAD_ADDRESS


def read(*headers: tuple[bytes, bytes], address: str = "orders", host: bytes | None = None) -> Call:
    request = HttpRequest(b"POST", b"/ignored", [*headers], b"body")
    return read_call(request, parse_address(address), b"/path", host)


def test_what_a_call_is() -> None:
    call = read((b"Host", b"orders.mesh"), TRACE, (b"X", b"1"), (b"Connection", b"close"))
    assert call == Call(
        ORDERS,
        "POST",
        b"/path",
        [(b"Host", b"orders.mesh"), TRACE, (b"X", b"1")],
        b"body",
        None,
        None,
        False,
    )
    assert DEFAULT_TIMEOUT_MS == 30_000


def test_by_the_path_way_the_host_is_the_services() -> None:
    call = read((b"X", b"1"), (b"host", b"localhost:3600"), TRACE, host=b"orders.mesh")
    assert call.headers == [(b"Host", b"orders.mesh"), (b"X", b"1"), TRACE]


@pytest.mark.parametrize(
    ("value", "ms"), [(b"250ms", 250), (b"2s", 2000), (b"1m", 60_000), (b"1.5s", 1500), (b"24h", 86_400_000)]
)
def test_how_long_the_caller_waits(value: bytes, ms: int) -> None:
    assert read((b"Meshq-Timeout", value)).timeout_ms == ms


def test_a_deadline_is_the_callers_own() -> None:
    assert read((b"meshq-deadline", b"1700000000000")).deadline_ms == 1_700_000_000_000


@pytest.mark.parametrize(
    ("value", "address"), [(b"2", "orders@2"), (b"^2.1", "orders@^2.1"), (b"latest", "orders@latest")]
)
def test_a_version_overrules_the_addresss_own(value: bytes, address: str) -> None:
    assert read((b"Meshq-Version", value), address="orders@1").address == parse_address(address)


BAD: list[tuple[bytes, list[bytes]]] = [
    (b"Meshq-Version", [b"", b"x", b"1.x", b"\xff"]),
    (b"Meshq-Timeout", [b"", b"5", b"-1s", b"0s", b"0.0001s", b"25h", b"1e3s", b"\xff", b"999999999999d"]),
    (b"Meshq-Deadline", [b"", b"soon", b"-1", b"1.5", b"1" * 16, b"\xb2", b"+1"]),
    (b"Meshq-Key", [b"", b"k" * 201, b"\xff", b"a\tb", b"a\x7f", "a\u200b".encode()]),
    (b"Meshq-Priority", [b"", b"High", b"9", b"urgent", b"\xff"]),
    (b"Meshq-Delay", [b"5s"]),
    (b"Meshq-Callback", [b"/done"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_a_bad_header_is_named(name: bytes, value: bytes) -> None:
    with pytest.raises(Refused, match=name.decode()) as refused:
        read((name, value))
    assert refused.value.problem.code is Code.BAD_HEADER


@pytest.mark.parametrize("key", ["customer-7", "k" * 200, "Größe 7", "é" * 200])
def test_an_ordering_key(key: str) -> None:
    assert read((b"Meshq-Key", key.encode())).key == key


@pytest.mark.parametrize(("value", "priority"), [(b"low", 1), (b"normal", 4), (b"high", 8)])
def test_a_priority(value: bytes, priority: int) -> None:
    assert read((b"Meshq-Priority", value)).priority == priority


ASYNC = (b"Prefer", b"respond-async")


def test_a_durable_call() -> None:
    assert read(ASYNC).durable == Durable()
    assert read((b"prefer", b"Respond-Async; x=y, wait=10")).durable == Durable(wait=10)
    assert read((b"Prefer", b"wait=10"), ASYNC).durable == Durable(wait=10), "several fields are one"
    everything = read(ASYNC, (b"Meshq-Delay", b"2s"), (b"Meshq-Callback", b"/done?a=b"), (b"Meshq-Key", b"k"))
    assert (everything.durable, everything.key) == (Durable(2, b"/done?a=b"), "k")


@pytest.mark.parametrize("value", [b"", b"wait=10", b"return=minimal", b"respond-asynchronously", b'"respond-async"'])
def test_other_wishes_make_no_durable_call(value: bytes) -> None:
    assert read((b"Prefer", value)).durable is None


def test_wishes_go_on_to_the_app() -> None:
    wishes = [ASYNC, (b"Prefer", b"return=minimal"), TRACE]
    assert read(*wishes).headers == wishes
    assert read((b"Connection", b"prefer"), *wishes).durable == Durable()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"0s", 0), (b"1ms", 1), (b"250ms", 1), (b"1s", 1), (b"1.001s", 2), (b"1m", 60), (b"12d", 1_036_800)],
)
def test_a_delay_is_in_whole_seconds_and_never_shorter(value: bytes, seconds: int) -> None:
    assert read(ASYNC, (b"Meshq-Delay", value)).durable == Durable(delay=seconds)


BAD_DURABLE: list[tuple[bytes, list[bytes]]] = [
    (b"Meshq-Delay", [b"", b"5", b"-1s", b"13d", b"289h", b"soon", b"\xff"]),
    (b"Meshq-Callback", [b"", b"done", b"http://x/", b"/a b", b"/a\tb", b"/\xc3\xa9", b"/" + b"a" * MAX_CALLBACK]),
    (b"Meshq-Timeout", [b"5"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_DURABLE for value in values])
def test_a_bad_header_of_a_durable_call_is_named(name: bytes, value: bytes) -> None:
    with pytest.raises(Refused, match=name.decode()) as refused:
        read(ASYNC, (name, value))
    assert refused.value.problem.code is Code.BAD_HEADER


def test_a_trace_goes_on_or_begins() -> None:
    state = (b"Tracestate", b"a=b")
    kept = read(TRACE, state)
    assert (kept.headers, kept.needs_trace) == ([TRACE, state], False)
    begun = read()
    assert (begun.headers, begun.needs_trace) == ([], True)
    broken: Headers = [(b"TraceParent", b"00-xyz"), state, (b"X", b"1")]
    replaced = read(*broken)
    assert (replaced.headers, replaced.needs_trace) == ([(b"X", b"1")], True)
