"""Bringing a dead letter back: what is published, and where, or why it stays dead.

The message goes to the queue that it came from, or to the work queue of another address. It keeps its id, its key and the time
it was accepted at, begins again with attempt 1, and counts its replays, so that one that dies again and again is noticed.

Whoever publishes a replay is not who sent the message. To the service whose dead letter it was the replay says who that was, as
far as the letter has it proved, and the receiver believes it if the broker proves that `meshq-control` published it (names.OPERATOR):
so it counts as its first sender's, for `Meshq-Caller` and for a route policy's `allow`. Anywhere else the caller in it is a claim
only. For the same reason a letter that names a queue of another topic than the one whose dead letter it is stays where it is unless
somebody insists: its sender could make us publish what the broker forbids to it.
"""

from typing import NamedTuple

from meshq.core import topology
from meshq.core.dead import LOOP, MAX_REPLAYS, UNDECODABLE, Letter
from meshq.core.dead_views import when
from meshq.core.message import Fault, Request, Response, encode_fault, encode_request, encode_response
from meshq.core.queue_names import partition, read_name, results_service
from meshq.core.routing import Route

CALLED_AGAIN, RESULT = "replay", "result"
"""AMQP types of what is published."""


class Resend(NamedTuple):
    exchange: str
    key: str
    body: bytes
    kind: str
    reply_to: str
    queue: str
    """Where it will be."""
    note: str
    """What changed in the message that somebody may want to know; "" when nothing did."""


class Stays(NamedTuple):
    """It stays dead. `reason` is one of meshq.core.dead, or ""."""

    reason: str
    detail: str


def resend(letter: Letter, to: Route | None, now_ms: int, force: bool) -> Resend | Stays:
    """`to`: another address; None: where it came from. `force`: also what was replayed too often, and what names a queue of
    another topic."""
    requests = [record for record in letter.records if isinstance(record, Request)]
    if requests and len(requests) == len(letter.records):
        return _again(letter, requests, to, now_ms, force)
    answers = [record for record in letter.records if isinstance(record, Response | Fault)]
    if not answers or len(answers) < len(letter.records):
        return Stays(UNDECODABLE, "what is in it is no message of meshq that this version can read; show and drop work")
    if to is not None:
        return Stays("", "it is an answer: it can only go back to the service that waits for it, without --to")
    return _answer_again(letter, answers, force)


def _again(letter: Letter, requests: list[Request], to: Route | None, now_ms: int, force: bool) -> Resend | Stays:
    often = max(request.replays for request in requests)
    if often >= MAX_REPLAYS and not force:
        return Stays(LOOP, f"it was brought back {often} times already: --force does it again")
    place = _place(letter, force) if to is None else _work(to.topic)
    if isinstance(place, Stays):
        return place
    exchange, key, queue = place
    sender = letter.sender if _of_one_service(letter.lies_in, queue) else ""
    fresh = [_fresh(request, to, now_ms, sender) for request in requests]
    notes = dict.fromkeys(_note(request, again) for request, again in zip(requests, fresh, strict=True))
    body = b"".join([encode_request(request) for request in fresh])
    return Resend(
        exchange, key, body, CALLED_AGAIN, _reply_to(letter, requests[0]), queue, "; ".join(filter(None, notes))
    )


def _of_one_service(lies_in: str, queue: str) -> bool:
    """Whether the letter lies where none but the service could put it to which it goes."""
    before, after = read_name(lies_in), read_name(queue)
    if before is None or after is None or not before.topic or not after.topic:
        return False
    return before.kind == "dead" and before.topic.rpartition(".v")[0] == after.topic.rpartition(".v")[0]


def _fresh(request: Request, to: Route | None, now_ms: int, sender: str) -> Request:
    """As it was when it was accepted. Whoever waited for it waits no more, so a waited call becomes a durable one; what its
    deadline was meant for is over when the deadline is."""
    deadline_ms = request.deadline_ms
    if deadline_ms is not None and deadline_ms <= now_ms:
        deadline_ms = None
    again = request._replace(
        attempt=1,
        misses=0,
        replays=request.replays + 1,
        proved_caller=sender,
        answer_to="",
        accepted_ms=now_ms if request.accepted_ms is None else request.accepted_ms,
        deadline_ms=deadline_ms,
        left_ms=None if deadline_ms is None else deadline_ms - now_ms,
    )
    # In a work queue no subscription says the path of an event.
    return again if to is None else again._replace(selector=to.selector, event="")


def _note(before: Request, after: Request) -> str:
    if before.deadline_ms is None or after.deadline_ms is not None:
        return ""
    return f"its deadline, {when(before.deadline_ms)}, is over and was taken off"


def _reply_to(letter: Letter, request: Request) -> str:
    """Where the answer to a call goes: to whoever sent it, as then. Nobody waits for the answer to an event."""
    caller = letter.sender or request.caller
    if request.event or not caller:
        return ""
    return letter.reply_to or topology.results_key(caller)


_Place = tuple[str, str, str]
"""(exchange, routing key, queue)"""


def _work(topic: str) -> _Place:
    return topology.CALLS, topology.work_key(topic), topology.work_queue(topic)


def _place(letter: Letter, force: bool) -> _Place | Stays:
    """Where it came from."""
    event = _event_key(letter.queue)
    name = read_name(letter.queue)
    if event is None and (name is None or name.kind not in ("call", "work", "key", "event")):
        return Stays("", f"where it came from ({letter.queue or 'not known'}) takes no messages; --to names an address")
    foreign = letter.lies_in != topology.LOST and (event is not None or name is None or name.topic != letter.topic)
    if foreign and not force:
        return _of_another(letter)
    if event is not None:
        return topology.EVENTS, event, letter.queue
    assert name is not None
    assert name.topic is not None
    if name.kind == "event":
        # Through the delay levels, which alone lead to one subscription. Not without a delay: should the queue go in this moment,
        # the last level's x-death header is all that says where this was to go.
        return topology.DELAY, topology.delay_key(1, letter.queue), letter.queue
    part = partition(letter.queue)
    if part is not None:
        return topology.CALLS, topology.key_key(name.topic, part), letter.queue
    return _work(name.topic)


def _event_key(queue: str) -> str | None:
    return queue.removeprefix("event.") if queue.startswith("event.") else None


def _of_another(letter: Letter) -> Stays:
    return Stays(
        "",
        f"it names {letter.queue}, which is not of {letter.topic}: --force sends it there, with our rights; --to names an address",
    )


def _answer_again(letter: Letter, answers: list[Response | Fault], force: bool) -> Resend | Stays:
    service = results_service(letter.queue)
    if service is None:
        return Stays("", f"it is an answer, and where it came from ({letter.queue or 'not known'}) takes none")
    if letter.lies_in != topology.LOST and (letter.topic or "").rpartition(".v")[0] != service and not force:
        return _of_another(letter)
    body = b"".join([encode_response(a) if isinstance(a, Response) else encode_fault(a) for a in answers])
    return Resend(topology.REPLIES, topology.results_key(service), body, RESULT, "", letter.queue, "")
