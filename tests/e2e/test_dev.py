"""`meshq dev` as a user has it: real apps, real signals, on ports of this test alone."""

import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.e2e.dev_mesh import ROOT, Dev, ask, echo, free_ports, meshq, running, wait_gone, write_mesh
from tests.servers.processes import wait_for

SHOP = ROOT / "examples" / "shop"
SUMMARY = r"(\d+) calls, (\d+) answered, 0 not answered, 0 not as expected"


def shop_copy(folder: Path) -> tuple[Path, dict[str, int]]:
    """The shop on ports of its own. Returns the folder and the ports by what they are for."""
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns(".meshq", "__pycache__"))
    first = free_ports()
    mesh = YAML(typ="safe").load(folder / "mesh.yaml")
    ports = {"billing": first + 90, "storefront": first + 91}
    replicas = 0
    for app in mesh["apps"]:
        app["sidecarPort"] = first + 10 * replicas
        app["command"] = app["command"].replace("python3", sys.executable)
        replicas += app.get("replicas", 1)
        if app["service"] == "storefront":
            ports["sidecar"] = app["sidecarPort"]
            app["intercept"] = {ports["billing"]: "billing@1"}
            app["env"]["BILLING_URL"] = f"http://localhost:{ports['billing']}"
        elif app["service"] == "shopper":
            app["intercept"] = {ports["storefront"]: "storefront"}
            app["env"] |= {"STORE_URL": f"http://localhost:{ports['storefront']}", "RATE": "20"}
    with (folder / "mesh.yaml").open("w") as file:
        YAML().dump(mesh, file)
    return folder, ports


class Shop:
    def __init__(self, dev: Dev, ports: dict[str, int]) -> None:
        self.dev = dev
        self.sidecar = f"http://127.0.0.1:{ports['sidecar']}"
        self.storefront_port = f"http://localhost:{ports['storefront']}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder, ports = shop_copy(tmp_path_factory.mktemp("running") / "shop")
    with running(folder, "--control-port", "0") as dev:
        dev.wait_for("all 6 apps are ready")
        yield Shop(dev, ports)


def test_every_call_of_the_shop_is_answered(tmp_path: Path) -> None:
    folder, _ = shop_copy(tmp_path / "shop")
    with running(folder, "--control-port", "0", "--for", "6s") as dev:
        dev.wait_for("all 6 apps are ready")
        pids = [dev.process.pid, *dev.pids().values()]
        assert dev.ended() == 0, dev.text
    summary = re.search(SUMMARY, dev.text)
    assert summary is not None, dev.text
    assert summary[1] == summary[2]
    assert int(summary[1]) > 20
    wait_gone(pids)
    assert not (folder / ".meshq" / "dev.json").exists()


def test_four_ways_lead_to_an_app(shop: Shop) -> None:
    port = shop.sidecar.rpartition(":")[2]
    by_path = ask(shop.sidecar, "GET", "/v1/call/storefront/")
    by_host = ask(shop.sidecar, "GET", "/", Host=f"storefront.localhost:{port}")
    by_proxy = ask(shop.sidecar, "GET", "http://storefront.mesh/", Host="storefront.mesh")
    by_port = ask(shop.storefront_port, "GET", "/")
    for answer in (by_path, by_host, by_proxy, by_port):
        assert answer.status == 200
        assert [item["item"] for item in answer.body["items"]] == ["tea", "teapot", "samovar"]
        assert answer.headers["Meshq-Served-By"].startswith("storefront/1.0.0/")


def test_each_version_answers_for_itself(shop: Shop) -> None:
    for major, version in (("1", "1.4.2"), ("2", "2.0.0")):
        answer = ask(shop.sidecar, "GET", f"/v1/call/orders@{major}/orders?limit=1")
        assert answer.headers["Meshq-Served-By"].startswith(f"orders/{version}/")


def test_an_order_is_told_to_whoever_subscribed(shop: Shop) -> None:
    def ordered(item: str) -> int:
        return int(ask(shop.sidecar, "GET", "/v1/call/storefront/bestsellers").body["ordered"].get(item, 0))

    for major in ("1", "2"):
        line = {"customer": "ada", "item": f"kettle {major}", "quantity": 3, "unit_cents": 5, "charge": "c"}
        placed = ask(shop.sidecar, "POST", f"/v1/call/orders@{major}/orders", json.dumps(line))
        assert placed.status == 201
    wait_for(lambda: ordered("kettle 1") == ordered("kettle 2") == 3, 30, "the storefront to hear of both")


def test_an_app_that_is_killed_comes_back_and_calls_go_on(shop: Shop) -> None:
    before = len(shop.dev.lines)
    first = shop.dev.pids()["orders@2"]
    os.kill(first, signal.SIGKILL)
    shop.dev.wait_for(r"^orders@2 +┆ exited by SIGKILL after .* starting again in 0.5 s", before)
    answer = ask(shop.sidecar, "GET", "/v1/call/orders@2/orders?limit=1")
    assert answer.status == 200
    shop.dev.wait_for(r"^orders@2 +┆ ready again", before)
    after = {app["name"]: app for app in shop.dev.status()["apps"]}["orders@2"]
    assert after["pid"] != first
    assert after["restarts"] >= 1


def test_a_second_run_in_the_same_folder_is_refused(shop: Shop) -> None:
    second = meshq("dev", cwd=shop.dev.folder)
    assert second.returncode == 64
    assert f"already (process {shop.dev.process.pid}" in second.stderr


def test_a_taken_port_is_named_with_who_has_it_and_what_moves_it(shop: Shop, tmp_path: Path) -> None:
    taken = int(shop.sidecar.rpartition(":")[2])
    write_mesh(tmp_path / "other", echo("alpha", taken))
    refused = meshq("dev", "--control-port", "0", cwd=tmp_path / "other")
    assert refused.returncode == 64
    assert f"{taken} (the sidecar of alpha)" in refused.stderr
    assert f"(process {shop.dev.process.pid})" in refused.stderr
    assert "sidecarPort of alpha" in refused.stderr


def test_the_output_says_who_speaks(shop: Shop) -> None:
    shop.dev.wait_for(r"^shopper    │ \d\d:\d\d:\d\d  GET ")
    assert "\033" not in shop.dev.text
    assert re.search(r"^  billing/2 +1\.1\.0 +\d+ +\d+$", shop.dev.text, re.MULTILINE)
    assert "curl http://localhost:" in shop.dev.text


def test_an_app_that_never_becomes_ready_is_named_with_its_last_words(tmp_path: Path) -> None:
    first = free_ports()
    write_mesh(
        tmp_path / "mesh",
        echo("good", first),
        echo("bad", first + 10, command="echo no database >&2; exit 3"),
        echo("deaf", first + 20, command="sleep 600"),
    )
    with running(tmp_path / "mesh", "--control-port", "0", "--for", "2s") as dev:
        assert dev.ended() == 1
    assert "bad never became ready: it exits with code 3" in dev.text
    assert "bad said: no database" in dev.text
    assert re.search("deaf never became ready: port .* accepts no connection", dev.text)
    assert "good never" not in dev.text


def test_the_run_ends_when_an_app_is_not_ready_in_time(tmp_path: Path) -> None:
    write_mesh(tmp_path / "mesh", echo("deaf", free_ports(), command="sleep 600"))
    with running(tmp_path / "mesh", "--control-port", "0", "--ready-within", "1s") as dev:
        assert dev.ended() == 1
    assert "deaf never became ready" in dev.text


def test_an_app_that_only_calls_says_by_its_exit_code_how_it_went(tmp_path: Path) -> None:
    unhappy = "trap 'echo unhappy; exit 5' TERM; while :; do sleep 0.1; done"
    write_mesh(tmp_path / "mesh", echo("unhappy", free_ports(), command=unhappy, port=0))
    with running(tmp_path / "mesh", "--control-port", "0", "--for", "2s") as dev:
        assert dev.ended() == 1
    assert "unhappy ended with exit code 5" in dev.text


def test_ctrl_c_lets_a_request_finish_and_leaves_nobody(tmp_path: Path) -> None:
    first = free_ports()
    write_mesh(tmp_path / "mesh", echo("alpha", first, command=f"sleep 600 & {sys.executable} app.py"))
    answers: list[Any] = []
    with running(tmp_path / "mesh", "--control-port", "0") as dev:
        dev.wait_for("the app is ready")
        pids = [dev.process.pid, *dev.pids().values()]
        caller = threading.Thread(
            target=lambda: answers.append(ask(f"http://127.0.0.1:{first}", "GET", "/v1/call/alpha/slow").status)
        )
        caller.start()
        dev.wait_for("slow begins")
        assert dev.end(signal.SIGINT) == 0, dev.text
        caller.join(10)
    assert answers == [200]
    assert "ended: all is well" in dev.text
    wait_gone(pids)


def test_a_second_ctrl_c_ends_an_app_that_does_not_listen(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; echo deaf to it; while :; do sleep 0.1; done"
    write_mesh(tmp_path / "mesh", echo("stubborn", free_ports(), command=stubborn, port=0))
    with running(tmp_path / "mesh", "--control-port", "0") as dev:
        dev.wait_for("the app is ready")
        pids = list(dev.pids().values())
        dev.process.send_signal(signal.SIGINT)
        dev.wait_for("stopping")
        assert dev.end(signal.SIGINT) == 0
    wait_gone(pids)


def test_a_killed_run_takes_its_apps_along_and_can_be_started_again(tmp_path: Path) -> None:
    first = free_ports()
    write_mesh(tmp_path / "mesh", echo("alpha", first, port=first + 7))
    with running(tmp_path / "mesh", "--control-port", "0") as dev:
        dev.wait_for("the app is ready")
        app = dev.pids()["alpha"]
        dev.process.kill()
        dev.process.wait()
        stale = meshq("services", "--control", str(dev.folder), cwd=tmp_path)
        assert stale.returncode == 69
        assert f"was killed (process {dev.process.pid})" in stale.stderr
    with running(tmp_path / "mesh", "--control-port", "0") as again:
        again.wait_for("the app is ready")
        wait_gone([app])
        assert ask(f"http://127.0.0.1:{first}", "GET", "/v1/call/alpha/x").status == 200
        assert again.end() == 0


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_on_a_real_broker_each_sidecar_is_a_process(
    tmp_path: Path, broker_url: str, redis_url: str, rabbitmq: Any
) -> None:
    first = free_ports()
    write_mesh(
        tmp_path / "mesh",
        echo("alpha", first),
        echo("beta", first + 10),
        mesh="trial",
        broker=broker_url,
        registry=redis_url,
    )
    environment = {"MESHQ_MANAGEMENT_URL": rabbitmq.management_url}
    with running(tmp_path / "mesh", "--control-port", "0", **environment) as dev:
        dev.wait_for("all 2 apps are ready")
        assert "***" in dev.text
        answer = ask(f"http://127.0.0.1:{first}", "GET", "/v1/call/beta/x")
        assert answer.status == 200
        assert ask(dev.control, "GET", "/v1/call/alpha/x").status == 200
        rows = ask(dev.control, "GET", "/v1/queues").body
        calls = {row["topic"]: row for row in rows if row["kind"] == "call"}
        assert calls.keys() == {"alpha.v1", "beta.v1"}
        assert all(row["consumers"] in (1, None) for row in calls.values())

        direct = {"MESHQ_BROKER_URL": broker_url, "MESHQ_REGISTRY_URL": redis_url, "MESHQ_MESH": "trial", **environment}
        named = meshq("services", "-o", "json", cwd=tmp_path, **direct)
        assert {service["name"] for service in json.loads(named.stdout)} == {"alpha", "beta"}
        called = meshq("call", "beta", "/y", cwd=tmp_path, **direct)
        assert json.loads(called.stdout)["path"] == "/y"
        assert dev.end() == 0, dev.text
