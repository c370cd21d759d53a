"""Which address this pod is found at."""

import asyncio
import ipaddress

import pytest

from meshq_sidecar import own_address as module
from meshq_sidecar.own_address import endpoint, own_address


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("embedded:", []),
        ("redis://127.0.0.1:6379/0", ["127.0.0.1"]),
        ("redis+sentinel://u:p@a:26379,b,[::1]:3/name", ["a", "b", "::1"]),
    ],
)
def test_the_hosts_of_a_registry(url: str, hosts: list[str]) -> None:
    assert module._hosts(url) == hosts


def towards(routes: dict[str, str], monkeypatch: pytest.MonkeyPatch, url: str = "redis://10.9.9.9") -> str:
    """On a machine with these routes: destination -> source address."""
    monkeypatch.setattr(module, "_source_towards", lambda address: routes.get(address, ""))
    monkeypatch.setattr(module.socket, "gethostname", lambda: "127.0.1.1")
    return asyncio.run(own_address(url))


def test_the_one_towards_the_registry_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert towards({"10.9.9.9": "10.0.0.5", "192.0.2.1": "172.17.0.2"}, monkeypatch) == "10.0.0.5"


def test_a_registry_on_this_machine_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = {"127.0.0.1": "127.0.0.1", "2001:db8::1": "fd00::5"}
    assert towards(routes, monkeypatch, "redis://127.0.0.1") == "fd00::5"


def test_loopback_only_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert towards({}, monkeypatch) == "127.0.0.1"
    assert towards({"10.9.9.9": "127.0.0.1", "127.0.1.1": "127.0.0.1"}, monkeypatch) == "127.0.0.1"


def test_a_name_that_nobody_knows_is_left_out() -> None:
    ipaddress.ip_address(asyncio.run(own_address("redis://no-such-host.invalid:6379")))


def test_an_endpoint() -> None:
    assert (endpoint("10.0.0.5", 80), endpoint("fd00::5", 80)) == ("10.0.0.5:80", "[fd00::5]:80")
