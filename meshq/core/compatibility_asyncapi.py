"""Two AsyncAPI documents, version 3: what a service receives is a request to it, what it sends or replies is a response.

Operations are matched by what they do, where and with which message: by action, channel and the message's title, which of a route is
`POST /create` and of an event `payments.settled@1`. The service's own major version in the names of its queues does not count.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from meshq.core.compatibility_reading import BadDocument, Reading, listed
from meshq.core.compatibility_schemas import differences
from meshq.core.compatibility_variants import Finding, Way
from meshq.core.names import BadName, parse_version, topic

Node = Mapping[str, Any]
_NONE: Node = {}
_WAYS = {"receive": (Way.REQUEST, Way.RESPONSE), "send": (Way.RESPONSE, Way.REQUEST)}


class _Message(NamedTuple):
    """One that an operation has, with its replies."""

    operation: str
    action: str
    channel: str
    title: str
    node: Node
    replies: tuple[Node, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.action, self.channel, self.title


def compare(old: Reading, new: Reading) -> list[Finding]:
    """Raises BadDocument."""
    left = list(_messages(new))
    found = []
    for was in _messages(old):
        now = _match(was, left)
        if now is None:
            found.append(Finding(was.title, "is gone", True))
        else:
            left.remove(now)
            found += _told(old, was, new, now)
    found += [Finding(each.title, "is new", False) for each in left]
    return list(dict.fromkeys(found))


def _match(was: _Message, those: list[_Message]) -> _Message | None:
    """Of several the one of the same operation: an event may have two subscriptions."""
    found = [each for each in those if each.key == was.key]
    return next((each for each in found if each.operation == was.operation), found[0] if found else None)


def _told(old: Reading, was: _Message, new: Reading, now: _Message) -> Iterator[Finding]:
    way, back = _WAYS[was.action]
    for part in ("payload", "headers"):
        name = "request" if part == "payload" else part
        yield from differences(f"{was.title} {name}", way, old, _schema(was.node, part), new, _schema(now.node, part))
    replies = {_title(each): each for each in now.replies}
    for reply in was.replies:
        place = f"{was.title} response"
        given = replies.get(_title(reply))
        if given is None:
            yield Finding(place, f"is no longer {_title(reply)}", True)
        else:
            yield from differences(place, back, old, _schema(reply, "payload"), new, _schema(given, "payload"))


def _messages(of: Reading) -> Iterator[_Message]:
    own = _own_topic(of)
    operations = of.followed(of.document.get("operations", _NONE), "operations")
    for name, node in operations.items():
        operation = of.followed(node, name)
        action = operation.get("action")
        if not isinstance(action, str) or action not in _WAYS:
            raise BadDocument(f"the operation {name} neither sends nor receives")
        channel = of.followed(operation.get("channel"), f"the channel of {name}")
        address = str(channel.get("address"))
        if own and f".{own}." in f".{address}.":
            address = address.replace(own, own.rpartition(".v")[0])
        reply = of.followed(operation.get("reply", _NONE), f"the reply of {name}")
        replies = tuple(_of_operation(of, reply, _NONE))
        for message in _of_operation(of, operation, channel):
            yield _Message(name, action, address, _title(message), message, replies)


def _of_operation(of: Reading, node: Node, channel: Node) -> Iterator[Node]:
    """Its messages: those it names, or all of its channel."""
    if not channel and "channel" in node:
        channel = of.followed(node["channel"], "a channel")
    those = of.followed(channel.get("messages", _NONE), "the messages of a channel").values()
    for each in listed(node, "messages") if "messages" in node else those:
        yield of.followed(each, "a message")


def _title(message: Node) -> str:
    return str(message.get("title") or message.get("name") or "the message")


def _schema(message: Node, part: str) -> Any:
    schema = message.get(part, True)
    if isinstance(schema, Mapping) and "schemaFormat" in schema:
        return schema.get("schema", True)
    return schema


def _own_topic(of: Reading) -> str:
    """`orders.v2`, as far as title and version say so."""
    info = of.followed(of.document.get("info", _NONE), "info")
    try:
        return topic(str(info.get("title", "")), parse_version(str(info.get("version", ""))).major)
    except BadName:
        return ""
