"""Events out: `POST /v1/publish/<event>[@<major>]` (INTERFACE part 5), for the sidecar and for the control API.

An event is answered with 202 once it is durable. A batch is answered once the fate of each of its events is known, with 202 if
any was accepted; if none was, with the status of the first refusal, as a problem that has the fates besides. Which topic a
message goes to the path says, also where an event of a batch has another type.

Everything runs in callbacks: no task is made for an event.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from meshq.core import topology
from meshq.core.answers import method_not_allowed
from meshq.core.cloudevents import (
    ContentMode,
    Defaults,
    Event,
    from_binary,
    from_structured,
    mode_of,
    read_batch,
    read_structured,
)
from meshq.core.errors import Code, Problem, Refused, refuse
from meshq.core.events import EventAddress, parse_event
from meshq.core.fields import read_deadline, read_delay, read_key, read_priority
from meshq.core.headers import Carried, root_traceparent, valid_traceparent
from meshq.core.http import Headers, HttpRequest, HttpResponse, header
from meshq.core.message import Request, encode_request
from meshq.core.names import BadName
from meshq.ports import Clock, Exchange, Metrics, Publication
from meshq.randomness import Randomness
from meshq.sending_handover import Fate, Told

PATH_PREFIX = b"/v1/publish/"

MAX_OF_ALL = 8 * 1024
"""Bytes of the fields that go with each event of a batch: a request must not become a thousand times as large."""

Publish = Callable[[Publication, Told], None]
"""meshq.sending.Sender.publish"""
Done = Callable[[HttpResponse], None]

_JSON = (b"Content-Type", b"application/json")


class _Options(NamedTuple):
    """What the request's own fields say of each of its events."""

    key: str
    delay: int
    deadline_ms: int | None
    priority: int | None


class Publishing:
    """`service` is who publishes."""

    def __init__(self, publish: Publish, clock: Clock, metrics: Metrics, service: str) -> None:
        self._publish = publish
        self._clock = clock
        self._metrics = metrics
        self._service = service
        self._source = f"/{service}".encode()
        self._fresh = Randomness()

    def handle(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """`target` is under PATH_PREFIX."""
        self.publish(exchange.request, carried, target, exchange.respond)

    def publish(self, request: HttpRequest, carried: Carried, target: bytes, done: Done) -> None:
        """`done` is called exactly once, possibly before this returns. Whoever asked may be gone by then: the events go on."""
        try:
            self._take(request, carried, target, done)
        except Refused as refused:
            done(refused.problem.as_response())

    def _take(self, request: HttpRequest, carried: Carried, target: bytes, done: Done) -> None:
        address = _address_in(target.partition(b"?")[0])
        if request.method != b"POST":
            done(method_not_allowed(b"POST", "an event is published with POST"))
            return
        mode = mode_of(header(carried.headers, b"content-type"))
        now_ms = self._clock.mesh_ms()
        options = _options(carried.control, now_ms)
        defaults = Defaults(self._source, address.name.encode(), _timestamp(now_ms))
        common = self._common(carried)
        if mode is ContentMode.BATCHED:
            of_all = _of_all(common)
            _check_size(of_all)
            self._many(read_batch(request.body), of_all, address, options, defaults, now_ms, done)
            return
        ident = self._fresh(16).hex()
        if mode is ContentMode.STRUCTURED:
            event = from_structured(read_structured(request.body), _of_all(common), ident, defaults)
        else:
            event = from_binary(common, request.body, ident, defaults)
        key = options.key or event.key
        self._publish(
            self._publication(event, ident, key, address.topic, options, now_ms),
            partial(self._on_fate, ident, address.topic, done),
        )

    def _common(self, carried: Carried) -> Headers:
        """The fields that go on to subscribers. Host was this sidecar's own: they get one that says nothing."""
        traced = valid_traceparent(carried.noted.get(b"traceparent"))
        left = (b"host",) if traced else (b"host", b"traceparent", b"tracestate")
        common = [(b"Host", b"localhost"), *(field for field in carried.headers if field[0].lower() not in left)]
        if not traced:
            common.append((b"traceparent", root_traceparent(self._fresh(24))))
        return common

    def _publication(
        self, event: Event, ident: str, key: str, event_topic: str, options: _Options, now_ms: int
    ) -> Publication:
        request = Request(
            ident,
            "POST",
            b"/",
            event.headers,
            event.body,
            self._service,
            deadline_ms=options.deadline_ms,
            accepted_ms=now_ms,
            key=key,
            event=event_topic,
        )
        exchange, routing_key = topology.EVENTS, topology.event_key(event_topic, topology.partition_of(key))
        if options.delay:
            exchange = topology.DELAY
            routing_key = topology.delay_key(options.delay, topology.delayed_event(routing_key))
        return Publication(exchange, routing_key, encode_request(request), ident, "event", priority=options.priority)

    def _on_fate(self, ident: str, event_topic: str, done: Done, fate: Fate | Problem) -> None:
        message_id = (b"Meshq-Message-Id", ident.encode())
        if isinstance(fate, Problem):
            response = fate.as_response()
            response.headers.append(message_id)
            done(response)
            return
        headers = [_JSON, message_id]
        if fate is Fate.UNROUTABLE:
            self._metrics.count("event_unrouted")
            headers.append((b"Meshq-Subscribers", b"0"))
        body = b'{"id": "%b", "status": "accepted", "topic": "%b"}\n' % (ident.encode(), event_topic.encode())
        done(HttpResponse(202, headers, body))

    # --- batches ------------------------------------------------------------------------------------------------------------

    def _many(
        self,
        members: list[Any],
        common: Headers,
        address: EventAddress,
        options: _Options,
        defaults: Defaults,
        now_ms: int,
        done: Done,
    ) -> None:
        batch = _Batch(len(members), address.topic, self._metrics, done)
        once = header(common, b"idempotency-key")
        if once is not None:
            common = [field for field in common if field[0].lower() != b"idempotency-key"]
        for number, member in enumerate(members):
            ident = self._fresh(16).hex()
            # Each is handled once by a key of its own, which is the same when the batch is sent again.
            own = common if once is None else [*common, (b"Idempotency-Key", b"%b.%d" % (once, number))]
            try:
                event = from_structured(member, own, ident, defaults)
            except Refused as refused:
                batch.told(number, ident, refused.problem)
                continue
            key = event.key or options.key
            publication = self._publication(event, ident, key, address.topic, options, now_ms)
            self._publish(publication, partial(batch.told, number, ident))
        if not members:
            batch.answer()


class _Batch:
    """The fates of the events of one batch, answered with once all are known."""

    __slots__ = ("_done", "_event_topic", "_fates", "_left", "_metrics", "_refused")

    def __init__(self, size: int, event_topic: str, metrics: Metrics, done: Done) -> None:
        self._fates = [""] * size
        """As JSON, in the order of the batch."""
        self._left = size
        self._refused: dict[int, Problem] = {}
        self._event_topic = event_topic
        self._metrics = metrics
        self._done = done

    def told(self, number: int, ident: str, fate: Fate | Problem) -> None:
        if isinstance(fate, Problem):
            self._refused[number] = fate
            why = {"id": ident, "status": "refused", "code": fate.code.value, "detail": fate.detail}
            self._fates[number] = json.dumps(why, ensure_ascii=False)
        elif fate is Fate.UNROUTABLE:
            self._metrics.count("event_unrouted")
            self._fates[number] = f'{{"id": "{ident}", "status": "accepted", "subscribers": 0}}'
        else:
            self._fates[number] = f'{{"id": "{ident}", "status": "accepted"}}'
        self._left -= 1
        if self._left == 0:
            self.answer()

    def answer(self) -> None:
        fates = f'"topic": "{self._event_topic}", "events": [{", ".join(self._fates)}]}}\n'.encode()
        if self._refused and len(self._refused) == len(self._fates):
            refusal = self._refused[min(self._refused)].as_response()
            self._done(refusal._replace(body=refusal.body.removesuffix(b"}") + b", " + fates))
        else:
            self._done(HttpResponse(202, [_JSON], b"{" + fates))


@lru_cache(maxsize=4096)  # an app publishes the same few again and again
def _address_in(path: bytes) -> EventAddress:
    text = unquote(path[len(PATH_PREFIX) :].decode("latin-1"))
    try:
        return parse_event(text)
    except BadName as error:
        raise refuse(Code.BAD_ADDRESS, str(error)) from error


def _timestamp(mesh_ms: int) -> bytes:
    return b"%b.%03dZ" % (_second(mesh_ms // 1000), mesh_ms % 1000)


@lru_cache(maxsize=16)
def _second(unix: int) -> bytes:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def _options(control: dict[bytes, bytes], now_ms: int) -> _Options:
    if b"meshq-callback" in control:
        raise refuse(Code.BAD_HEADER, "Meshq-Callback: an event has no result; its subscribers' answers go nowhere")
    deadline_ms = read_deadline(control)
    if deadline_ms is not None and deadline_ms <= now_ms:
        detail = "the deadline had passed before the event was published"
        raise Refused(Problem(Code.DEADLINE, detail, retryable=False))
    return _Options(read_key(control), read_delay(control), deadline_ms, read_priority(control))


def _check_size(of_all: Headers) -> None:
    if sum(len(name) + len(value) for name, value in of_all) > MAX_OF_ALL:
        raise refuse(
            Code.BAD_HEADER,
            f"the fields of a batch go with each of its events: send at most {MAX_OF_ALL} bytes of them",
        )


def _of_all(common: Headers) -> Headers:
    """What goes with every event of a request in the structured mode, besides its own."""
    if header(common, b"content-encoding") is not None:
        raise refuse(Code.BAD_HEADER, "Content-Encoding: events in JSON are read here, so they must not be compressed")
    return [field for field in common if field[0].lower() != b"content-type" and field[0][:3].lower() != b"ce-"]
