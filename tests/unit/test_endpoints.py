"""Where an instance is, out of what it told."""

import pytest

from meshq.core.endpoints import http_port, ips_of, reversed_ip
from tests.dns_rig import instance


@pytest.mark.parametrize(
    ("endpoint", "ips", "port"),
    [
        ("10.0.0.7:8080", ["10.0.0.7"], 8080),
        ("10.0.0.7", ["10.0.0.7"], None),
        ("http://10.0.0.7:8080/x", ["10.0.0.7"], 8080),
        ("[FD00::7]:80", ["fd00::7"], 80),
        ("fd00::7", ["fd00::7"], None),
        ("https://[fd00::7]/", ["fd00::7"], None),
        ("[::ffff:10.0.0.7]:80", ["10.0.0.7"], 80),
        ("127.0.0.1:80", ["127.0.0.1"], 80),
        ("pod-7:80", [], None),
        ("0.0.0.0:80", [], None),
        ("224.0.0.1:80", [], None),
        ("fe80::1%eth0", [], None),
        ("http://[", [], None),
        ("[fd00::7", [], None),
        ("10.0.0.7:99999", [], None),
        ("", [], None),
    ],
)
def test_an_endpoint(endpoint: str, ips: list[str], port: int | None) -> None:
    told = instance("orders", "a", http=endpoint)
    assert ips_of(told) == ips
    assert http_port(told) == port
    assert ips_of(instance("orders", "a", address=endpoint)) == ips


def test_the_app_before_its_sidecar_and_each_address_once() -> None:
    several = instance(
        "orders", "a", address="10.0.0.1:3600", http="10.0.0.7:80", grpc="10.0.0.7:81", more="[fd00::7]:1"
    )
    assert ips_of(several) == ["10.0.0.7", "fd00::7"]
    assert ips_of(instance("orders", "a", address="10.0.0.1:3600", http="pod:80")) == ["10.0.0.1"]
    assert http_port(instance("orders", "a", grpc="10.0.0.7:81")) is None


@pytest.mark.parametrize(
    ("name", "ip"),
    [
        ("7.0.0.10.in-addr.arpa", "10.0.0.7"),
        ("7" + ".0" * 29 + ".d.f.ip6.arpa", "fd00::7"),
        ("0.0.10.in-addr.arpa", ""),
        ("07.0.0.10.in-addr.arpa", ""),
        ("256.0.0.10.in-addr.arpa", ""),
        ("x" + ".0" * 29 + ".d.f.ip6.arpa", ""),
        ("77" + ".0" * 29 + ".d.f.ip6.arpa", ""),
        ("arpa", ""),
        ("", ""),
    ],
)
def test_a_reversed_address(name: str, ip: str) -> None:
    assert reversed_ip(name.split(".")) == ip
