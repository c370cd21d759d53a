"""Dead letters, read: what lies there, why it is dead, and under which topic it is found."""

from datetime import UTC, datetime
from typing import Any

import pytest

from meshq.core import dead, topology
from meshq.core.dead import Letter
from meshq.core.message import (
    CONTENT_TYPE,
    DeadLetter,
    Request,
    Response,
    encode_dead_letter,
    encode_request,
    encode_response,
)
from meshq.core.queue_names import delay_destination, delayed_event_topic, partition, results_service

DEAD, WORK = "meshq.orders.v2.dead", "meshq.orders.v2.work"
DIED = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
DIED_MS = 1795341600000

REQUEST = Request(
    "0123456789abcdef0123456789abcdef", "POST", b"/list?x=1", [(b"Content-Type", b"text/plain")], b"five!", "shop",
    attempt=3, accepted_ms=DIED_MS - 5000,
)  # fmt: skip


def record(body: bytes = encode_request(REQUEST), ident: str = REQUEST.id, queue: str = WORK) -> DeadLetter:
    return DeadLetter(
        ident, dead.ATTEMPTS, "the app answered 500", queue, DIED_MS, "orders/2.1.0/host-a", body, 500, b"oh", 5, "shop"
    )


def found(
    body: bytes, queue: str = DEAD, headers: dict[str, Any] | None = None, kind: str = CONTENT_TYPE, ident: str = "m1"
) -> Letter:
    return dead.read(body, queue, kind, ident, "shop", "shop.results", headers or {})


def death(queue: str, reason: str, key: str = "orders.v2.work") -> dict[str, Any]:
    return {
        "queue": queue,
        "reason": reason,
        "time": DIED,
        "routing-keys": [key],
        "count": 1,
        "exchange": "meshq.calls",
    }


def test_the_record_of_a_sidecar() -> None:
    letter = found(encode_dead_letter(record()))
    assert letter.records == (REQUEST,)
    assert letter.request == REQUEST
    assert letter == Letter(
        REQUEST.id, "orders.v2", "attempts", "the app answered 500", DIED_MS, WORK, DEAD, encode_request(REQUEST),
        (REQUEST,), 500, b"oh", 5, "orders/2.1.0/host-a", "shop", "shop.results",
    )  # fmt: skip
    assert letter.instance == "host-a"


def test_it_is_found_under_the_topic_in_whose_dead_queue_it_lies() -> None:
    """Also where it names another: what the broker refused from a sender's spool lies with the sender."""
    assert found(encode_dead_letter(record(queue="meshq.billing.v1.work"))).topic == "orders.v2"


@pytest.mark.parametrize(
    ("key", "queue"),
    [
        (topology.work_key("billing.v1"), "meshq.billing.v1.work"),
        (topology.key_key("billing.v1", 3), "meshq.billing.v1.key.3"),
        (topology.results_key("billing"), "meshq.billing.results"),
        (topology.event_key("payments.settled.v1", 3), "event.payments.settled.v1.3"),
        (topology.delay_key(5, "meshq.billing.v1.work"), "meshq.billing.v1.work"),
        (topology.delay_key(5, "event.payments.settled.v1.3"), "event.payments.settled.v1.3"),
    ],
)
def test_what_could_not_be_sent_tells_where_it_was_to_go(key: str, queue: str) -> None:
    letter = found(encode_dead_letter(record(queue=key)._replace(reason=dead.UNSENDABLE)))
    assert (letter.topic, letter.queue) == ("orders.v2", queue)


def test_of_messages_that_travelled_together_the_dead_one_counts() -> None:
    pack = encode_request(REQUEST) + encode_request(REQUEST._replace(id="other"))
    assert found(encode_dead_letter(record(pack))).records == (REQUEST,)
    assert len(found(encode_dead_letter(record(pack, ident="third"))).records) == 2


def test_what_could_not_be_read_keeps_its_bytes_and_gets_an_id_of_its_own() -> None:
    first = found(encode_dead_letter(record(b"\xff\xfe", dead.UNKNOWN_ID)))
    second = found(encode_dead_letter(record(b"\xff\xff", dead.UNKNOWN_ID)))
    assert (first.body, first.records, first.request) == (b"\xff\xfe", (), None)
    assert first.id.startswith("unknown-")
    assert first.id != second.id


def test_the_brokers_own_limit() -> None:
    """The message itself, with the header that RabbitMQ adds; its latest death is the first entry."""
    deaths = [death(WORK, "delivery_limit"), death("meshq.delay.0", "expired")]
    letter = found(encode_request(REQUEST), headers={"x-death": deaths}, ident=REQUEST.id)
    assert (letter.id, letter.topic, letter.reason, letter.queue) == (
        REQUEST.id,
        "orders.v2",
        dead.DELIVERY_LIMIT,
        WORK,
    )
    assert (letter.at_ms, letter.attempts, letter.sender, letter.reply_to) == (DIED_MS, 3, "shop", "shop.results")
    assert "the sidecar was lost" in letter.detail


def test_another_reason_of_the_broker_is_passed_on() -> None:
    letter = found(encode_request(REQUEST), headers={"x-death": [death(WORK, "maxlen")]})
    assert (letter.reason, letter.detail) == ("maxlen", "the broker gave it up: maxlen")


@pytest.mark.parametrize(("user", "sender"), [("orders", "checkout"), ("shop", "shop")])
def test_of_a_retry_the_service_itself_says_who_sent_it_first(user: str, sender: str) -> None:
    body = encode_request(REQUEST._replace(proved_caller="checkout"))
    deaths = {"x-death": [death(WORK, "delivery_limit")]}
    assert dead.read(body, DEAD, CONTENT_TYPE, "m1", user, "", deaths).sender == sender


def test_a_retry_whose_queue_is_gone() -> None:
    key = topology.delay_key(5, WORK)
    deaths = [death("meshq.delay.0", "expired", key), death("meshq.delay.2", "expired", key)]
    letter = found(encode_request(REQUEST), topology.LOST, {"x-death": deaths})
    assert (letter.topic, letter.reason, letter.queue, letter.at_ms) == ("orders.v2", dead.QUEUE_GONE, WORK, DIED_MS)
    assert letter.attempts == 2, "the third was to come"
    assert letter.detail == f"{WORK} was gone when this was to be tried again"


def test_a_delayed_event_that_nobody_subscribes_to() -> None:
    event = topology.event_key("payments.settled.v1", 3)
    deaths = [death("meshq.delay.1", "expired", topology.delay_key(2, topology.delayed_event(event)))]
    letter = found(encode_request(REQUEST), topology.LOST, {"x-death": deaths})
    assert (letter.topic, letter.reason, letter.queue) == ("payments.settled.v1", "queue-gone", f"event.{event}")
    assert "nobody subscribed to payments.settled.v1" in letter.detail


def test_what_is_lost_without_a_trace_of_where_it_was_to_go() -> None:
    letter = found(encode_request(REQUEST), topology.LOST)
    assert (letter.topic, letter.reason, letter.queue, letter.at_ms) == (None, dead.QUEUE_GONE, "", None)


@pytest.mark.parametrize(
    ("body", "kind", "detail"),
    [
        (b"anything", "text/plain", "it was not made by meshq: its content type is text/plain"),
        (b"anything", "", "it was not made by meshq: its content type is not said"),
        (b"", CONTENT_TYPE, "cut off: 0 bytes at offset 0, where a record begins with 9"),
        (encode_request(REQUEST), CONTENT_TYPE, "it lies among the dead letters, and nothing says why"),
    ],
)
def test_what_somebody_put_there(body: bytes, kind: str, detail: str) -> None:
    letter = found(body, kind=kind)
    assert (letter.id, letter.topic, letter.reason, letter.detail) == ("m1", "orders.v2", dead.UNDECODABLE, detail)


def test_an_answer_that_its_caller_could_not_take() -> None:
    answer = Response("r1", 200, [], b"done", "orders/2.1.0/host-a")
    deaths = [death("meshq.shop.results", "delivery_limit")]
    letter = found(encode_response(answer), "meshq.shop.v1.dead", {"x-death": deaths})
    assert (letter.records, letter.request, letter.topic) == ((answer,), None, "shop.v1")


@pytest.mark.parametrize("ident", ["", "no id!", dead.UNKNOWN_ID])
def test_an_id_is_found_where_the_message_says_none(ident: str) -> None:
    assert found(encode_request(REQUEST), ident=ident).id == REQUEST.id
    assert found(b"?", ident=ident).id == f"unknown-{'8a8de823d5ed'}"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-death": "no list"},
        {"x-death": []},
        {"x-death": ["no table"]},
        {"x-death": [{}]},
        {"x-death": [{"queue": 5, "reason": None, "time": "now", "routing-keys": "one"}]},
        {"x-death": [{"time": -1, "routing-keys": [None, 7, "a.b"]}]},
        {"x-death": [{"time": 1795341600}]},
        {"x-death": [{"time": DIED.replace(tzinfo=None)}]},
    ],
)
@pytest.mark.parametrize("queue", [DEAD, topology.LOST, "whatever"])
def test_any_headers_are_survived(headers: dict[str, Any], queue: str) -> None:
    letter = found(encode_request(REQUEST), queue, headers)
    assert letter.at_ms in (None, DIED_MS)


# --- names of queues ----------------------------------------------------------------------------------------------------------


def test_where_a_key_of_the_delay_levels_leads() -> None:
    assert delay_destination(topology.delay_key(77, WORK)) == WORK
    assert delay_destination(topology.delay_key(0, "event.a.v1.0")) == "event.a.v1.0"
    assert delay_destination("orders.v2.work") is None
    assert delay_destination(topology.delay_key(1, "")) is None
    assert delayed_event_topic("event.payments.settled.v1.7") == "payments.settled.v1"
    assert delayed_event_topic(WORK) is None


def test_parts_of_queue_names() -> None:
    assert partition(topology.key_queue("orders.v2", 5)) == 5
    assert partition(WORK) is None
    assert results_service(topology.results_queue("shop")) == "shop"
    assert results_service(WORK) is None
    assert results_service("meshq.shop.reply.a.b") is None
