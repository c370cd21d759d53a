"""Figures of RabbitMQ's queues from its management API: one request for all queues of the virtual host, with the columns
that are needed and no other. Counts are as of the broker's last collection, up to 5 s ago."""

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from meshq.adapters import amqp_url
from meshq.ports import Clock, QueueStats

PORT = 15672
TIMEOUT = 5.0
"""Seconds; a node that is under an alarm or has thousands of queues still answers within this."""
MAX_ANSWER = 64 * 2**20
COLUMNS = (
    "name",
    "messages_ready",
    "messages_unacknowledged",
    "consumers",
    "head_message_timestamp",
    "message_stats.publish_details.rate",
    "message_stats.deliver_get_details.rate",
)


class RabbitStats:
    """`management_url` "" guesses the broker's first host on port 15672, and without a user in it the broker's own is used.
    Raises ValueError for a URL that makes no sense."""

    def __init__(self, broker_url: str, management_url: str, clock: Clock) -> None:
        broker = amqp_url.parse(broker_url)
        host = broker.hosts[0][0]
        parts = urlsplit(management_url or f"http://{f'[{host}]' if ':' in host else host}:{PORT}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the management API's URL begins with http:// or https://")
        self._clock = clock
        self._where = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        place = parts.netloc.rpartition("@")[2]
        path = f"{parts.path.rstrip('/')}/api/queues/{quote(broker.vhost, safe='')}"
        self._url = f"{parts.scheme}://{place}{path}?columns={','.join(COLUMNS)}"
        user, password = (
            (unquote(parts.username), unquote(parts.password or ""))
            if parts.username is not None
            else (broker.user, broker.password)
        )
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}", "User-Agent": "meshq"}
        # Without the environment's proxies: the management API is a neighbour of the broker, which no proxy leads to either.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    async def queues(self) -> list[QueueStats]:
        """Every queue of the virtual host. Raises OSError, whose message says why there are no figures."""
        return list(self._read(await asyncio.to_thread(self._ask)))

    def _ask(self) -> Any:
        request = urllib.request.Request(self._url, headers=self._headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read(MAX_ANSWER))
        except urllib.error.HTTPError as error:
            error.close()
            why = "refuses the user" if error.code in (401, 403) else f"answers {error.code}"
            raise OSError(f"the broker's management API at {self._where} {why}; set MESHQ_MANAGEMENT_URL") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise OSError(
                f"the broker's management API at {self._where} gives no figures ({reason}); set MESHQ_MANAGEMENT_URL"
            ) from error

    def _read(self, answer: Any) -> Iterable[QueueStats]:
        if not isinstance(answer, list):
            raise OSError(f"what answers at {self._where} is not the broker's management API; set MESHQ_MANAGEMENT_URL")
        now = self._clock.mesh_ms() / 1000
        for queue in answer:
            stamp = _number(queue.get("head_message_timestamp"))
            rates = queue.get("message_stats") or {}
            yield QueueStats(
                str(queue.get("name", "")),
                ready=_count(queue.get("messages_ready")),
                in_flight=_count(queue.get("messages_unacknowledged")),
                consumers=_count(queue.get("consumers")),
                oldest_age_seconds=None if stamp is None else max(0.0, now - stamp),
                in_rate=_number((rates.get("publish_details") or {}).get("rate")),
                out_rate=_number((rates.get("deliver_get_details") or {}).get("rate")),
            )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
