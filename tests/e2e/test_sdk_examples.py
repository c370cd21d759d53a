"""The examples with the SDK: what their apps answer, through `meshq dev` and over the embedded broker."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.dev_mesh import DEADLINE_SECONDS, ask, environment
from tests.e2e.example_mesh import EXAMPLES, Example, running_example
from tests.servers.processes import wait_for

CLIENT = EXAMPLES / "stdlib" / "client.py"
LINE = {"customer": "ada", "item": "tea", "quantity": 3, "unit_cents": 450, "charge": "cash"}


def post(url: str, path: str, document: Any) -> Any:
    return ask(url, "POST", path, json.dumps(document), Content_Type="application/json")


# --- in frameworks ----------------------------------------------------------------------------------------------------------


def test_a_fastapi_app_serves_people_and_the_mesh_on_one_event_loop(tmp_path: Path) -> None:
    with running_example("fastapi", tmp_path / "examples") as example:
        people, mesh = example.ports["boxoffice"], example.sidecars["seats"]
        booked = post(people, "/bookings", {"show": "hamlet", "count": 2})
        assert (booked.status, booked.body) == (201, {"booking": 1, "left": 1})
        refused = post(people, "/bookings", {"show": "hamlet", "count": 2})
        assert (refused.status, refused.body) == (409, {"detail": "of hamlet 1 seats are left"})
        assert post(people, "/bookings", {"show": "faust", "count": 1}).status == 404

        asked = ask(mesh, "GET", "/v1/call/boxoffice/bookings?show=hamlet")
        assert (asked.status, asked.body) == (200, {"booked": 2})
        assert asked.headers["Meshq-Served-By"].startswith("boxoffice/1.0.0/")
        # What is for people is not for the mesh: it asks over the link.
        assert ask(mesh, "GET", "/v1/call/boxoffice/news").status == 404

        cancelled = ask(people, "DELETE", "/bookings/1")
        assert (cancelled.status, cancelled.body) == (202, {"cancelled": 1})
        wait_for(lambda: ask(people, "GET", "/news").body == ["hamlet: 3 seats to have"], 30, "the event")
        assert ask(mesh, "GET", "/v1/call/boxoffice/bookings?show=hamlet").body == {"booked": 0}
        assert post(people, "/bookings", {"show": "hamlet", "count": 3}).body == {"booking": 2, "left": 0}
        assert example.dev.end() == 0, example.dev.text
    assert "Traceback" not in example.dev.text


def test_a_flask_app_calls_the_mesh_and_has_handlers_for_it(tmp_path: Path) -> None:
    with running_example("flask", tmp_path / "examples") as example:
        people, mesh = example.ports["guestbook"], example.sidecars["words"]
        for text, status in (("how nice", 201), ("drat and fiddlesticks", 422), ("a lovely squid", 201)):
            answer = ask(people, "POST", "/", text)
            assert answer.status == status, answer.text
            assert status == 201 or "not in this book: drat, fiddlesticks" in answer.text
        count = ask(mesh, "GET", "/v1/call/guestbook/mesh/count")
        assert (count.status, count.body) == (200, {"entries": 2})
        assert count.headers["Meshq-Served-By"].startswith("guestbook/1.0.0/")

        assert ask(mesh, "PUT", "/v1/call/words/rude/Squid", "").status == 204
        wait_for(lambda: ask(people, "GET", "/").body == ["how nice"], 30, "the event")
        assert ask(people, "POST", "/", "one more squid").status == 422
        assert example.dev.end() == 0, example.dev.text
    assert "Traceback" not in example.dev.text


def test_tasks_are_queued_retried_delayed_and_their_results_fetched(tmp_path: Path) -> None:
    with running_example("worker", tmp_path / "examples") as example:
        for result in (
            r"resize  \{'width': 400, 'height': 300\}",
            r"divide  failed: nobody can divide by 0",
            r"remind  it is time to drink tea",
            r"fetch   \{'url': 'https://example.com', 'attempts': 3\}",
        ):
            example.dev.wait_for(rf"^client +│ {result}$")
        dead = ask(example.dev.control, "GET", "/v1/dead?topic=tasks.v1").body
        assert {(each["path"], each["reason"]) for each in dead} == {("/divide", "rejected")}
        assert example.dev.end() == 0, example.dev.text
    assert "Traceback" not in example.dev.text


# --- the shop ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with running_example("shop-sdk", tmp_path_factory.mktemp("shop") / "examples") as example:
        yield example


def ordered(shop: Example, item: str) -> int:
    answer = ask(shop.sidecars["billing"], "GET", "/v1/call/storefront/bestsellers")
    return int(answer.body["ordered"].get(item, 0))


def test_every_call_of_the_mixed_shop_ends_as_expected(tmp_path: Path) -> None:
    with running_example("shop-sdk", tmp_path / "examples", "--for", "8s") as example:
        assert example.dev.ended() == 0, example.dev.text
    summary = re.search(r"(\d+) calls, (\d+) as expected", example.dev.text)
    assert summary is not None, example.dev.text
    assert summary[1] == summary[2]
    assert int(summary[1]) > 7, "not each of them was made"


def test_an_sdk_app_sells_with_the_help_of_plain_ones(shop: Example) -> None:
    sale = post(
        shop.sidecars["billing"], "/v1/call/storefront/buy", {"customer": "ada", "item": "teapot", "quantity": 2}
    )
    assert sale.status == 201, sale.text
    assert sale.headers["Meshq-Served-By"].startswith("storefront/1.0.0/")
    order, charge = sale.body["order"], sale.body["charge"]
    assert order["total_cents"] == charge["amount_cents"] == 7800
    assert order["charge"] == charge["id"]
    declined = post(
        shop.sidecars["billing"], "/v1/call/storefront/buy", {"customer": "ada", "item": "samovar", "quantity": 2}
    )
    assert (declined.status, declined.body["code"]) == (402, "app-error")
    assert "the card is good for 100000 cents" in declined.body["detail"]


@pytest.mark.parametrize(("major", "version"), [("1", "1.4.2"), ("2", "2.0.0")], ids=["SDK", "plain"])
def test_both_orders_have_one_api(shop: Example, major: str, version: str) -> None:
    url, api = shop.sidecars["storefront"], f"/v1/call/orders@{major}/orders"
    placed = post(url, api, {**LINE, "item": f"kettle {major}"})
    order = placed.body
    assert (placed.status, placed.headers["Location"]) == (201, f"/orders/{order['id']}")
    assert placed.headers["Meshq-Served-By"].startswith(f"orders/{version}/")
    assert (order["state"], order["total_cents"], order["id"][:2]) == ("placed", 1350, f"{major}-")
    assert ask(url, "GET", f"{api}/{order['id']}").body == order
    assert ask(url, "GET", f"{api}?limit=1").body["orders"] == [order]
    assert ask(url, "POST", f"{api}/{order['id']}/cancel", "").body["state"] == "cancelled"
    assert ask(url, "POST", f"{api}/{order['id']}/cancel", "").status == 409
    assert ask(url, "GET", f"{api}/{major}-none").status == 404
    assert post(url, api, {**LINE, "quantity": 0}).status in (400, 422)
    wait_for(lambda: ordered(shop, f"kettle {major}") == 3, 30, "the storefront to hear of it")


def test_a_client_without_the_sdk_talks_to_the_shop(shop: Example) -> None:
    url = shop.sidecars["storefront"]
    before = ordered(shop, "scone")
    first, second = client(url), client(url)
    bought = re.search(r"^bought: ((\d)-\w+) from storefront/1\.0\.0/", first, re.MULTILINE)
    assert bought is not None, first
    assert bought[0] in second, "the same idempotency key is the same purchase"
    assert ask(url, "GET", f"/v1/call/orders@{bought[2]}/orders/{bought[1]}").body["item"] == "teapot"
    for said in (first, second):
        durable = re.search(r"^ordered: (1-\w+) which is done$", said, re.MULTILINE)
        assert durable is not None, said
        order = ask(url, "GET", f"/v1/call/orders@1/orders/{durable[1]}").body
        assert (order["customer"], order["quantity"]) == ("bob", 3)
        assert re.search(r"^published: [0-9a-f]{32}$", said, re.MULTILINE), said
    # The second time it is an order that was counted before, by its id.
    wait_for(lambda: ordered(shop, "scone") == 3, 30, "the storefront to hear of it")
    assert before == 0


def client(url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", CLIENT],
        env=environment(MESHQ_URL=url),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_client_is_short_and_imports_the_standard_library_alone() -> None:
    text = CLIENT.read_text()
    assert len(text.splitlines()) <= 40
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([each.name for each in node.names] if isinstance(node, ast.Import) else [str(node.module)])
    }
    assert imported <= sys.stdlib_module_names
