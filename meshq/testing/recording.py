"""Remembers what services send, where it is handed to the broker: so what is seen is what travels."""

from collections.abc import Callable
from typing import NamedTuple

from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.core.http import HttpRequest, header
from meshq.core.message import Request, decode
from meshq.core.queue_names import delayed_event_topic, destination, read_name
from meshq.ports import Publication, Published
from meshq.sdk.operation import Template, parse
from meshq.testing.messages import Message, message

_ACCEPTED = (Published.CONFIRMED, Published.UNROUTABLE)
"""The second is an event that nobody subscribes to, or a call to a queue that is gone."""


class _Sent(NamedTuple):
    request: Request
    topic: str
    at: float


class Recorder:
    """`passed` gives the seconds since the mesh was opened."""

    def __init__(self, passed: Callable[[], float]) -> None:
        self._passed = passed
        self._sent: dict[str, _Sent] = {}
        """By id: what is tried again is the same message."""
        self._attempts: dict[str, int] = {}

    def note(self, publication: Publication) -> None:
        """It was accepted."""
        to = destination(publication.key)
        event = delayed_event_topic(to)
        name = read_name(to)
        topic = event if event is not None else None if name is None else name.topic
        if topic is None:  # an answer, or a dead letter
            return
        for each in decode(publication.body):
            if isinstance(each, Request) and not each.mirrored:
                self._sent.setdefault(each.id, _Sent(each, topic, self._passed()))

    def note_attempt(self, request: HttpRequest) -> None:
        """A handler gets it."""
        ident = (header(request.headers, b"meshq-message-id") or b"").decode("latin-1")
        attempt = int(header(request.headers, b"meshq-attempt") or b"1")
        self._attempts[ident] = max(attempt, self._attempts.get(ident, 0))

    def calls(self, service: str, operation: str | None) -> list[Message]:
        """In the order in which they were sent. Raises ValueError for an operation that is none."""
        found = [each for each in self._messages(events=False) if each.to == service]
        return found if operation is None else [each for each in found if _is(each, operation)]

    def events(self, address: str) -> list[Message]:
        return [each for each in self._messages(events=True) if is_event(each.to, each.major, address)]

    def _messages(self, *, events: bool) -> list[Message]:
        found = []
        for sent in self._sent.values():
            if bool(sent.request.event) is events:
                attempts = self._attempts.get(sent.request.id, 0)
                found.append(message(sent.request, *split_topic(sent.topic), sent.at, attempts))
        return found


class RecordedBroker(EmbeddedBroker):
    """One sidecar's connection."""

    def __init__(self, hub: EmbeddedHub, user: str, recorder: Recorder) -> None:
        super().__init__(hub, user)
        self._recorder = recorder

    def send(self, publication: Publication) -> bool:
        sent = super().send(publication)
        if sent:
            self._recorder.note(publication)
        return sent

    def publish(self, publication: Publication, done: Callable[[Published], None]) -> None:
        def told(fate: Published) -> None:
            if fate in _ACCEPTED:
                self._recorder.note(publication)
            done(fate)

        super().publish(publication, told)


def is_request(method: str, target: str, operation: str) -> bool:
    """`operation` may have places, `GET /orders/{id}`; without a query it is any query's."""
    wanted = parse(operation)
    path = target if "?" in wanted.path else target.partition("?")[0]
    return method == wanted.method and (path == wanted.path or Template(wanted.path).match(path) is not None)


def _is(sent: Message, operation: str) -> bool:
    method, _, target = sent.operation.partition(" ")
    return is_request(method, target, operation)


def is_event(name: str, major: int, address: str) -> bool:
    """`address`: `payments.settled@2`; without a major it is any of it."""
    wanted, _, of = address.partition("@")
    return name == wanted and of in ("", str(major))


def split_topic(topic: str) -> tuple[str, int]:
    """`payments.settled.v1` -> (`payments.settled`, 1)"""
    name, _, major = topic.rpartition(".v")
    return name, int(major)
