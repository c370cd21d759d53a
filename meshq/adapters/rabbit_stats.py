"""Figures of RabbitMQ's queues from its management API: one request for all queues of the virtual host, with the columns
that are needed and no other. Counts are as of the broker's last collection, up to 5 s ago, and those of one queue are not all of the
same moment.

What the API leaves out is not known and never 0 (KEDA issue 7180): a queue without a leader, one whose node is down, statistics that
were lost. In two cases it leaves out what is 0: acknowledgements of a queue that was published to and never consumed, and all
statistics of a queue that is empty and was not used since the broker started. Should one of them be lost statistics after all, then
the counter falls and comes back, which meshq.core.counting knows for what it is.
"""

import json
from collections.abc import Iterable
from math import isfinite
from typing import Any
from urllib.parse import quote

from meshq.adapters import amqp_url
from meshq.adapters.rabbit_http import Endpoint, aside
from meshq.ports import Clock, QueueStats

PORT = 15672
COLUMNS = (
    "name",
    "state",
    "leader",
    "arguments.x-single-active-consumer",
    "messages_ready",
    "messages_unacknowledged",
    "consumers",
    "head_message_timestamp",
    "message_stats.publish_details.rate",
    "message_stats.deliver_get_details.rate",
    "message_stats.publish",
    "message_stats.ack",
    "message_stats.deliver_no_ack",
    "message_stats.get_no_ack",
)
DONE = ("ack", "deliver_no_ack", "get_no_ack")
"""How a message leaves a queue for good because somebody took it."""
NOBODY_KNOWS = frozenset({"down", "minority", "crashed", "stopped", "terminated"})
"""States of a queue whose figures, where there are any, are of an earlier time."""


class RabbitStats:
    """`management_url` "" guesses the broker's first host on port 15672, and without a user in it the broker's own is used.
    Raises ValueError for a URL that makes no sense."""

    def __init__(self, broker_url: str, management_url: str, clock: Clock) -> None:
        broker = amqp_url.parse(broker_url)
        host = broker.hosts[0][0]
        url = management_url or f"http://{f'[{host}]' if ':' in host else host}:{PORT}"
        user = broker.user, broker.password
        self._clock = clock
        self._endpoint = Endpoint(url, "the broker's management API", "MESHQ_MANAGEMENT_URL", clock, user)
        self._target = f"/api/queues/{quote(broker.vhost, safe='')}?columns={','.join(COLUMNS)}"

    async def queues(self) -> list[QueueStats]:
        """Every queue of the virtual host. Raises OSError, whose message says why there are no figures."""
        return await aside(self._ask)

    def _ask(self) -> list[QueueStats]:
        body = self._endpoint.ask(self._target)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise self._endpoint.no_figures(error) from error
        if not isinstance(answer, list) or not all(isinstance(queue, dict) for queue in answer):
            raise self._endpoint.other()
        return list(_read(answer, self._clock.mesh_ms() / 1000))


def _read(queues: Iterable[dict[str, Any]], now: float) -> Iterable[QueueStats]:
    for queue in queues:
        name = str(queue.get("name", ""))
        single = _part(queue, "arguments").get("x-single-active-consumer") is True if "arguments" in queue else None
        if queue.get("state") in NOBODY_KNOWS or not queue.get("leader", True):
            yield QueueStats(name, single=single)
            continue
        stamp = _number(queue.get("head_message_timestamp"))
        stats = _part(queue, "message_stats")
        yield QueueStats(
            name,
            ready=_count(queue.get("messages_ready")),
            in_flight=_count(queue.get("messages_unacknowledged")),
            consumers=_count(queue.get("consumers")),
            oldest_age_seconds=None if stamp is None else max(0.0, now - stamp),
            in_rate=_number(_part(stats, "publish_details").get("rate")),
            out_rate=_number(_part(stats, "deliver_get_details").get("rate")),
            done=_done(queue),
            single=single,
        )


def _done(queue: dict[str, Any]) -> float | None:
    if "message_stats" not in queue:
        empty = queue.get("messages_ready") == 0 and queue.get("messages_unacknowledged") == 0
        return 0.0 if empty else None
    stats = _part(queue, "message_stats")
    if "ack" not in stats:
        return 0.0 if _number(stats.get("publish")) is not None else None
    counted = [_number(stats.get(each, 0)) for each in DONE]
    known = [each for each in counted if each is not None]
    return sum(known) if len(known) == len(counted) else None


def _part(whole: dict[str, Any], name: str) -> dict[str, Any]:
    """What is inside it; of what is something else, nothing."""
    found = whole.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) else None


def _count(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
