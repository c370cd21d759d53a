"""What is wrong from the start: requests, messages, settings, servers. Each is answered or told of in words that help, and the
sidecar goes on."""

import base64
import json
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgpack
import pytest

from meshq.core.message import CONTENT_TYPE, DeadLetter, Response, decode, encode_response
from tests.corpus.malformed_http import CASES
from tests.e2e.load import load
from tests.e2e.pods import PATIENCE, Answer, Handled, Mesh, Pod, Sidecar, ask, environment, mesh
from tests.servers.management import unique
from tests.servers.processes import LOOPBACK, free_port, wait_for
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisDatabases

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]

MAX_BODY = 4 * 2**20
CALL_QUEUE = "meshq.orders.v1.call"


class World(NamedTuple):
    """One healthy mesh for all tests that do it no lasting harm."""

    mesh: Mesh
    vhost: str
    orders: Pod
    shop: Sidecar
    ghost: int
    """A port of the shop's sidecar that is a service which does not exist."""


@pytest.fixture(scope="module")
def world(rabbitmq: Cluster, redis_server: RedisDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    vhost, ghost = rabbitmq.new_vhost(), free_port()
    with mesh(rabbitmq.url(vhost), redis_server.new_database(), tmp_path_factory.mktemp("mesh")) as found:
        orders = found.pod("orders", app_timeout="500ms", retry="2:1s")
        shop = found.sidecar("shop", intercept=f"{ghost}=ghost@1")
        orders.sidecar.wait_ready()
        shop.wait_ready()
        shop.wait(lambda: shop.call("orders").status == 200, "the first call")
        yield World(found, vhost, orders, shop, ghost)
    rabbitmq.delete_vhost(vhost)


@pytest.fixture(autouse=True)
def nobody_was_harmed(world: World) -> Iterator[None]:
    """After every test the next call is answered."""
    yield
    assert world.shop.call("orders@1", "/afterwards", "POST", body=b"well").body == b"well"
    assert world.shop.running
    assert world.orders.sidecar.running


# --- requests -------------------------------------------------------------------------------------------------------------


def raw(port: int, data: bytes) -> bytes:
    """All that comes back for these bytes."""
    with socket.create_connection((LOOPBACK, port), PATIENCE) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_malformed_http_is_refused_by_the_process(world: World) -> None:
    handled = len(world.orders.app.handled())
    for case in CASES:
        answer = raw(world.shop.port, case.raw)
        expected = b"" if case.status is None else b"HTTP/1.1 %d " % case.status
        assert answer.startswith(expected), case.name
        assert bool(answer) == bool(expected), case.name
    assert len(world.orders.app.handled()) == handled


@pytest.mark.parametrize(
    "address",
    ["Orders", "or_ders", "orders@", "orders@x", "orders@1.2.3.4", "orders@>=2,<", "-orders", "o" * 41, "reply", "%FF"],
)
def test_a_malformed_address_in_the_path(world: World, address: str) -> None:
    answer = world.shop.call(address)
    assert (answer.status, answer.code) == (400, "bad-address")
    assert len(answer.detail) > 20


@pytest.mark.parametrize("host", ["a.b.orders.mesh", "or_ders.mesh", "reply.mesh", "orders-7d9f-k3m2qa.orders.mesh"])
def test_a_malformed_address_as_host_and_through_the_proxy(world: World, host: str) -> None:
    for answer in (ask(world.shop.port, "/", headers={"Host": host}), ask(world.shop.port, f"http://{host}/")):
        assert (answer.status, answer.code) == (400, "bad-address")
        assert host.partition(".")[0] in answer.detail


def test_a_service_that_does_not_exist_in_each_way(world: World) -> None:
    port = world.shop.port
    answers = [
        world.shop.call("ghost"),
        world.shop.call("ghost@1"),
        ask(port, "/", headers={"Host": "ghost.mesh"}),
        ask(port, "http://v1.ghost.mesh/"),
        ask(world.ghost, "/"),
    ]
    for answer in answers:
        assert (answer.status, answer.code) == (404, "unknown-service")
        assert "ghost" in answer.detail
        assert "orders" in answer.detail, "it should tell what there is"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Meshq-Timeout", "soon"),
        ("Meshq-Timeout", "0s"),
        ("Meshq-Timeout", "-1s"),
        ("Meshq-Timeout", "25h"),
        ("Meshq-Timeout", ""),
        ("Meshq-Deadline", "tomorrow"),
        ("Meshq-Deadline", "-5"),
        ("Meshq-Deadline", "9" * 16),
        ("Meshq-Version", "newest"),
        ("Meshq-Version", ">=2,"),
        ("Meshq-Key", "customer-7"),
        ("Meshq-Delay", "5s"),
        ("Meshq-Callback", "/done"),
    ],
)
def test_a_bad_header_of_the_mesh(world: World, header: str, value: str) -> None:
    answer = world.shop.call("orders", headers={header: value})
    assert (answer.status, answer.code) == (400, "bad-header")
    assert header in answer.detail


def test_a_foreign_host_origin_and_connect(world: World) -> None:
    port = world.shop.port
    call = "/v1/call/orders/"
    strangers: list[tuple[Answer, int, str]] = [
        (ask(port, call, headers={"Host": "evil.example"}), 421, "misdirected"),
        (ask(port, call, headers={"Host": "localhost.evil.example"}), 421, "misdirected"),
        (ask(port, "http://evil.example/"), 421, "misdirected"),
        (ask(port, call, headers={"Origin": "http://evil.example"}), 403, "denied"),
        (ask(port, call, headers={"Origin": "null"}), 403, "denied"),
        (ask(port, "orders.mesh:80", "CONNECT"), 421, "misdirected"),
        (ask(world.ghost, "ghost:80", "CONNECT"), 421, "misdirected"),
    ]
    for answer, status, code in strangers:
        assert (answer.status, answer.code) == (status, code)
        assert answer.detail
    assert ask(port, call, headers={"Origin": "http://localhost:5173"}).status == 200


def test_a_path_that_the_api_does_not_have(world: World) -> None:
    for path in ("/", "/v1", "/v1/", "/v1/nothing", "/v1/callorders", "/v2/call/orders/"):
        answer = ask(world.shop.port, path)
        assert (answer.status, answer.code) == (404, "")
        assert "/v1/call/" in answer.detail


def test_the_token_is_needed_where_one_is_set(world: World) -> None:
    kiosk = world.mesh.sidecar("kiosk", api_token="open-sesame").wait_ready()
    for headers in ({}, {"Meshq-Token": ""}, {"Meshq-Token": "open"}):
        for target in ("/v1/call/orders@1/", "/v1/services", "http://orders.mesh/"):
            answer = ask(kiosk.port, target, headers=headers)
            assert (answer.status, answer.code) == (403, "denied")
            assert "open-sesame" not in answer.detail
    assert kiosk.call("orders@1", headers={"Meshq-Token": "open-sesame"}).status == 200
    assert "open-sesame" not in json.dumps(world.orders.app.handled()[-1].headers), "it is not for other apps"


def test_a_body_over_the_limit_is_refused_before_it_is_sent(world: World) -> None:
    head = f"POST /v1/call/orders/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
    assert raw(world.shop.port, head.encode()).startswith(b"HTTP/1.1 413 ")
    largest = bytes(MAX_BODY)
    assert world.shop.call("orders@1", "/echo", "POST", body=largest).body == largest


# --- apps -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/bytes/{MAX_BODY + 1}", 502, "bad-gateway"),
        ("/garbage", 502, "bad-gateway"),
        ("/half", 502, "bad-gateway"),
        ("/hold/for-ever", 504, "deadline"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_app_that_answers_what_is_no_answer(world: World, method: str, path: str, status: int, code: str) -> None:
    before = len(world.orders.app.handled(path))
    answer = world.shop.call("orders@1", path, method)
    assert (answer.status, answer.code) == (status, code)
    assert answer.detail
    # MESHQ_RETRY is two attempts, for what is safe; a body that is too large would be so again.
    expected = 2 if method == "GET" and not path.startswith("/bytes") else 1
    assert len(world.orders.app.handled(path)) - before == expected


# --- messages on the call queue -------------------------------------------------------------------------------------------


def publish(cluster: Cluster, vhost: str, payload: bytes, **properties: Any) -> None:
    """To the call queue, past every sidecar."""
    body = {
        "routing_key": CALL_QUEUE,
        "payload": base64.b64encode(payload).decode(),
        "payload_encoding": "base64",
        "properties": properties,
    }
    assert cluster.management.request("POST", f"exchanges/{vhost}/amq.default/publish", body)["routed"]


def dead_letter(cluster: Cluster, vhost: str) -> DeadLetter:
    """Take the one message from the queue of the dead."""
    body = {"count": 2, "ackmode": "ack_requeue_false", "encoding": "base64"}
    found: list[dict[str, Any]] = []

    def came() -> bool:
        found.extend(cluster.management.request("POST", f"queues/{vhost}/meshq.orders.v1.dead/get", body))
        return bool(found)

    wait_for(came, PATIENCE, "a dead letter")
    (message,) = (decode(base64.b64decode(each["payload"])) for each in found)
    (letter,) = message
    assert isinstance(letter, DeadLetter)
    return letter


PREFIX = struct.Struct(">BII")


def record(header: dict[str, Any]) -> bytes:
    """One record as on the wire, its header as it is."""
    packed: bytes = msgpack.packb(header)
    return PREFIX.pack(1, len(packed), 0) + packed


UNREADABLE = {
    "random bytes": bytes(range(256)),
    "nothing": b"",
    "another wire version": PREFIX.pack(2, 1, 0) + b"\x80",
    "a header of 4 GiB": PREFIX.pack(1, 2**32 - 1, 0) + b"\x80",
    "a payload of 4 GiB": PREFIX.pack(1, 1, 2**32 - 1) + b"\x80",
    "a map of 4 billion entries": PREFIX.pack(1, 5, 0) + b"\xdf\xff\xff\xff\xff",
    "nested a thousand deep": PREFIX.pack(1, 1000, 0) + b"\x91" * 1000,
    "a request without a method": record({"k": "q", "i": "m1", "p": b"/", "h": []}),
    "a line break in a header": record({"k": "q", "i": "m1", "m": "GET", "p": b"/", "h": [b"A", b"b\r\nC: d"]}),
    "an answer among requests": encode_response(Response("m1", 200, [], b"", "orders/1.0.0/x")),
}


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_a_dead_letter_with_its_reason(rabbitmq: Cluster, world: World, payload: bytes) -> None:
    handled = len(world.orders.app.handled())
    publish(rabbitmq, world.vhost, payload, content_type=CONTENT_TYPE, message_id="no-id?")
    letter = dead_letter(rabbitmq, world.vhost)
    assert (letter.reason, letter.queue, letter.body) == ("undecodable", CALL_QUEUE, payload)
    assert letter.detail
    assert len(world.orders.app.handled()) == handled


def test_another_publishers_message_reaches_the_app_as_a_post(rabbitmq: Cluster, world: World) -> None:
    headers = {"X-Batch": "7", "Meshq-Caller": "liar", "bad name": "x", "Break": "a\r\nB: c"}
    publish(rabbitmq, world.vhost, b"<order/>", content_type="application/xml", message_id="f-1", headers=headers)

    def arrived() -> list[Handled]:
        return [h for h in world.orders.app.handled("/") if h.headers.get("amqp-message-id") == "f-1"]

    wait_for(arrived, PATIENCE, "the message at the app")
    (seen,) = arrived()
    assert seen.method == "POST"
    assert seen.headers["content-type"] == "application/xml"
    assert (seen.headers["x-batch"], seen.headers["meshq-message-id"]) == ("7", "f-1")
    assert "meshq-caller" not in seen.headers
    assert seen.headers["break"] == "a??B: c"


# --- settings -------------------------------------------------------------------------------------------------------------


def run_with(settings: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """A sidecar that should end by itself."""
    command = [sys.executable, "-m", "meshq_sidecar"]
    return subprocess.run(
        command, env=environment(settings), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


GOOD = {
    "MESHQ_SERVICE": "orders",
    "MESHQ_SERVICE_VERSION": "1.0.0",
    "MESHQ_BROKER_URL": "amqp://guest:guest@localhost/x",
    "MESHQ_REGISTRY_URL": "redis://localhost",
}


def test_bad_settings_are_all_told_at_once() -> None:
    bad = {
        "MESHQ_SERVICE": "Orders!",
        "MESHQ_BROKER_URL": "http://ada:s3cret@broker/",
        "MESHQ_PORT": "70000",
        "MESHQ_APP_TIMEOUT": "1 fortnight",
        "MESHQ_INTERCEPT": "8081",
        "MESHQ_APP_CONCURENCY": "3",
        "MESHQ_MAX_BODY": "1GiB",
        "MESHQ_TLS_KEY": "/nowhere/key.pem",
    }
    ended = run_with(bad)
    assert ended.returncode == 64
    for name in (*bad, "MESHQ_SERVICE_VERSION", "MESHQ_REGISTRY_URL"):
        assert f"{name}: " in ended.stderr
    assert "MESHQ_APP_CONCURRENCY" in ended.stderr, "the right spelling"
    assert "Traceback" not in ended.stderr
    assert "s3cret" not in ended.stderr


@pytest.mark.parametrize(
    "url", ["amqp://ada:s3cret/x@broker/", "amqp://ada:s3cret@broker:port/", "amqp://ada:s3cret@broker:99999/"]
)
def test_a_url_that_cannot_be_does_not_show_its_password(url: str) -> None:
    ended = run_with({**GOOD, "MESHQ_BROKER_URL": url})
    assert ended.returncode == 64
    assert "URL" in ended.stderr
    assert "s3cret" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "setting", ["MESHQ_PORT", "MESHQ_ADMIN_PORT", "MESHQ_DNS_PORT", "MESHQ_INTERCEPT", "MESHQ_HOST_PORTS"]
)
def test_a_port_that_is_taken(setting: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        free = {f"MESHQ_{name}PORT": str(free_port()) for name in ("", "ADMIN_", "DNS_")}
        ended = run_with({**GOOD, **free, setting: f"{port}=billing" if setting == "MESHQ_INTERCEPT" else str(port)})
    assert ended.returncode == 64
    assert str(port) in ended.stderr
    assert setting in ended.stderr
    assert "Traceback" not in ended.stderr


# --- brokers that are not as they should be --------------------------------------------------------------------------------


class Web(socketserver.BaseRequestHandler):
    """A server that says at once that this is not HTTP."""

    def handle(self) -> None:
        self.request.recv(8)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class Silent(socketserver.BaseRequestHandler):
    """A server that waits for a line of HTTP, which never comes."""

    def handle(self) -> None:
        while self.request.recv(65536):
            pass


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


class Relay(Threads):
    """The broker, on another port."""

    def __init__(self, port: int, broker: tuple[str, int]) -> None:
        self.broker = broker
        super().__init__((LOOPBACK, port), RelayHandler)


class RelayHandler(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.broker) as broker:
            back = threading.Thread(target=pump, args=(broker, self.request), daemon=True)
            back.start()
            pump(self.request, broker)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other direction ended it


def assert_unavailable(sidecar: Sidecar, sentence: str) -> None:
    """It lives, says why it is not ready, and refuses calls soon and for the same reason."""
    sidecar.wait(lambda: sentence in sidecar.checks().get("broker", ""), sentence)
    started = time.monotonic()
    answer = sidecar.call("orders@1")
    assert time.monotonic() - started < 5
    assert (answer.status, answer.code) == (503, "unavailable")
    assert sentence in answer.detail
    assert answer.headers["Retry-After"]
    assert ask(sidecar.admin_port, "/livez").status == 200
    assert sentence in sidecar.output


def test_a_broker_that_cannot_be_used_yet(rabbitmq: Cluster, world: World) -> None:
    later, user, port = unique("later"), unique("later"), free_port()
    host, amqp_port = rabbitmq.addresses[0]
    at = f"{host}:{amqp_port}"
    rabbitmq.add_user(user, "right", world.vhost, (".*", ".*", ".*"))
    with serving(Threads((LOOPBACK, 0), Web)) as web_port, serving(Threads((LOOPBACK, 0), Silent)) as silent_port:
        without_vhost = world.mesh.sidecar("a", broker_url=f"amqp://guest:guest@{at}/{later}")
        without_user = world.mesh.sidecar("b", broker_url=f"amqp://{user}:wr0ng@{at}/{world.vhost}")
        without_broker = world.mesh.sidecar("c", broker_url=f"amqp://guest:guest@{LOOPBACK}:{port}/{world.vhost}")
        with_web = world.mesh.sidecar("d", broker_url=f"amqp://guest:guest@{LOOPBACK}:{web_port}/{world.vhost}")
        with_silence = world.mesh.sidecar("e", broker_url=f"amqp://guest:guest@{LOOPBACK}:{silent_port}/{world.vhost}")
        assert_unavailable(without_vhost, f"not into the virtual host '{later}'")
        assert_unavailable(without_user, f"refuses the user '{user}'")
        assert_unavailable(without_broker, f"nothing listens on {LOOPBACK}:{port}")
        assert_unavailable(with_web, "does not speak AMQP")
        assert_unavailable(with_silence, "does not speak AMQP")
        for sidecar in (with_web, with_silence):  # without a broker there is nothing to wait for
            sidecar.terminate()
            assert sidecar.wait_exit(10) == 0
    assert "wr0ng" not in without_user.output
    rabbitmq.management.create_vhost(later, "guest")
    rabbitmq.management.create_user(user, "wr0ng")
    with serving(Relay(port, (host, amqp_port))):
        for sidecar in (without_vhost, without_user, without_broker):
            sidecar.wait_ready()
        assert without_user.call("orders@1").status == 200
        assert without_broker.call("orders@1").status == 200
        assert without_vhost.call("orders@1").status == 404, "another virtual host has other queues"
        without_broker.stop()
    without_vhost.stop()
    rabbitmq.delete_vhost(later)


def test_a_queue_that_exists_with_other_arguments(rabbitmq: Cluster, world: World) -> None:
    """The service says what to run and heals when that was done; the others are not disturbed."""
    queue = "meshq.odd.v1.call"
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 7}
    path = f"queues/{world.vhost}/{queue}"
    rabbitmq.management.request("PUT", path, {"durable": True, "arguments": arguments})
    odd = world.mesh.pod("odd")
    odd.sidecar.wait(lambda: "x-delivery-limit" in odd.sidecar.checks().get("broker", ""), "the argument named")
    fault = odd.sidecar.checks()["broker"]
    assert f"rabbitmqctl delete_queue {queue}" in fault
    assert fault in odd.sidecar.output
    assert world.shop.call("orders@1").status == 200
    assert world.orders.sidecar.ready
    rabbitmq.management.request("DELETE", path)
    odd.sidecar.wait_ready(15)
    world.shop.wait(lambda: world.shop.call("odd@1").status == 200, "the healed service")
    odd.sidecar.stop()


@pytest.mark.parametrize(
    ("permissions", "right"), [(("", ".*", ".*"), "configure"), ((".*", "", ".*"), "write"), ((".*", ".*", ""), "read")]
)
def test_a_user_without_a_right(rabbitmq: Cluster, world: World, permissions: tuple[str, str, str], right: str) -> None:
    user = unique("less")
    rabbitmq.add_user(user, "pw", world.vhost, permissions)
    limited = world.mesh.pod("limited", broker_url=rabbitmq.url(world.vhost, user, "pw"))

    def told() -> str:
        fault = limited.sidecar.checks().get("broker", "")
        return fault if user in fault else ""

    limited.sidecar.wait(told, "the fault")
    assert f"the {right} right" in told()
    answer = limited.sidecar.call("orders@1", headers={"Meshq-Timeout": "4s"})
    assert (answer.status, answer.code) in [(503, "unavailable"), (504, "deadline")]
    assert user in answer.detail
    limited.kill()
    rabbitmq.management.request("DELETE", f"permissions/{world.vhost}/{user}")


def test_a_service_that_the_broker_forbids_to_call(rabbitmq: Cluster, world: World) -> None:
    """Topic permissions on the broker are the mesh's policy: who is refused is told so, and calls to others go on."""
    user = unique("policed")
    rabbitmq.add_user(user, "pw", world.vhost, (".*", ".*", ".*"), {"meshq.calls": (r"^(?!orders\.).*", ".*")})
    policed = world.mesh.sidecar("policed", broker_url=rabbitmq.url(world.vhost, user, "pw"))
    billing = world.mesh.pod("billing")
    for sidecar in (policed, billing.sidecar):
        sidecar.wait_ready()
    policed.wait(lambda: policed.call("billing@1").status == 200, "billing")
    with load(policed, "billing@1") as calls:
        for method in ("GET", "POST"):
            started = time.monotonic()
            answer = policed.call("orders@1", "/forbidden", method, {"Meshq-Timeout": "5s"})
            assert (answer.status, answer.code) == (403, "denied")
            assert user in answer.detail
            assert time.monotonic() - started < 2
        calls.wait_for_more(20)
    calls.assert_answered()
    assert {call.code for call in calls.failed()} <= {"deadline", "unavailable"}
    assert world.orders.app.handled("/forbidden") == []
    assert policed.output.count("publishing channel was lost") < 10


# --- a registry that is not there -------------------------------------------------------------------------------------------


def test_a_registry_that_is_away_at_the_start(world: World) -> None:
    alone = world.mesh.sidecar("alone", registry_url=f"redis://{LOOPBACK}:{free_port()}")
    alone.wait(lambda: alone.checks().get("broker") == "ok", "the broker")
    assert alone.checks()["registry"] != "ok"
    assert alone.call("orders@1", "/with-major", "POST", body=b"x").body == b"x"
    for address in ("orders", "orders@^1", "orders@latest"):
        answer = alone.call(address)
        assert (answer.status, answer.code) == (503, "unavailable")
        assert "registry" in answer.detail
        assert "orders@1" in answer.detail, "what to do instead"
