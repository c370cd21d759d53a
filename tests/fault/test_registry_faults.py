"""Nothing waits for the registry: with Redis killed, or there and silent, calls and lookups go on with the last picture."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pods import Mesh, Pod, Sidecar, ask, mesh
from tests.servers.faketime import SteppedClock
from tests.servers.redis import RedisServer

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.timeout(300)]

API = {"Meshq-Api": "1"}


@pytest.fixture
def world(broker_url: str, fault_redis: RedisServer, tmp_path: Path) -> Iterator[Mesh]:
    with mesh(broker_url, fault_redis.url, tmp_path / "mesh") as found:
        yield found


def orders_and_shop(world: Mesh) -> tuple[Pod, Sidecar]:
    orders, shop = world.pod("orders"), world.sidecar("shop")
    orders.sidecar.wait_ready()
    shop.wait_ready()
    shop.wait(lambda: state(shop) == "ready", "orders in the picture")
    return orders, shop


def state(shop: Sidecar) -> str:
    found = shop.instances("orders")
    return str(found[0]["state"]) if found else "gone"


def stale(sidecar: Sidecar) -> bool:
    answer = ask(sidecar.port, "/v1/services")
    return answer.headers["Meshq-Stale"] == "true"


def self_of(sidecar: Sidecar) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(sidecar.port, "/v1/self").body)
    return found


def test_calls_and_lookups_go_on_without_redis(world: Mesh, fault_redis: RedisServer) -> None:
    orders, shop = orders_and_shop(world)
    fault_redis.kill()
    for sidecar in (orders.sidecar, shop):
        sidecar.wait(lambda sidecar=sidecar: stale(sidecar), "the registry missed")
    for number in range(50):
        assert shop.call("orders", f"/{number}").status == 200
        assert state(shop) == "ready"
    assert shop.ready, "a registry that is away makes nobody unready"
    paused = ask(orders.sidecar.port, "/v1/self/pause", "POST", API, b'{"reason": "alone"}')
    assert json.loads(paused.body)["state"] == "paused"
    fault_redis.start()
    # It comes back empty: each says again what it is, and nobody was refused meanwhile.
    shop.wait(lambda: state(shop) == "paused", "the pause in the new registry")
    shop.wait(lambda: not stale(shop), "a fresh picture")
    assert shop.instances("orders")[0]["pause"]["reason"] == "alone"
    assert ask(orders.sidecar.port, "/v1/self/resume", "POST", API).status == 200
    assert shop.call("orders", "/after").status == 200


@pytest.mark.long
@pytest.mark.timeout(600)
def test_five_minutes_without_redis_fail_no_call_and_no_lookup(world: Mesh, fault_redis: RedisServer) -> None:
    orders, shop = orders_and_shop(world)
    fault_redis.kill()
    until, answered = time.monotonic() + 300, 0
    while time.monotonic() < until:
        assert shop.call("orders", f"/{answered}").status == 200
        assert state(shop) == "ready"
        assert ask(shop.port, "/v1/services/orders").status == 200
        answered += 1
    assert answered > 1000
    assert stale(shop)
    fault_redis.start()
    for sidecar in (orders.sidecar, shop):
        sidecar.wait(lambda sidecar=sidecar: not stale(sidecar), "the registry found again")
    shop.wait(lambda: state(shop) == "ready", "orders ready in the picture")


def test_a_redis_that_is_there_and_silent_is_away(world: Mesh, fault_redis: RedisServer) -> None:
    orders, shop = orders_and_shop(world)
    fault_redis.pause()
    try:
        shop.wait(lambda: stale(shop), "the registry missed")
        started = time.monotonic()
        for number in range(50):
            assert shop.call("orders", f"/{number}").status == 200
        assert time.monotonic() - started < 10, "no call waits for it"
    finally:
        fault_redis.resume()
    for sidecar in (orders.sidecar, shop):
        sidecar.wait(lambda sidecar=sidecar: not stale(sidecar), "the registry found again")
    shop.wait(lambda: state(shop) == "ready", "orders ready in the picture")


def test_a_sidecar_that_starts_without_redis_serves_the_picture_from_its_disk(
    world: Mesh, fault_redis: RedisServer
) -> None:
    _, shop = orders_and_shop(world)
    shop.stop()
    fault_redis.kill()
    shop.start().wait_ready()
    assert (state(shop), stale(shop)) == ("ready", True)
    picture = self_of(shop)["picture"]
    assert (picture["fromDisk"], picture["stale"]) == (True, True)
    assert shop.call("orders").status == 200, "by its last known version"
    fault_redis.start()
    shop.wait(lambda: not stale(shop), "a fresh picture")
    shop.wait(lambda: state(shop) == "ready", "orders in it")
    assert self_of(shop)["picture"]["fromDisk"] is False


def test_what_others_could_have_written_is_not_served(world: Mesh, fault_redis: RedisServer) -> None:
    _, shop = orders_and_shop(world)
    shop.stop()
    fault_redis.kill()
    for file in (world.folder / "cache" / "meshq").iterdir():
        file.chmod(0o666)
    shop.start()
    shop.wait(lambda: "is not used" in shop.output, "the file refused")
    answer = ask(shop.port, "/v1/services")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert not shop.ready


@pytest.mark.parametrize("hours", [1, pytest.param(-1, marks=pytest.mark.long)])
def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(
    broker_url: str, redis_url: str, tmp_path: Path, hours: int
) -> None:
    """B2: leases and the ends of pauses are by the registry's clock and by monotonic ones."""
    clocks = [SteppedClock(tmp_path / f"clock-{number}") for number in range(2)]
    for clock, sign in zip(clocks, (1, -1), strict=True):
        clock.step(sign * hours * 3600)
    with mesh(broker_url, redis_url, tmp_path / "mesh") as world:
        orders = world.pod("orders", clocks[0].environment)
        shop = world.sidecar("shop", clocks[1].environment)
        orders.sidecar.wait_ready()
        shop.wait_ready()
        shop.wait(lambda: state(shop) == "ready", "orders in the picture")
        seen = datetime.fromisoformat(shop.instances("orders")[0]["lastSeen"]).timestamp()
        assert abs(time.time() - seen) < 60
        paused = time.monotonic()
        ask(orders.sidecar.port, "/v1/self/pause", "POST", API, b'{"for": "6s"}')
        shop.wait(lambda: state(shop) == "paused", "the pause in the picture")
        shop.wait(lambda: state(shop) == "ready", "its end")
        assert 6 <= time.monotonic() - paused < 20
        states = set()
        shop.wait(lambda: states.add(state(shop)) or time.monotonic() - paused > 26, "more than a lease gone by", 60)
        assert states == {"ready"}
        assert shop.call("orders", "/", "POST", {"Meshq-Timeout": "5s"}, b"x").status == 200
