"""Reading the Prometheus endpoints of all nodes: what is asked, what is summed, and what is not known when a part is missing."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from meshq.adapters import rabbit_http
from meshq.adapters.clock import ManualClock, SystemClock
from meshq.adapters.rabbit_prometheus import LEADERLESS, RabbitPrometheus
from meshq.ports import Clock, QueueStats
from tests.told_http import Asked, Told, telling

WORK, CALL = "meshq.orders.v1.work", "meshq.orders.v1.call"
KNOWS = "# TYPE rabbitmq_detailed_queue_messages_acked_total counter\n"
"""What a node says that counts by queue, also before there is anything to count."""


class FakeNode:
    """Says what the test sets, in the words of RabbitMQ."""

    def __init__(self, name: str, vhost: str = "shop") -> None:
        self.name = name
        self.vhost = vhost
        self.by_queue = True
        self.lines: list[str] = []
        self.told: Told | None = None
        """Instead of that."""
        self.asked: list[Asked] = []

    def leads(self, queue: str, ready: object, unacked: object, consumers: object) -> None:
        figures = {"queue_messages_ready": ready, "queue_messages_unacked": unacked, "queue_consumers": consumers}
        for name, value in figures.items():
            self.say(f'{name}{{vhost="{self.vhost}",queue="{queue}"}} {value}')

    def acked(self, queue: str, value: object, channel: str = "") -> None:
        if self.by_queue:
            self.say(f'queue_messages_acked_total{{vhost="{self.vhost}",queue="{queue}"}} {value}')
        else:
            labels = f'channel="{channel}",vhost="{self.vhost}",queue="{queue}"'
            self.say(f"channel_messages_acked_total{{{labels}}} {value}")

    def say(self, line: str) -> None:
        self.lines.append(f"rabbitmq_detailed_{line}\n")

    def answer(self, asked: Asked) -> Told:
        self.asked.append(asked)
        if self.told is not None:
            return self.told
        families = asked.query["family"]
        lines = [line for line in self.lines if "_channel_" not in line or "channel_queue_metrics" in families]
        identity = f'rabbitmq_identity_info{{rabbitmq_node="{self.name}",rabbitmq_cluster="c"}} 1\n'
        return Told(((KNOWS if self.by_queue else "") + "".join(lines) + identity).encode())


class Cluster:
    def __init__(self, stack: ExitStack, *names: str) -> None:
        self.nodes = [FakeNode(name) for name in names]
        self.ports = [stack.enter_context(telling(node.answer))[0] for node in self.nodes]
        self.clock = ManualClock()
        self.stats = self.reading(self.clock)

    def reading(self, clock: Clock) -> RabbitPrometheus:
        urls = ", ".join(f"http://127.0.0.1:{port}" for port in self.ports)
        return RabbitPrometheus("amqp://u:p@h1,h2/shop", urls, clock)

    def listed(self) -> dict[str, QueueStats]:
        self.clock.advance(5.0)
        return {found.queue: found for found in asyncio.run(self.stats.queues())}

    def clear(self) -> None:
        for node in self.nodes:
            node.lines.clear()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack, "rabbit@a", "rabbit@b", "rabbit@c")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbit_http, "TIMEOUT", 0.2)


def test_all_nodes_are_asked_for_what_is_needed_of_the_virtual_host(cluster: Cluster) -> None:
    assert cluster.listed() == {}
    for node in cluster.nodes:
        (asked,) = node.asked
        assert asked.path == "/metrics/detailed"
        assert asked.query["vhost"] == ["shop"]
        assert set(asked.query["family"]) == {"queue_coarse_metrics", "queue_consumer_count", "queue_delivery_metrics"}
        assert asked.user == ""


def test_a_user_and_a_path_of_the_endpoint() -> None:
    node = FakeNode("rabbit@a", "a/b")
    node.leads(WORK, 1, 0, 0)
    with telling(node.answer) as (port, asked):
        stats = RabbitPrometheus("amqp://h/a%2Fb", f"http://ops:w%40rd@127.0.0.1:{port}/rabbit/", ManualClock())
        assert asyncio.run(stats.queues()) == [QueueStats(WORK, 1, 0, 0, done=0.0)]
    assert (asked[0].path, asked[0].user, asked[0].query["vhost"]) == ("/rabbit/metrics/detailed", "ops:w@rd", ["a/b"])


def test_what_is_in_a_queue_is_its_leaders_word_and_what_was_taken_is_the_sum(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    a.leads(WORK, 7, 2, 3)
    b.leads(CALL, 0, 0, 1)
    assert cluster.listed() == {
        WORK: QueueStats(WORK, 7, 2, 3, done=0.0),
        CALL: QueueStats(CALL, 0, 0, 1, done=0.0),
    }
    b.acked(WORK, 40)
    c.acked(WORK, 2)
    assert cluster.listed()[WORK].done == 42.0
    c.say(f'queue_get_total{{vhost="shop",queue="{WORK}"}} 1')
    c.say(f'queue_messages_delivered_total{{vhost="shop",queue="{WORK}"}} 4')
    assert cluster.listed()[WORK].done == 47.0
    assert cluster.stats.fault == ""


def test_what_was_counted_before_the_first_listing_is_left_out(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    a.leads(WORK, 0, 0, 1)
    b.acked(WORK, 5_000)
    assert cluster.listed()[WORK].done == 0.0
    b.lines.clear()
    b.acked(WORK, 5_003)
    assert cluster.listed()[WORK].done == 3.0


def test_of_a_queue_that_is_new_everything_counts(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    cluster.listed()
    a.leads(WORK, 0, 1, 1)
    b.acked(WORK, 7)
    assert cluster.listed()[WORK].done == 7.0


def test_what_was_counted_of_a_queue_without_a_leader_is_not_new_when_it_has_one(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    b.acked(WORK, 5_000)
    assert cluster.listed() == {}
    a.leads(WORK, 0, 1, 1)
    b.acked(WORK, 2)
    assert cluster.listed()[WORK].done == 2.0


def test_nodes_that_count_by_channel_are_asked_for_that(cluster: Cluster) -> None:
    """RabbitMQ 3.10."""
    a, b, c = cluster.nodes
    for node in cluster.nodes:
        node.by_queue = False
    a.leads(WORK, 0, 0, 3)
    b.acked(WORK, 10, "<0.1.0>")
    c.acked(WORK, 1, "<0.1.0>")
    assert cluster.listed()[WORK].done == 0.0
    b.acked(WORK, 5, "<0.2.0>")
    assert cluster.listed()[WORK].done == 5.0, "a channel that is new has counted from 0"
    assert [len(node.asked) for node in cluster.nodes] == [3, 3, 3]
    b.lines = b.lines[1:]
    assert cluster.listed()[WORK].done == 0.0, "it begins anew: nobody knows what the channel that is gone counted last"
    c.acked(WORK, 4, "<0.9.0>")
    assert cluster.listed()[WORK].done == 4.0


def test_a_node_that_was_upgraded_counts_by_queue(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    b.by_queue = False
    a.leads(WORK, 0, 0, 1)
    b.acked(WORK, 10, "<0.1.0>")
    cluster.listed()
    b.by_queue, b.lines = True, b.lines[:1]
    b.acked(WORK, 3)
    assert cluster.listed()[WORK].done == 0.0, "the channel is gone"
    cluster.listed()
    assert "channel_queue_metrics" not in b.asked[-1].query["family"]


def test_other_virtual_hosts_and_what_others_name_their_queues(cluster: Cluster) -> None:
    """RabbitMQ 3.10 escapes nothing in a label, later ones do."""
    a, b, _ = cluster.nodes
    a.leads(WORK, 1, 0, 0)
    a.leads(r"a\"b\\c", 2, 0, 0)
    a.leads('x"y', 3, 0, 0)
    a.say('queue_messages_ready{vhost="shop",queue="more",membership="leader"} 4')
    b.vhost = "other"
    b.leads(WORK, 99, 0, 0)
    found = cluster.listed()
    assert {queue: each.ready for queue, each in found.items()} == {WORK: 1, 'a"b\\c': 2, 'x"y': 3, "more": 4}


# --- KEDA issue 7180: what is missing is not known, and never 0 ----------------------------------------------------------------


MISSING = [
    (Told(b"", 503), "answers 503"),
    (Told(b"", 401), "refuses the user"),
    (Told(b"<html>"), "is not RabbitMQ's Prometheus endpoint"),
    (Told(b"\xff\xfe"), "is not RabbitMQ's Prometheus endpoint"),
    (Told(b"", missing=10), "breaks off"),
    (Told(b"", chunked=True), "gives no figures|is not RabbitMQ's"),
    (Told(raw=b"SSH-2.0-OpenSSH_9.6\r\n"), "does not speak HTTP"),
    (Told(silent=True), "timed out"),
]


@pytest.mark.parametrize(("told", "said"), MISSING)
@pytest.mark.usefixtures("quick")
def test_keda_7180_without_one_node_no_sum_is_known(cluster: Cluster, told: Told, said: str) -> None:
    a, b, c = cluster.nodes
    a.leads(WORK, 7, 2, 3)
    b.leads(CALL, 1, 1, 1)
    c.acked(WORK, 100)
    cluster.listed()
    b.told = told
    assert cluster.listed() == {WORK: QueueStats(WORK, 7, 2, 3), CALL: QueueStats(CALL)}
    assert cluster.stats.fault.count("set MESHQ_PROMETHEUS_URLS") == 1
    assert f"127.0.0.1:{cluster.ports[1]}" in cluster.stats.fault
    b.told = None
    c.acked(WORK, 1)  # a second line of it, so 101 by now
    found = cluster.listed()
    assert (found[WORK].done, found[CALL].ready, cluster.stats.fault) == (1.0, 1, "")


@pytest.mark.parametrize(("told", "said"), MISSING)
@pytest.mark.usefixtures("quick")
def test_keda_7180_without_any_node_it_is_said_what_to_do(cluster: Cluster, told: Told, said: str) -> None:
    for node in cluster.nodes:
        node.told = told
    with pytest.raises(OSError, match=said) as error:
        cluster.listed()
    assert str(error.value).count("set MESHQ_PROMETHEUS_URLS") == 3


def test_keda_7180_half_an_answer_is_none() -> None:
    node = FakeNode("rabbit@a")
    node.leads(WORK, 7, 2, 3)
    whole = node.answer(Asked("", {"family": []}, "")).body
    with telling(lambda _: Told(whole[:-30], missing=30)) as (port, _):
        stats = RabbitPrometheus("amqp://h/shop", f"http://127.0.0.1:{port}", SystemClock())
        with pytest.raises(OSError, match="breaks off"):
            asyncio.run(stats.queues())


def test_keda_7180_figures_that_are_missing_or_no_numbers_are_not_known(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    a.say(f'queue_messages_ready{{vhost="shop",queue="{WORK}"}} 7')
    a.leads(CALL, "NaN", "+Inf", "many")
    b.acked(CALL, "NaN")
    assert cluster.listed() == {WORK: QueueStats(WORK, 7, done=0.0), CALL: QueueStats(CALL)}


def test_keda_7180_a_queue_between_two_leaders_has_no_figures(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    a.leads(WORK, 7, 2, 3)
    c.acked(WORK, 10)
    cluster.listed()
    b.leads(WORK, 7, 2, 3)
    assert cluster.listed()[WORK] == QueueStats(WORK), "two speak of it: never the sum"
    a.lines.clear()
    b.lines.clear()
    assert cluster.listed()[WORK] == QueueStats(WORK), "nobody speaks of it"
    b.leads(WORK, 6, 2, 3)
    c.acked(WORK, 1)
    assert cluster.listed()[WORK] == QueueStats(WORK, 6, 2, 3, done=1.0)


def test_a_queue_that_nobody_speaks_of_for_long_is_deleted(cluster: Cluster) -> None:
    cluster.nodes[0].leads(WORK, 7, 2, 3)
    cluster.listed()
    cluster.clear()
    cluster.clock.advance(LEADERLESS - 5.0)
    assert cluster.listed() == {WORK: QueueStats(WORK)}
    assert cluster.listed() == {}


@pytest.mark.usefixtures("quick")
def test_a_queue_of_a_node_that_is_missing_is_not_taken_for_deleted(cluster: Cluster) -> None:
    cluster.nodes[0].leads(WORK, 7, 2, 3)
    cluster.listed()
    cluster.nodes[0].told = Told(b"", 503)
    cluster.clock.advance(10 * LEADERLESS)
    assert cluster.listed() == {WORK: QueueStats(WORK)}


def test_one_node_by_two_names_is_refused(cluster: Cluster) -> None:
    cluster.nodes[1].name = "rabbit@a"
    with pytest.raises(OSError, match=r"two of the URLs lead to the node rabbit@a, .* set MESHQ_PROMETHEUS_URLS"):
        cluster.listed()


@pytest.mark.parametrize("urls", ["", " , ", "h:15692", "http://h:15692,ftp://i"])
def test_urls_that_make_no_sense(urls: str) -> None:
    with pytest.raises(ValueError, match=r"http://"):
        RabbitPrometheus("amqp://h/v", urls, ManualClock())
