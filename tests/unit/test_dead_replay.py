"""Where a dead letter goes that is brought back, what changes in it, and what stays dead."""

import pytest

from meshq.core import topology
from meshq.core.dead import LOOP, MAX_REPLAYS, UNDECODABLE, Letter
from meshq.core.dead_replay import Resend, Stays, resend
from meshq.core.errors import Code
from meshq.core.message import Fault, Request, Response, decode, encode_dead_letter, encode_response
from meshq.core.routing import Route
from tests.unit.test_dead import DIED_MS, REQUEST, WORK, found, record

NOW = DIED_MS + 60_000
LETTER = found(encode_dead_letter(record()))


def of(request: Request, queue: str = WORK) -> Letter:
    return LETTER._replace(records=(request,), queue=queue)


def sent(letter: Letter, to: Route | None = None, *, force: bool = False) -> Resend:
    plan = resend(letter, to, NOW, force)
    assert isinstance(plan, Resend), plan
    return plan


def kept(letter: Letter, to: Route | None = None, *, force: bool = False) -> Stays:
    plan = resend(letter, to, NOW, force)
    assert isinstance(plan, Stays), plan
    return plan


def inside(plan: Resend) -> Request:
    (request,) = decode(plan.body)
    assert isinstance(request, Request)
    return request


def test_it_begins_again_and_counts() -> None:
    request = REQUEST._replace(
        misses=2, proved_caller="shop", answer_to="shop.a.1", key="k", selector="^2.1", callback=b"/told", replays=1
    )
    again = inside(sent(of(request)))
    assert again == request._replace(attempt=1, misses=0, proved_caller="shop", answer_to="", replays=2)


@pytest.mark.parametrize(
    ("queue", "exchange", "key"),
    [
        (WORK, topology.CALLS, "orders.v2.work"),
        ("meshq.orders.v2.key.5", topology.CALLS, "orders.v2.key.5"),
        ("meshq.orders.v2.call", topology.CALLS, "orders.v2.work"),
        ("meshq.orders.v2.on.settled", topology.DELAY, topology.delay_key(1, "meshq.orders.v2.on.settled")),
        ("meshq.orders.v2.on.settled.k3", topology.DELAY, topology.delay_key(1, "meshq.orders.v2.on.settled.k3")),
    ],
)
def test_it_goes_to_the_queue_that_it_came_from(queue: str, exchange: str, key: str) -> None:
    plan = sent(of(REQUEST, queue))
    assert (plan.exchange, plan.key, plan.reply_to, plan.note) == (exchange, key, "shop.results", "")
    assert plan.queue == (WORK if queue.endswith(".call") else queue)


def test_an_event_goes_to_the_one_subscription_that_could_not_handle_it() -> None:
    event = REQUEST._replace(event="payments.settled.v1", target=b"/")
    plan = sent(of(event, "meshq.orders.v2.on.settled"))
    assert (inside(plan).event, plan.reply_to) == ("payments.settled.v1", "")


def test_a_delayed_event_that_nobody_took_is_published_again() -> None:
    lost = LETTER._replace(queue="event.payments.settled.v1.3", lies_in=topology.LOST, topic="payments.settled.v1")
    plan = sent(lost)
    assert (plan.exchange, plan.key) == (topology.EVENTS, "payments.settled.v1.3")


def test_to_another_address() -> None:
    event = REQUEST._replace(event="payments.settled.v1", target=b"/", selector="^2.1")
    plan = sent(of(event, "meshq.orders.v2.on.settled"), Route("billing.v3", "^3.2"))
    assert (plan.exchange, plan.key, plan.queue) == (topology.CALLS, "billing.v3.work", "meshq.billing.v3.work")
    assert (inside(plan).selector, inside(plan).event, inside(plan).method) == ("^3.2", "", "POST")
    assert plan.reply_to == "", "nobody waits for the answer to an event"


def test_a_deadline_that_is_over_is_taken_off_and_one_that_is_not_stays() -> None:
    over = sent(of(REQUEST._replace(deadline_ms=NOW, left_ms=10)))
    assert (inside(over).deadline_ms, inside(over).left_ms) == (None, None)
    assert over.note == "its deadline, 2026-11-22T10:01:00.000Z, is over and was taken off"
    open_ = sent(of(REQUEST._replace(deadline_ms=NOW + 500, left_ms=10)))
    assert (inside(open_).deadline_ms, inside(open_).left_ms, open_.note) == (NOW + 500, 500, "")


def test_a_waited_call_comes_back_as_one_that_nobody_waits_for() -> None:
    assert inside(sent(of(REQUEST._replace(accepted_ms=None), "meshq.orders.v2.call"))).accepted_ms == NOW


def test_the_answer_goes_to_whoever_sent_it() -> None:
    assert sent(LETTER._replace(reply_to="", sender="proved")).reply_to == "proved.results"
    assert sent(LETTER._replace(reply_to="", sender="")).reply_to == "shop.results"
    nameless = REQUEST._replace(caller="")
    assert sent(of(nameless)._replace(reply_to="", sender="")).reply_to == ""


def test_the_loop_guard() -> None:
    often = of(REQUEST._replace(replays=MAX_REPLAYS))
    assert kept(often).reason == LOOP
    assert inside(sent(often, force=True)).replays == MAX_REPLAYS + 1
    assert inside(sent(of(REQUEST._replace(replays=MAX_REPLAYS - 1)))).replays == MAX_REPLAYS


@pytest.mark.parametrize("queue", ["meshq.billing.v1.work", "meshq.billing.v1.on.x", "event.payments.settled.v1.0"])
def test_a_letter_does_not_lead_to_a_queue_of_another_topic(queue: str) -> None:
    """Who may write to its own dead letters only would otherwise reach everybody's queues through us."""
    foreign = of(REQUEST, queue)
    assert queue in kept(foreign).detail
    assert sent(foreign, force=True).queue == queue
    assert sent(foreign, Route("orders.v2", "")).queue == WORK
    lost = foreign._replace(lies_in=topology.LOST, topic=None)
    assert sent(lost).queue == queue, "there the broker itself says where it was to go"


@pytest.mark.parametrize("queue", ["", "celery", "meshq.orders.v2.dead", "meshq.orders.reply.a.b", "meshq.lost"])
def test_a_queue_that_takes_no_messages(queue: str) -> None:
    assert "--to names an address" in kept(of(REQUEST, queue), force=True).detail


@pytest.mark.parametrize("records", [(), (REQUEST, Response("r", 200, [], b"", "x")), (record(),)])
def test_what_is_no_message_stays(records: tuple[Request, ...]) -> None:
    assert kept(LETTER._replace(records=records)).reason == UNDECODABLE


def test_several_that_travelled_together_come_back_together() -> None:
    plan = sent(LETTER._replace(records=(REQUEST, REQUEST._replace(id="b", deadline_ms=1))))
    assert [(message.id, message.replays) for message in decode(plan.body) if isinstance(message, Request)] == [
        (REQUEST.id, 1),
        ("b", 1),
    ]
    assert plan.note.count("is over") == 1


def test_an_answer_goes_back_to_its_callers_results() -> None:
    answers = (Response("r1", 200, [], b"done", "a/1.0.0/b"), Fault("r2", Code.DEADLINE, "late", retryable=False))
    letter = LETTER._replace(records=answers, queue="meshq.orders.results")
    plan = sent(letter)
    assert (plan.exchange, plan.key, plan.kind) == (topology.REPLIES, "orders.results", "result")
    assert decode(plan.body) == list(answers)
    assert "without --to" in kept(letter, Route("orders.v2", "")).detail
    assert "takes none" in kept(letter._replace(queue=WORK)).detail
    foreign = letter._replace(queue="meshq.billing.results")
    assert "--force" in kept(foreign).detail
    assert sent(foreign, force=True).key == "billing.results"
    assert decode(sent(letter._replace(records=answers[:1])).body)[0] == decode(encode_response(answers[0]))[0]


@pytest.mark.parametrize(
    ("lies_in", "queue", "to", "sender"),
    [
        ("meshq.orders.v2.dead", WORK, None, "shop"),
        ("meshq.orders.v2.dead", WORK, Route("orders.v3", ""), "shop"),
        ("meshq.orders.v2.dead", WORK, Route("billing.v1", ""), ""),
        ("meshq.mallory.v1.dead", WORK, None, ""),
        (topology.LOST, WORK, None, ""),
    ],
)
def test_who_sent_it_is_said_to_the_service_alone_that_buried_it(
    lies_in: str, queue: str, to: Route | None, sender: str
) -> None:
    """Others could have put the letter where it lies."""
    letter = of(REQUEST._replace(proved_caller="forged"), queue)._replace(lies_in=lies_in, sender="shop")
    assert inside(sent(letter, to, force=True)).proved_caller == sender
