"""AsyncAPI 3.0 of a service: its routes as the two queues of its topic, waited calls and durable messages, and the events that it takes.

Channels are named after queues and topics. An event's routing key ends with its partition, which says nothing of its content, so the
channel's address is the topic without it. Of a pattern `*` is `_` in the channel's name and `#` is `__`: no event has either.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from meshq.core import topology
from meshq.core.message import CONTENT_TYPE
from meshq.core.names import parse_version, topic
from meshq.core.subscriptions import Pattern
from meshq.sdk.bodies import JSON
from meshq.sdk.contracts_parts import (
    PROBLEM,
    PROBLEM_JSON,
    PROBLEM_NAME,
    Document,
    Schemas,
    content_type,
    operation_ids,
    ref,
    without_none,
    words,
)
from meshq.sdk.dispatch import Route
from meshq.sdk.handlers import Handler
from meshq.sdk.reply import Reply
from meshq.sdk.upgrades import chain

if TYPE_CHECKING:
    from meshq.sdk.service import On, Service

BINDING = "0.3.0"
_EVENT: Document = {"amqp": {"messageType": "event", "bindingVersion": BINDING}}
_OPERATION: Document = {"amqp": {"deliveryMode": 2, "ack": True, "bindingVersion": BINDING}}
"""Whatever is asked is persistent; an answer to a waited call is not."""

_DESCRIPTION = (
    "What lies on the broker is a record of meshq's wire version 1 "
    f"({CONTENT_TYPE}); the payloads here are the bodies in it, and the headers the fields that come with them."
)
_REQUEST_HEADERS: Document = {
    "type": "object",
    "properties": {
        "Meshq-Message-Id": {"type": "string"},
        "Meshq-Attempt": {"type": "string", "description": "From 1."},
        "Meshq-Caller": {"type": "string", "description": "The service that called, where the broker proves it."},
        "Meshq-Deadline": {"type": "string", "description": "Unix milliseconds after which nobody waits."},
        "Meshq-Key": {"type": "string", "description": "The ordering key."},
        "Idempotency-Key": {"type": "string"},
        "traceparent": {"type": "string"},
    },
    "required": ["Meshq-Message-Id"],
}
_ANSWER_HEADERS: Document = {
    "type": "object",
    "properties": {
        "Meshq-Message-Id": {"type": "string"},
        "Meshq-Served-By": {"type": "string", "description": "Service, version and instance."},
        "Meshq-Attempt": {"type": "string", "description": "Which one succeeded, from 1."},
    },
    "required": ["Meshq-Message-Id"],
}
_EVENT_HEADERS: Document = {
    "type": "object",
    "properties": {
        "Meshq-Message-Id": {"type": "string"},
        "Meshq-Attempt": {"type": "string", "description": "From 1."},
        "Meshq-Key": {"type": "string", "description": "The ordering key."},
        "ce-specversion": {"type": "string", "const": "1.0"},
        "ce-type": {"type": "string"},
        "ce-id": {"type": "string"},
        "ce-source": {"type": "string"},
        "ce-time": {"type": "string", "format": "date-time"},
        "traceparent": {"type": "string"},
    },
    "required": ["Meshq-Message-Id", "ce-specversion", "ce-type", "ce-id", "ce-source"],
}


class _Received(NamedTuple):
    """One major version of an event that a subscription takes."""

    name: str
    """Of the subscription."""
    on: "On"
    pattern: Pattern
    first: Handler
    """Who gets the body as it came: the event's handler, or the first upgrade."""

    @property
    def channel(self) -> str:
        return self.pattern.binding.replace("#", "__").replace("*", "_")


def asyncapi(service: "Service") -> Document:
    """Raises TypeError for a type that has no schema."""
    routes = list(zip(operation_ids(service.routes), service.routes, strict=True))
    events = list(_received(service))
    schemas = Schemas()
    for ident, route in routes:
        _want(schemas, f"{ident} body", route.handler, f"{route.method} {route.path.text}")
        if _answers_with_body(route):
            schemas.want(f"{ident} answer", "serialization", route.handler.returns, f"{route.method} {route.path.text}")
    for event in events:
        _want(schemas, f"on {event.name}", event.first, str(event.pattern))
    schemas.make()
    own = topic(service.name, parse_version(service.version).major)
    document: Document = {
        "asyncapi": "3.0.0",
        "info": {"title": service.name, "version": service.version, "description": _DESCRIPTION},
        "defaultContentType": JSON,
        "channels": {},
        "operations": {},
        "components": {
            "schemas": {
                **schemas.named,
                PROBLEM_NAME: PROBLEM,
                "meshq.RequestHeaders": _REQUEST_HEADERS,
                "meshq.AnswerHeaders": _ANSWER_HEADERS,
                "meshq.EventHeaders": _EVENT_HEADERS,
            },
            "messages": {PROBLEM_NAME: _PROBLEM},
            "correlationIds": {
                "meshq.MessageId": {
                    "description": "The message's id; its answer bears it too.",
                    "location": "$message.header#/Meshq-Message-Id",
                }
            },
        },
    }
    if routes:
        document["channels"] = _own_channels(own, [ident for ident, _ in routes])
    for ident, route in routes:
        _add_route(document, schemas, own, ident, route)
    for event in events:
        _add_event(document, schemas, event)
    return document


def _received(service: "Service") -> Iterator[_Received]:
    for on in service.ons:
        for name, major in service.names(on):
            steps = chain(service.upgrades, on.event, major, on.major)
            yield _Received(name, on, Pattern(on.event, major), steps[0].handler if steps else on.handler)


def _want(schemas: Schemas, key: str, handler: Handler, whose: str) -> None:
    if handler.body_name:
        schemas.want(key, "validation", handler.body, whose)


def _answers_with_body(route: Route) -> bool:
    return route.handler.returns not in (None, Any, Reply)


# --- routes -------------------------------------------------------------------------------------------------------------------


def _own_channels(own: str, idents: list[str]) -> Document:
    messages = {ident: ref("components", "messages", ident) for ident in idents}
    given = [*(f"{ident}.answer" for ident in idents), PROBLEM_NAME]
    answers = {each: ref("components", "messages", each) for each in given}
    call, work = topology.call_queue(own), topology.work_queue(own)
    return {
        call: _channel(call, "Waited calls.", messages, _queue(call)),
        work: _channel(work, "Durable messages: what is sent, not waited for.", dict(messages), _queue(work)),
        f"meshq.{own}.answers": _channel(None, "Answers, to whoever asked.", answers, _exchange(topology.REPLIES)),
    }


def _add_route(document: Document, schemas: Schemas, own: str, ident: str, route: Route) -> None:
    title = f"{route.method} {route.path.text}"
    messages, operations = document["components"]["messages"], document["operations"]
    payload = schemas[f"{ident} body"] if route.handler.body_name else None
    messages[ident] = _message(ident, title, "meshq.RequestHeaders", payload, content_type(route.handler.body))
    answer = schemas[f"{ident} answer"] if _answers_with_body(route) else None
    messages[f"{ident}.answer"] = _message(
        f"{ident}.answer",
        f"The answer to {title}",
        "meshq.AnswerHeaders",
        answer,
        content_type(without_none(route.handler.returns)[0]),
    )
    reply_to = f"meshq.{own}.answers"
    reply = {
        "address": {"location": "$message.header#/replyTo", "description": "The property reply_to of the message."},
        "channel": ref("channels", reply_to),
        "messages": [ref("channels", reply_to, "messages", each) for each in (f"{ident}.answer", PROBLEM_NAME)],
    }
    for suffix, queue in (("", topology.call_queue(own)), (".durable", topology.work_queue(own))):
        operations[f"{ident}{suffix}"] = {
            "action": "receive",
            "channel": ref("channels", queue),
            "title": title,
            **words(route.handler),
            "messages": [ref("channels", queue, "messages", ident)],
            "reply": reply,
            "bindings": _OPERATION,
        }


# --- events -------------------------------------------------------------------------------------------------------------------


def _add_event(document: Document, schemas: Schemas, event: _Received) -> None:
    message = f"on.{event.name}"
    payload = schemas[f"on {event.name}"] if event.first.body_name else None
    title = str(event.pattern)
    found = _message(message, title, "meshq.EventHeaders", payload, content_type(event.first.body))
    document["components"]["messages"][message] = {**found, "bindings": _EVENT}
    channel = document["channels"].setdefault(
        event.channel,
        _channel(event.pattern.binding, f"The event {title}.", {}, _exchange(topology.EVENTS)),
    )
    channel["messages"][message] = ref("components", "messages", message)
    said = words(event.on.handler)
    mode = f"The subscription {event.name}, {event.on.mode.value}."
    document["operations"][message] = {
        "action": "receive",
        "channel": ref("channels", event.channel),
        "title": title,
        **said,
        "description": f"{said['description']}\n\n{mode}" if "description" in said else mode,
        "messages": [ref("channels", event.channel, "messages", message)],
        "bindings": _OPERATION,
    }


# --- parts --------------------------------------------------------------------------------------------------------------------


def _message(name: str, title: str, headers: str, payload: Document | None, kind: str = JSON) -> Document:
    return {
        "name": name,
        "title": title,
        "contentType": kind,
        "headers": ref("components", "schemas", headers),
        **({} if payload is None else {"payload": payload}),
        "correlationId": ref("components", "correlationIds", "meshq.MessageId"),
    }


_PROBLEM = _message(
    PROBLEM_NAME, "Problem", "meshq.AnswerHeaders", ref("components", "schemas", PROBLEM_NAME), PROBLEM_JSON
)


def _channel(address: str | None, description: str, messages: Document, binding: Document) -> Document:
    return {"address": address, "description": description, "messages": messages, "bindings": {"amqp": binding}}


def _queue(name: str) -> Document:
    queue = {"name": name, "durable": True, "exclusive": False, "autoDelete": False}
    return {"is": "queue", "queue": queue, "bindingVersion": BINDING}


def _exchange(name: str) -> Document:
    exchange = {"name": name, "type": "topic", "durable": True, "autoDelete": False}
    return {"is": "routingKey", "exchange": exchange, "bindingVersion": BINDING}
