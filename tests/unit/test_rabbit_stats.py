"""Reading RabbitMQ's management API: what is asked, what is made of the answer, and what is said when there is none."""

import asyncio
import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from meshq.adapters.clock import ManualClock
from meshq.adapters.rabbit_stats import RabbitStats
from meshq.ports import QueueStats

NOW_MS = 1_700_000_000_000


class Asked(NamedTuple):
    path: str
    query: dict[str, list[str]]
    user: str


@contextmanager
def management(status: int, body: bytes) -> Iterator[tuple[int, list[Asked]]]:
    """An API that answers everything so."""
    asked: list[Asked] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            token = self.headers["Authorization"].removeprefix("Basic ")
            asked.append(Asked(parts.path, parse_qs(parts.query), base64.b64decode(token).decode()))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a test's output is its result."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def queues(answer: Any, url: Callable[[int], str] = lambda port: f"http://127.0.0.1:{port}") -> tuple[Any, list[Asked]]:
    with management(200, json.dumps(answer).encode()) as (port, asked):
        stats = RabbitStats("amqp://shop:s%40crt@h1,h2/a%2Fb", url(port), ManualClock(mesh_ms=NOW_MS))
        return asyncio.run(stats.queues()), asked


def test_one_request_for_the_virtual_host_with_the_brokers_user() -> None:
    found, asked = queues([])
    assert found == []
    (only,) = asked
    assert only.path == "/api/queues/a%2Fb"
    assert only.user == "shop:s@crt"
    assert "messages_ready" in only.query["columns"][0].split(",")


def test_a_user_in_its_own_url_and_a_path_before_the_api() -> None:
    _, asked = queues([], lambda port: f"http://ops:word@127.0.0.1:{port}/rabbit/")
    assert (asked[0].path, asked[0].user) == ("/rabbit/api/queues/a%2Fb", "ops:word")


def test_figures_and_what_is_not_known() -> None:
    found, _ = queues(
        [
            {
                "name": "meshq.orders.v1.call",
                "messages_ready": 3,
                "messages_unacknowledged": 2,
                "consumers": 1,
                "head_message_timestamp": NOW_MS // 1000 - 7,
                "message_stats": {"publish_details": {"rate": 1.5}, "deliver_get_details": {"rate": 0.0}},
            },
            {"name": "meshq.orders.v1.dead", "messages_ready": 0, "head_message_timestamp": "", "message_stats": {}},
            {"name": "meshq.orders.v1.work"},
        ]
    )
    assert found == [
        QueueStats("meshq.orders.v1.call", 3, 2, 1, 7.0, 1.5, 0.0),
        QueueStats("meshq.orders.v1.dead", 0),
        QueueStats("meshq.orders.v1.work"),
    ]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"{}", "refuses the user"),
        (404, b"{}", "answers 404"),
        (200, b"<html>", "gives no figures"),
        (200, b"{}", "is not the broker's management API"),
    ],
)
def test_no_figures_is_said_with_what_to_do(status: int, body: bytes, said: str) -> None:
    with management(status, body) as (port, _):
        stats = RabbitStats("amqp://h/v", f"http://127.0.0.1:{port}", ManualClock())
        with pytest.raises(OSError, match=said) as error:
            asyncio.run(stats.queues())
    assert f"127.0.0.1:{port}" in str(error.value)
    assert "set MESHQ_MANAGEMENT_URL" in str(error.value)


def test_nobody_there(free_port: int) -> None:
    stats = RabbitStats("amqp://h/v", f"http://127.0.0.1:{free_port}", ManualClock())
    with pytest.raises(OSError, match="Connection refused"):
        asyncio.run(stats.queues())


def test_an_url_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="http://"):
        RabbitStats("amqp://h/v", "h:15672", ManualClock())


@pytest.mark.rabbitmq
def test_of_a_real_broker(rabbitmq: Any, vhost: str, broker_url: str) -> None:
    rabbitmq.management.request("PUT", f"queues/{vhost}/meshq.orders.v1.call", {"durable": True, "auto_delete": False})
    stats = RabbitStats(broker_url, rabbitmq.management_url, ManualClock())
    (found,) = asyncio.run(stats.queues())
    assert found.queue == "meshq.orders.v1.call"
    assert found.ready in (0, None)  # the API has no figures before its first collection
