"""Reading RabbitMQ's management API: what is asked, what is made of the answer, and what is said when there is none."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from meshq.adapters import rabbit_http
from meshq.adapters.clock import ManualClock, SystemClock
from meshq.adapters.rabbit_stats import RabbitStats
from meshq.core.counting import Counter, Increase
from meshq.ports import QueueStats
from tests.servers.rabbitmq import Cluster
from tests.told_http import Asked, Told, telling

NOW_MS = 1_700_000_000_000


def queues(answer: Any, url: Callable[[int], str] = lambda port: f"http://127.0.0.1:{port}") -> tuple[Any, list[Asked]]:
    with telling(lambda _: Told(json.dumps(answer).encode())) as (port, asked):
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


# --- KEDA issue 7180: what is missing is not known, and never 0 ---------------------------------------------------------------


def only(**fields: Any) -> QueueStats:
    (found,) = queues([{"name": "q", **fields}])[0]
    assert isinstance(found, QueueStats)
    return found


def test_what_left_is_what_was_acknowledged_or_taken_without() -> None:
    stats = {"publish": 9, "ack": 4, "deliver_no_ack": 2, "get_no_ack": 1}
    assert only(messages_ready=2, messages_unacknowledged=0, message_stats=stats).done == 7.0


def test_keda_7180_statistics_that_are_missing_are_not_known() -> None:
    there = {"messages_ready": 5, "messages_unacknowledged": 1, "consumers": 2}
    for missing in (
        {},
        {"message_stats": {}},
        {"message_stats": None},
        {"message_stats": []},
        {"message_stats": {"deliver": 3}},
    ):
        assert only(**there, **missing) == QueueStats("q", 5, 1, 2), missing
    for broken in ("4", None, True, float("nan"), float("inf"), {}):
        assert only(**there, message_stats={"publish": 4, "ack": broken}).done is None, broken
        assert only(messages_ready=broken, messages_unacknowledged=1).ready is None, broken


def test_keda_7180_a_queue_that_nobody_leads_has_no_figures() -> None:
    """Also where the API still has some, of an earlier time."""
    there = {
        "messages_ready": 0,
        "messages_unacknowledged": 0,
        "consumers": 0,
        "head_message_timestamp": 1,
        "message_stats": {"publish": 4, "ack": 4, "publish_details": {"rate": 0.0}},
    }
    for gone in ({"state": "down"}, {"state": "minority"}, {"state": "crashed"}, {"leader": None}, {"leader": ""}):
        assert only(**there, **gone) == QueueStats("q"), gone
    assert only(**there, state="running", leader="rabbit@a").done == 4.0


def test_what_is_left_out_because_it_is_nothing_is_nothing() -> None:
    assert only(messages_ready=3, messages_unacknowledged=0, message_stats={"publish": 3}).done == 0.0, "never consumed"
    assert only(messages_ready=0, messages_unacknowledged=0).done == 0.0, "never used"
    assert only(messages_ready=0).done is None
    assert only().done is None


def test_keda_7180_lost_statistics_that_look_like_nothing_are_noticed() -> None:
    """The queue is empty for a moment, and just then its statistics are missing."""
    empty = {"messages_ready": 0, "messages_unacknowledged": 0}
    looks = [
        {"ack": 500, "publish": 500},
        {"ack": 510, "publish": 510},
        None,
        {"ack": 520, "publish": 520},
        {"ack": 527, "publish": 527},
    ]
    counter = Counter()
    left: list[Increase | None] = []
    for at, stats in enumerate(looks):
        found = only(**empty, **({} if stats is None else {"message_stats": stats}))
        left.append(counter.read(5.0 * at, found.done))
    assert [each and (each.amount, each.whole) for each in left] == [
        None, (10.0, True), (0.0, False), (0.0, False), (7.0, True),
    ]  # fmt: skip


def test_whether_only_one_consumer_gets_messages() -> None:
    assert only(arguments={"x-queue-type": "quorum", "x-single-active-consumer": True}).single is True
    assert only(arguments={"x-queue-type": "quorum"}).single is False
    assert only().single is None


FAULTS = [
    (Told(b"{}", 401), "refuses the user"),
    (Told(b"{}", 404), "answers 404"),
    (Told(b"{}", 500), "answers 500"),
    (Told(b"{}", 503), "answers 503"),
    (Told(b"<html>"), "gives no figures"),
    (Told(b""), "gives no figures"),
    (Told(b"\xff\xfe["), "gives no figures"),
    (Told(b"[" * 100_000), "gives no figures"),
    (Told(b"{}"), "is not the broker's management API"),
    (Told(b"[1]"), "is not the broker's management API"),
    (Told(b'[{"name": "q", "messages_re'), "gives no figures"),
    (Told(b"[]", missing=7), "breaks off"),
    (Told(b"[]", chunked=True), "breaks off"),
    (Told(raw=b"SSH-2.0-OpenSSH_9.6\r\n"), "does not speak HTTP"),
    (Told(silent=True), "timed out"),
    (Told(b"[]", missing=10_000, dripping=True), "timed out"),
]


@pytest.mark.parametrize(("told", "said"), FAULTS)
def test_keda_7180_no_figures_is_said_with_what_to_do(told: Told, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbit_http, "TIMEOUT", 0.2)
    with telling(lambda _: told) as (port, _):
        stats = RabbitStats("amqp://h/v", f"http://127.0.0.1:{port}", SystemClock())
        with pytest.raises(OSError, match=said) as error:
            asyncio.run(stats.queues())
    assert f"127.0.0.1:{port}" in str(error.value)
    assert "set MESHQ_MANAGEMENT_URL" in str(error.value)


def test_an_answer_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbit_http, "MAX_ANSWER", 2**20)
    with telling(lambda _: Told(b"[" + b" " * 2**20 + b"]")) as (port, _):
        stats = RabbitStats("amqp://h/v", f"http://127.0.0.1:{port}", ManualClock())
        with pytest.raises(OSError, match="its answer is over 1 MiB"):
            asyncio.run(stats.queues())


def test_nobody_there(free_port: int) -> None:
    stats = RabbitStats("amqp://h/v", f"http://127.0.0.1:{free_port}", ManualClock())
    with pytest.raises(OSError, match="Connection refused"):
        asyncio.run(stats.queues())


def test_an_url_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="http://"):
        RabbitStats("amqp://h/v", "h:15672", ManualClock())


@pytest.mark.rabbitmq
def test_of_a_real_broker(rabbitmq: Cluster, vhost: str, broker_url: str) -> None:
    rabbitmq.management.request("PUT", f"queues/{vhost}/meshq.orders.v1.call", {"durable": True, "auto_delete": False})
    stats = RabbitStats(broker_url, rabbitmq.management_url, ManualClock())
    (found,) = asyncio.run(stats.queues())
    assert found.queue == "meshq.orders.v1.call"
    assert found.ready in (0, None)  # the API has no figures before its first collection
    assert found.single is False
