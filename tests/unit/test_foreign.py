"""A message of another publisher, as a request to the app."""

from typing import Any, NamedTuple

from meshq_sidecar.foreign import MAX_HEADERS, as_request


class Foreign(NamedTuple):
    """`ports.Delivery`, as far as it is looked at."""

    message_id: str = ""
    body: bytes = b"body"
    table: Any = None
    more: dict[str, Any] = {}  # noqa: RUF012 - never changed
    content_type: str = "application/json"
    reply_to: str = ""
    user_id: str = ""
    redelivered: bool = False
    queue: str = "meshq.orders.v2.call"
    live: bool = True

    def properties(self) -> dict[str, Any]:
        table = {} if self.table is None else {"headers": self.table}
        return {"content_type": self.content_type} | self.more | table

    def ack(self) -> None: ...
    def requeue(self) -> None: ...


def test_the_body_is_posted_as_it_is() -> None:
    request = as_request(Foreign(body=b"\x00\xff"))
    assert (request.method, request.target, request.body, request.caller) == ("POST", b"/", b"\x00\xff", "")
    assert request.headers == [(b"Host", b"localhost"), (b"Content-Type", b"application/json")]


def test_properties_become_headers() -> None:
    request = as_request(Foreign(more={"content_encoding": "gzip", "app_id": "legacy", "priority": 3, "timestamp": 17}))
    assert request.headers[1:] == [
        (b"Content-Type", b"application/json"),
        (b"Content-Encoding", b"gzip"),
        (b"Amqp-App-Id", b"legacy"),
        (b"Amqp-Priority", b"3"),
        (b"Amqp-Timestamp", b"17"),
    ]


def test_the_table_becomes_headers_under_its_own_names() -> None:
    request = as_request(Foreign(table={"X-Tenant": "7", "n": 5, "raw": b"caf\xc3\xa9", "none": None}))
    assert request.headers[2:] == [(b"X-Tenant", b"7"), (b"n", b"5"), (b"raw", b"caf?"), (b"none", b"None")]


def test_what_would_be_another_header_or_the_meshs_own_is_not() -> None:
    table = {"Meshq-Caller": "admin", "bad name": "x", "colon:": "x", "": "x", "ok": "a\r\nEvil: 1\0", "x" * 101: "y"}
    request = as_request(Foreign(table=table, more={"app_id": "a\nb"}))
    assert request.headers[2:] == [(b"Amqp-App-Id", b"a?b"), (b"ok", b"a??Evil: 1?")]


def test_headers_are_bounded() -> None:
    request = as_request(Foreign(table={f"h{n}": "x" * 9000 for n in range(500)}))
    assert len(request.headers) <= MAX_HEADERS + 1
    assert max(len(value) for _, value in request.headers) == 8000


def test_its_id_is_its_own_where_that_can_be_one() -> None:
    assert as_request(Foreign(message_id="order-7")).id == "order-7"
    made = [as_request(Foreign(message_id=ident)).id for ident in ("", "a b", "x" * 65)]
    assert len(set(made)) == 3
    assert all(ident.startswith("foreign-") for ident in made)
