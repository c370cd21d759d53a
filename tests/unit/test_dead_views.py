"""Dead letters as they are shown, and which of them are asked for."""

import base64
from datetime import UTC, datetime

import pytest

from meshq.core import topology
from meshq.core.dead import Letter
from meshq.core.dead_views import MOST_SHOWN, Wanted, full, of_topic, parse_since, row, short_id
from meshq.core.message import Request, Response, encode_dead_letter
from tests.unit.test_dead import DEAD, DIED_MS, REQUEST, WORK, found, record

LETTER = found(encode_dead_letter(record()))


def of(request: Request, **more: object) -> Letter:
    return LETTER._replace(records=(request,), **more)


def test_the_row_of_a_call() -> None:
    assert row(LETTER) == {
        "id": REQUEST.id,
        "topic": "orders.v2",
        "at": "2026-11-22T10:00:00.000Z",
        "reason": "attempts",
        "status": 500,
        "attempts": 5,
        "instance": "host-a",
        "path": "/list?x=1",
        "size": 5,
    }


def test_what_is_not_known_is_null() -> None:
    unread = LETTER._replace(
        records=(), body=b"\xff" * 7, at_ms=None, status=None, attempts=None, served_by="", topic=None
    )
    assert list(row(unread).values()) == [REQUEST.id, None, None, "attempts", None, None, None, None, 7]


def test_the_path_of_an_event_is_its_topic_unless_the_sidecar_wrote_where_it_went() -> None:
    event = REQUEST._replace(event="payments.settled.v1", target=b"/")
    assert row(of(event))["path"] == "payments.settled.v1"
    assert row(of(event._replace(target=b"/on/settled")))["path"] == "/on/settled"
    assert row(of(REQUEST._replace(target=b"/")))["path"] == "/"
    lost = LETTER._replace(records=(), queue="event.payments.settled.v1.0")
    assert row(lost)["path"] == "payments.settled.v1"


def test_all_that_is_known_of_one() -> None:
    request = REQUEST._replace(
        headers=[*REQUEST.headers, (b"Idempotency-Key", b"k-1")],
        key="customer-7", deadline_ms=DIED_MS, selector="^2.1", replays=2,
    )  # fmt: skip
    shown = full(of(request), whole=False)
    assert list(shown)[:9] == list(row(LETTER))
    assert {name: shown[name] for name in list(shown)[9:]} == {
        "detail": "the app answered 500",
        "excerpt": "oh",
        "queue": WORK,
        "liesIn": DEAD,
        "servedBy": "orders/2.1.0/host-a",
        "sender": "shop",
        "method": "POST",
        "event": None,
        "key": "customer-7",
        "claimedCaller": "shop",
        "selector": "^2.1",
        "acceptedAt": "2026-11-22T09:59:55.000Z",
        "deadline": "2026-11-22T10:00:00.000Z",
        "replays": 2,
        "idempotencyKey": "k-1",
        "headers": [["Content-Type", "text/plain"], ["Idempotency-Key", "k-1"]],
        "body": "five!",
        "bodyEncoding": "text",
        "bodyCut": False,
    }


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a\0b", b"\x1b[2Jgone", "\x9b2J".encode()])
def test_a_body_that_is_no_text_is_base64(body: bytes) -> None:
    shown = full(of(REQUEST._replace(body=body)), whole=False)
    assert shown["bodyEncoding"] == "base64"
    assert base64.b64decode(shown["body"]) == body


def test_a_long_body_is_cut_and_says_so() -> None:
    text = "ä" * MOST_SHOWN
    shown = full(of(REQUEST._replace(body=b"x" + text.encode())), whole=False)
    assert (shown["bodyEncoding"], shown["bodyCut"]) == ("text", True)
    assert shown["body"] == "x" + text[: (MOST_SHOWN - 1) // 2]
    assert shown["size"] == 1 + 2 * MOST_SHOWN
    whole = full(of(REQUEST._replace(body=text.encode())), whole=True)
    assert (whole["body"], whole["bodyCut"]) == (text, False)


def test_what_could_not_be_read_is_shown_as_it_is() -> None:
    shown = full(LETTER._replace(records=(), body=b"not a record"), whole=False)
    assert shown["body"] == "not a record"
    assert "headers" not in shown


def test_an_answer_is_shown_by_its_body() -> None:
    answer = Response("r1", 200, [], b"done", "a/1.0.0/b")
    shown = full(LETTER._replace(records=(answer,)), whole=False)
    assert (shown["body"], shown["size"], shown["path"]) == ("done", 4, None)


# --- which ------------------------------------------------------------------------------------------------------------------


def test_without_a_filter_all_are_wanted() -> None:
    assert Wanted().everything
    assert Wanted(limit=5).everything
    assert Wanted().takes(LETTER)


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Wanted(reason="attempts"), True),
        (Wanted(reason="rejected"), False),
        (Wanted(since_ms=DIED_MS), True),
        (Wanted(since_ms=DIED_MS + 1), False),
        (Wanted(frozenset([REQUEST.id])), True),
        (Wanted(frozenset([REQUEST.id[:12]])), True),
        (Wanted(frozenset([REQUEST.id[:16]])), True),
        (Wanted(frozenset([REQUEST.id[:11]])), False),
        (Wanted(frozenset(["other"])), False),
        (Wanted(frozenset([REQUEST.id]), "rejected"), False),
    ],
)
def test_each_filter_narrows(wanted: Wanted, takes: bool) -> None:
    assert wanted.takes(LETTER) is takes
    assert not wanted.everything


def test_one_without_a_time_is_in_no_since() -> None:
    assert not Wanted(since_ms=0).takes(LETTER._replace(at_ms=None))


def test_only_ids_made_here_have_a_short_form() -> None:
    assert short_id(REQUEST.id) == "0123456789ab"
    assert short_id("order-2026-11-22-000017") == "order-2026-11-22-000017"


def test_ids_that_are_missing_or_stand_for_several() -> None:
    a, b = "a" * 32, "a" * 31 + "b"
    wanted = Wanted(frozenset(["a" * 12, "a" * 20, a, "c"]))
    assert wanted.missing([a]) == ["c"]
    assert wanted.missing([]) == ["a" * 12, "a" * 20, a, "c"]
    assert wanted.ambiguous([a, a]) == []
    assert wanted.ambiguous([a, b]) == ["a" * 12, "a" * 20]


def test_those_of_a_topic() -> None:
    lost = LETTER._replace(lies_in=topology.LOST, topic="billing.v1")
    assert [of_topic(lost, topic) for topic in ("billing.v1", "orders.v2", "lost", None)] == [True, False, True, True]


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2h", DIED_MS - 7_200_000),
        ("30m", DIED_MS - 1_800_000),
        ("2026-11-22T10:00:00Z", DIED_MS),
        ("2026-11-22T11:00:00+01:00", DIED_MS),
        ("2026-11-22T10:00:00", DIED_MS),
        ("2026-11-22", int(datetime(2026, 11, 22, tzinfo=UTC).timestamp() * 1000)),
    ],
)
def test_since(text: str, at_ms: int) -> None:
    assert parse_since(text, DIED_MS) == at_ms


@pytest.mark.parametrize("text", ["", "yesterday", "2 hours", "-1h", "2026-13-01", "10:00"])
def test_a_since_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"how long ago \(30m, 2h, 1d\)"):
        parse_since(text, DIED_MS)
