"""The apps of examples/, each run on its own without a mesh: what they answer, and how they stop."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOP = EXAMPLES / "shop"
DEADLINE_SECONDS = 30

MESH_KEYS = {"mesh", "broker", "registry", "apps"}
APP_KEYS = {
    "service", "version", "command", "directory", "port", "replicas", "health", "intercept", "subscribe", "env", "scale",
    "proxy", "sidecarPort",
}  # fmt: skip

ORDERS = [("orders.py", "1"), ("orders.mjs", "2")]
LINE = {"customer": "ada", "item": "tea", "quantity": 3, "unit_cents": 450, "charge": "ch-1"}
NOWHERE = "http://127.0.0.1:1"  # tcpmux: nobody listens there


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class App:
    """An app under way. It says where it listens in its first line, so starting it waits for no more than that."""

    def __init__(self, file: str, **env: str) -> None:
        program = "node" if file.endswith(".mjs") else sys.executable
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self.process = subprocess.Popen(
            [program, file], cwd=SHOP, env={**clean, "PORT": "0", **env}, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def url(self) -> str:
        banner = self.line()
        match = re.fullmatch(r"(\w+) ([0-9.]+) on (http://127\.0\.0\.1:[0-9]+)", banner)
        assert match is not None, banner
        return match[3]

    def line(self) -> str:
        with self.within_deadline():
            return self.output.readline().rstrip("\n")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """The exit code, and what it said at the end."""
        self.process.send_signal(how)
        said, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, said

    @contextmanager
    def within_deadline(self) -> Iterator[None]:
        """Kills an app that says nothing, which ends the reading of what it says."""
        timer = threading.Timer(DEADLINE_SECONDS, self.process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def running(file: str, **env: str) -> Iterator[App]:
    app = App(file, **env)
    try:
        yield app
    finally:
        app.process.kill()
        app.process.communicate()


@contextmanager
def serving(file: str, **env: str) -> Iterator[str]:
    with running(file, **env) as app:
        yield app.url()


def ask(url: str, method: str, path: str, document: Any = None, **headers: str) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode() if document is not None else None
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=DEADLINE_SECONDS)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        return Answer(response.status, dict(response.getheaders()), json.loads(content) if content else None)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def billing() -> Iterator[str]:
    with serving("billing.mjs") as url:
        yield url


@pytest.fixture(scope="module", params=ORDERS, ids=["version 1", "version 2"])
def orders(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The URL of one of the two, and its major version."""
    file, major = request.param
    with serving(file) as url:
        yield url, major


@pytest.fixture(scope="module")
def store(billing: str, orders: tuple[str, str]) -> Iterator[str]:
    with serving("storefront.py", BILLING_URL=billing, ORDERS_URL=orders[0]) as url:
        yield url


@pytest.mark.parametrize("file", ["storefront.py", "orders.py", "orders.mjs", "billing.mjs"])
def test_an_app_is_healthy_says_its_version_and_stops_when_told(file: str) -> None:
    for how in (signal.SIGTERM, signal.SIGINT):
        with running(file) as app:
            url = app.url()
            health = ask(url, "GET", "/healthz")
            assert (health.status, health.body) == (200, {"status": "ok"})
            assert health.headers["Server"] == f"{service_of(file)['service']}/{service_of(file)['version']}"
            assert ask(url, "GET", "/nowhere").status == 404
            assert app.stop(how)[0] == 0


@pytest.mark.parametrize("file", ["storefront.py", "billing.mjs"])
def test_a_connection_is_kept_and_an_idle_one_does_not_hold_up_the_stop(file: str) -> None:
    with running(file) as app:
        connection = http.client.HTTPConnection(app.url().removeprefix("http://"), timeout=DEADLINE_SECONDS)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        kept = connection.sock
        connection.request("HEAD", "/healthz")
        assert connection.getresponse().read() == b""
        assert connection.sock is kept
        assert app.stop()[0] == 0
        connection.close()


def test_a_request_under_way_is_finished_before_the_stop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as slow_billing:
        slow = f"http://127.0.0.1:{slow_billing.getsockname()[1]}"
        with running("storefront.py", BILLING_URL=slow) as app:
            connection = http.client.HTTPConnection(app.url().removeprefix("http://"), timeout=DEADLINE_SECONDS)
            connection.request("POST", "/buy", json.dumps({"customer": "ada", "item": "tea", "quantity": 1}))
            slow_billing.settimeout(DEADLINE_SECONDS)
            charge, _ = slow_billing.accept()  # now the purchase is under way
            app.process.terminate()
            with charge:
                charge.recv(65536)
                charge.sendall(b'HTTP/1.1 402 Payment Required\r\nContent-Length: 18\r\n\r\n{"error": "broke"}')
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())) == (402, {"error": "broke"})
            connection.close()
            assert app.process.wait(DEADLINE_SECONDS) == 0


def test_orders_are_placed_found_listed_and_cancelled_once(orders: tuple[str, str]) -> None:
    url, major = orders
    placed = ask(url, "POST", "/orders", LINE)
    order = placed.body
    assert placed.status == 201
    assert placed.headers["Location"] == f"/orders/{order['id']}"
    assert order["id"].startswith(f"{major}-")
    assert (order["state"], order["quantity"], order["total_cents"]) == ("placed", 3, 1350)
    assert (order["customer"], order["item"], order["charge"]) == ("ada", "tea", "ch-1")

    second = ask(url, "POST", "/orders", LINE).body
    assert second["id"] != order["id"]
    assert ask(url, "GET", f"/orders/{order['id']}").body == order
    assert ask(url, "GET", "/orders?limit=2").body["orders"] == [second, order]
    assert ask(url, "GET", "/orders?limit=1").body["orders"] == [second]

    assert ask(url, "POST", f"/orders/{order['id']}/cancel").body == {**order, "state": "cancelled"}
    assert ask(url, "POST", f"/orders/{order['id']}/cancel").status == 409
    assert ask(url, "GET", f"/orders/{order['id']}").body["state"] == "cancelled"


def test_version_2_only_adds_fields() -> None:
    with serving("orders.py") as first, serving("orders.mjs") as second:
        old, new = (ask(url, "POST", "/orders", LINE).body for url in (first, second))
    added = new.keys() - old.keys()
    assert added == {"currency", "unit_cents", "placed_at"}
    assert {name: new[name] for name in old if name != "id"} == {name: old[name] for name in old if name != "id"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantity": 0},
        {"quantity": 101},
        {"quantity": 1.5},
        {"quantity": "3"},
        {"quantity": True},
        {"customer": ""},
        {"item": None},
        {"unit_cents": -1},
        {"charge": 7},
    ],
    ids=str,
)
def test_orders_refuse_what_is_wrong_and_name_it(orders: tuple[str, str], wrong: dict[str, Any]) -> None:
    answer = ask(orders[0], "POST", "/orders", {**LINE, **wrong})
    assert answer.status == 400
    assert next(iter(wrong)) in answer.body["error"]


@pytest.mark.parametrize(
    ("method", "path", "document", "status"),
    [
        ("POST", "/orders", b"{", 400),
        ("POST", "/orders", [1], 400),
        ("POST", "/orders", b"", 400),
        ("POST", "/orders", b" " * 70_000, 413),
        ("GET", "/orders?limit=0", None, 400),
        ("GET", "/orders?limit=many", None, 400),
        ("GET", "/orders/none", None, 404),
        ("POST", "/orders/none/cancel", None, 404),
        ("DELETE", "/orders", None, 404),
    ],
)
def test_orders_refuse(orders: tuple[str, str], method: str, path: str, document: Any, status: int) -> None:
    answer = ask(orders[0], method, path, document)
    assert answer.status == status
    assert answer.body["error"]


def test_billing_charges_the_same_reference_once(billing: str) -> None:
    charge = ask(billing, "POST", "/charges", {"reference": "r-1", "amount_cents": 900})
    assert charge.status == 201
    assert charge.body == {**charge.body, "reference": "r-1", "amount_cents": 900, "state": "captured"}
    again = ask(billing, "POST", "/charges", {"reference": "r-1", "amount_cents": 900})
    other = ask(billing, "POST", "/charges", {"reference": "r-2", "amount_cents": 900})
    assert again.body == charge.body
    assert other.body["id"] != charge.body["id"]


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"reference": "r", "amount_cents": 100_000}, 201),
        ({"reference": "r", "amount_cents": 100_001}, 402),
        ({"reference": "r", "amount_cents": 0}, 400),
        ({"reference": "r", "amount_cents": 4.5}, 400),
        ({"amount_cents": 5}, 400),
        (b"null", 400),
    ],
)
def test_billing_declines_and_refuses(billing: str, document: Any, status: int) -> None:
    assert ask(billing, "POST", "/charges", document).status == status


def test_storefront_shows_and_sells(store: str, orders: tuple[str, str]) -> None:
    items = {item["item"]: item["unit_cents"] for item in ask(store, "GET", "/").body["items"]}
    sale = ask(store, "POST", "/buy", {"customer": "ada", "item": "teapot", "quantity": 2}, Idempotency_Key="key-7")
    assert sale.status == 201
    order, charge = sale.body["order"], sale.body["charge"]
    assert order["total_cents"] == charge["amount_cents"] == 2 * items["teapot"]
    assert order["charge"] == charge["id"]
    assert charge["reference"] == "key-7"
    assert ask(orders[0], "GET", f"/orders/{order['id']}").body == order


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"customer": "ada", "item": "samovar", "quantity": 2}, 402),
        ({"customer": "ada", "item": "coffee", "quantity": 1}, 404),
        ({"customer": "ada", "item": "tea", "quantity": 0}, 400),
        ({"item": "tea", "quantity": 1}, 400),
        (b"tea, please", 400),
    ],
)
def test_storefront_refuses_and_orders_nothing(store: str, orders: tuple[str, str], wish: Any, status: int) -> None:
    before = ask(orders[0], "GET", "/orders").body["count"]
    answer = ask(store, "POST", "/buy", wish)
    assert answer.status == status
    assert answer.body["error"]
    assert ask(orders[0], "GET", "/orders").body["count"] == before


def test_storefront_counts_each_order_that_was_placed_once(billing: str, orders: tuple[str, str]) -> None:
    with serving("storefront.py", BILLING_URL=billing, ORDERS_URL=orders[0]) as store:
        for order in ({"id": "1-a", **LINE}, {"id": "2-b", **LINE, "quantity": 4}, {"id": "1-a", **LINE}):
            assert ask(store, "POST", "/on/placed", order).status == 200
        assert ask(store, "GET", "/bestsellers").body["ordered"] == {"tea": 7, "teapot": 0, "samovar": 0}
        assert ask(store, "POST", "/on/placed", {"item": "tea"}).status == 400


class Published(NamedTuple):
    path: str
    headers: Any
    body: Any


@pytest.mark.parametrize(("file", "major"), ORDERS)
def test_orders_publish_each_order_where_there_is_a_mesh(file: str, major: str) -> None:
    got: Queue[Published] = Queue()

    class Sidecar(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.put(Published(self.path, self.headers, body))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Sidecar) as sidecar:
        threading.Thread(target=sidecar.serve_forever, daemon=True).start()
        with serving(file, MESHQ_URL=f"http://127.0.0.1:{sidecar.server_port}") as url:
            order = ask(url, "POST", "/orders", LINE).body
            published = got.get(timeout=DEADLINE_SECONDS)
        sidecar.shutdown()
    assert (published.path, published.body) == ("/v1/publish/orders.placed", order)
    assert published.headers["Ce-Id"] == order["id"]
    assert order["id"].startswith(major)


def test_an_order_that_nobody_can_be_told_of_is_an_order(billing: str) -> None:
    for file, _ in ORDERS:
        with running(file, MESHQ_URL=NOWHERE) as app:
            assert ask(app.url(), "POST", "/orders", LINE).status == 201


def test_storefront_says_that_it_could_not_reach_an_app(billing: str) -> None:
    wish = {"customer": "ada", "item": "tea", "quantity": 1}
    with serving("storefront.py", BILLING_URL=NOWHERE) as store:
        assert ask(store, "POST", "/buy", wish).status == 502
    with serving("storefront.py", BILLING_URL=billing, ORDERS_URL=billing) as store:  # billing takes no orders
        answer = ask(store, "POST", "/buy", wish)
        assert (answer.status, answer.body["error"]) == (502, f"{billing}/orders answered 404")


def test_shopper_shows_each_call_and_adds_up(billing: str) -> None:
    with (
        serving("orders.py") as first,
        serving("orders.mjs") as second,
        serving("storefront.py", BILLING_URL=billing, ORDERS_URL=first) as store,
        through_a_path("/v1/call/orders@2", second) as mesh,
        running("shopper.py", STORE_URL=store, ORDERS_V1_URL=first, MESHQ_URL=mesh, RATE="50") as shopper,
    ):
        assert shopper.line() == f"shopping at {store}, 50 calls a second"
        lines = [shopper.line() for _ in range(16)]
        code, rest = shopper.stop()
    for line in lines:
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d  (GET |POST)  \w+( v[12])? +/\S* +\d{3} +[0-9.]+ ms  \w+/\d\.\d\.\d", line
        ), line
    assert {line.split(" ms  ")[1] for line in lines} == {"storefront/1.0.0", "orders/1.4.2", "orders/2.0.0"}
    *more, summary = rest.splitlines()
    calls = len(lines) + len(more)
    assert re.fullmatch(
        rf"{calls} calls, {calls} answered, 0 not answered, 0 not as expected; p50 [0-9.]+ ms, p99 [0-9.]+ ms", summary
    )
    assert code == 0


def test_shopper_fails_when_an_answer_is_not_the_expected_one(billing: str) -> None:
    with (
        serving("orders.py") as first,
        serving("orders.mjs") as second,
        through_a_path("/v1/call/orders@2", second) as mesh,
        running("storefront.py", BILLING_URL=billing, ORDERS_URL=first) as storefront,
    ):
        store = storefront.url()
        with running("shopper.py", STORE_URL=store, ORDERS_V1_URL=first, MESHQ_URL=mesh, RATE="50") as shopper:
            shopper.line()
            shopper.line()
            storefront.process.kill()
            storefront.process.wait(DEADLINE_SECONDS)
            while "EXPECTED" not in shopper.line():
                assert shopper.process.poll() is None
            code, rest = shopper.stop()
    assert code == 1
    assert re.search(r"[1-9][0-9]* not answered, 0 not as expected;", rest)


def test_shopper_told_to_stop_before_the_shop_opened_has_failed() -> None:
    with running("shopper.py", STORE_URL=NOWHERE) as shopper:
        assert shopper.line().startswith("shopping at")
        code, rest = shopper.stop()
    assert code == 1
    assert "the shop did not open" in rest
    assert rest.splitlines()[-1].startswith("0 calls, 0 answered")


@contextmanager
def through_a_path(prefix: str, url: str) -> Iterator[str]:
    """A base URL under which `prefix` leads to `url`: what the shopper uses of a sidecar."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def forward() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:  # closed: the test is over
                    return
                with client, socket.create_connection((host, int(port)), DEADLINE_SECONDS) as app:
                    client.settimeout(DEADLINE_SECONDS)
                    request = b""
                    while not whole(request) and (piece := client.recv(65536)):
                        request += piece
                    app.sendall(request.replace(f" {prefix}/".encode(), b" /", 1))
                    while piece := app.recv(65536):
                        client.sendall(piece)

        thread = threading.Thread(target=forward)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE_SECONDS)


def whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: ([0-9]+)", head.lower())
    return bool(end) and len(body) == (int(length[1]) if length else 0)


def mesh_file(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = YAML(typ="safe").load(path)
    return document


def service_of(file: str) -> dict[str, Any]:
    """What the shop's mesh.yaml says of the app that runs `file`."""
    apps = [app for app in mesh_file(SHOP / "mesh.yaml")["apps"] if app["command"].split()[-1] == file]
    assert len(apps) == 1
    return dict(apps[0])


@pytest.mark.parametrize("example", ["shop", "httpbin", "shop-sdk", "fastapi", "flask", "worker"])
def test_a_mesh_file_has_only_the_keys_that_there_are(example: str) -> None:
    mesh = mesh_file(EXAMPLES / example / "mesh.yaml")
    assert mesh.keys() <= MESH_KEYS
    intercepted = [port for app in mesh["apps"] for port in app.get("intercept", {})]
    assert len(set(intercepted)) == len(intercepted)
    for app in mesh["apps"]:
        assert {"service", "version", "command"} <= app.keys() <= APP_KEYS
        assert not (app.get("intercept") and app.get("replicas", 1) > 1)  # one localhost, one listener a port


def test_every_intercepted_address_of_the_shop_is_one_of_its_services() -> None:
    apps = mesh_file(SHOP / "mesh.yaml")["apps"]
    addresses = [address for app in apps for address in app.get("intercept", {}).values()]
    assert {address.partition("@")[0] for address in addresses} <= {app["service"] for app in apps}
    assert {8081, 8090} == {port for app in apps for port in app.get("intercept", {})}
