"""What one service's broker user may do, as RabbitMQ's permissions (DESIGN part 4, "Security by the broker"). One user a service,
named like it, in the mesh's virtual host; every expression here is held against real brokers by
tests/contract/test_broker_rights.py.

RabbitMQ asks twice (rabbitmq.com/docs/access-control, "How Permissions Work" and "Topic Authorisation"):

- **permissions**: three expressions over names of queues and exchanges. Declaring and deleting needs *configure*, publishing
  *write* on the exchange, consuming *read* on the queue, binding *write* on the queue and *read* on the exchange, a dead-letter
  exchange *read* on the queue and *write* on that exchange.
- **topic permissions**: two expressions over routing keys for each topic exchange, *write* for publishing and *read* for binding.
  An exchange without any is open, so every exchange of the mesh that permissions reach has them here.

An expression matches anywhere unless it is anchored, so each begins with ^ and ends with $ or a dot that only one service has.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meshq.core.names import BadName, check_event, check_service
from meshq.core.topology import CALLS, DEAD, DELAY, DELAY_LEVELS, EVENTS, REPLIES, RETURN

NOTHING = "^$"
"""Matches no name and no key that there is."""

_SERVICE = "[a-z][a-z0-9-]*"
_LABEL = "[a-z0-9-]+"
_MAJOR = "v[0-9]+"
_WORKED = r"(work|key\.[0-9]+)"
_ANSWERED = rf"({_LABEL}\.{_LABEL}|results)"


class TopicRights(NamedTuple):
    """Expressions over routing keys of one topic exchange."""

    exchange: str
    write: str
    """Keys that may be published."""
    read: str
    """Keys that may be bound."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Of one user in one virtual host. The first three are expressions over names of queues and exchanges."""

    service: str
    configure: str
    write: str
    read: str
    topics: tuple[TopicRights, ...]


def rights(
    service: str,
    *,
    may_call: Sequence[str] | None = None,
    called_by: Sequence[str] | None = None,
    may_publish: Sequence[str] | None = None,
    may_subscribe: Sequence[str] | None = None,
    logs: Sequence[str] = (),
) -> Rights:
    """What `service` needs and no more. None means all.

    may_call: services that it may call, waiting or durably; itself always.
    called_by: services that may call it, so that it may answer them; itself always.
    may_publish, may_subscribe: events, or patterns of them as subscriptions have them (`payments.*`, `payments.#`). A subscription
    may be as wide as its pattern here and no wider.
    logs: events of which it keeps the log (MESHQ_LOG_EVENTS). Logs of what it may subscribe to it may read.

    Raises meshq.core.names.BadName."""
    own = check_service(service)
    called, callers = _services(own, may_call), _services(own, called_by)
    published = _events(may_publish, _LABEL, _LABEL)
    subscribed = _events(may_subscribe, r"([a-z0-9-]+|\*)", "[a-z0-9*#-]+")
    kept = _events(logs, _LABEL, _LABEL)
    bound = f"({subscribed}|{kept})" if logs else subscribed

    own_queue = rf"meshq\.{own}\."
    log = rf"meshq\.log\.{kept}\.{_MAJOR}$" if logs else ""
    read_log = rf"meshq\.log\.{_events(may_subscribe, _LABEL, _LABEL)}\.{_MAJOR}$"
    exchanges = r"meshq\.(calls|events|replies|dead|{})$"
    bits = rf"([01]\.){{{DELAY_LEVELS}}}"
    stars = rf"(\*\.){{{DELAY_LEVELS}}}"
    dead = rf"^meshq\.{own}\.{_MAJOR}\.dead$"
    return Rights(
        own,
        _any_of(own_queue, log),
        _any_of(own_queue, log, exchanges.format("delay")),
        _any_of(own_queue, log, read_log, exchanges.format("return")),
        (
            TopicRights(
                CALLS,
                rf"^{called}\.{_MAJOR}\.(call|{_WORKED})$",
                rf"^{own}\.{_MAJOR}\.(call|{_WORKED})$",
            ),
            TopicRights(
                EVENTS,
                rf"^{published}\.{_MAJOR}\.[0-9]+$",
                rf"^{bound}\.{_MAJOR}\.(\*|[0-9]+)$",
            ),
            TopicRights(REPLIES, rf"^{callers}\.{_ANSWERED}$", rf"^{own}\.{_ANSWERED}$"),
            TopicRights(DEAD, dead, dead),
            TopicRights(
                DELAY,
                rf"^{bits}({own_queue}.+|meshq\.{called}\.{_MAJOR}\.{_WORKED}|event\.{published}\.{_MAJOR}\.[0-9]+)$",
                NOTHING,
            ),
            TopicRights(
                RETURN,
                NOTHING,
                rf"^{stars}({own_queue}.+|event\.{bound}\.{_MAJOR}\.(\*|[0-9]+))$",
            ),
        ),
    )


def _any_of(*expressions: str) -> str:
    return f"^({'|'.join(filter(None, expressions))})"


def _services(own: str, names: Sequence[str] | None) -> str:
    if names is None:
        return _SERVICE
    return f"({'|'.join(sorted({own, *map(check_service, names)}))})"


def _events(patterns: Sequence[str] | None, one: str, more: str) -> str:
    """`one` is what a `*` of a pattern stands for, `more` each label that a `#` does."""
    if patterns is None:
        return rf"{more}(\.{more})*"
    return f"({'|'.join(_event(pattern, one, more) for pattern in sorted(set(patterns)))})" if patterns else "(?!)"


def _event(pattern: str, one: str, more: str) -> str:
    labels = ["#" if label == "**" else label for label in pattern.split(".")]
    plain = ".".join("x" if label in ("*", "#") else label for label in labels)
    try:
        check_event(plain)
    except BadName as error:
        raise BadName(f"{pattern[:130]!r} is neither an event nor a pattern of events such as payments.*") from error
    if labels == ["#"]:
        return rf"{more}(\.{more})*"
    found = ""
    for label in labels:
        if label == "#":
            found += rf"(\.{more})*" if found else rf"({more}\.)*"
        else:
            dot = r"\." if found and not found.endswith(r"\.)*") else ""
            found += dot + (one if label == "*" else re.escape(label))
    return found


# --- to apply them ----------------------------------------------------------------------------------------------------------


def commands(given: Rights, vhost: str, user: str = "") -> list[str]:
    """Lines for a shell beside the broker. The user (by default named like the service) is made before them:
    `rabbitmqctl add_user orders`, which asks for the password."""
    who = user or given.service
    lines = [_command("set_permissions", vhost, who, given.configure, given.write, given.read)]
    lines += [_command("set_topic_permissions", vhost, who, *topic) for topic in given.topics]
    return lines


def _command(name: str, vhost: str, *arguments: str) -> str:
    return " ".join(["rabbitmqctl", name, "-p", _quoted(vhost), *map(_quoted, arguments)])


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9._-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def definitions(all_given: Iterable[Rights], vhost: str) -> str:
    """JSON for `rabbitmqctl import_definitions` or the management API. It holds no users, because it would hold their passwords:
    make them first."""
    permissions, topics = [], []
    for given in all_given:
        who = {"user": given.service, "vhost": vhost}
        permissions.append({**who, "configure": given.configure, "write": given.write, "read": given.read})
        topics += [{**who, **topic._asdict()} for topic in given.topics]
    return json.dumps({"permissions": permissions, "topic_permissions": topics}, indent=2)
