"""Whose request it is. What is wrongly LOCAL could be a web page that rebinds its name to the loopback address, so by
anything that is a stranger's name the API must not be reached, and no name is ever looked up."""

import socket

import pytest

from meshq.core.errors import Code, Refused
from meshq.core.hosts import Whose, is_foreign, read_host
from meshq.core.selectors import Address, parse_address


@pytest.fixture(autouse=True)
def _no_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a name was looked up")

    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        monkeypatch.setattr(socket, name, fail)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "localhost:3600", "localhost.", "localhost.:3600", "127.0.0.1", "127.0.0.1:3600", "127.8.9.10",
        "[::1]", "[::1]:3600", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]:3600", "localhost:",
    ],
)  # fmt: skip
def test_loopback_is_local(host: str) -> None:
    assert read_host(host, "mesh") is Whose.LOCAL


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.com", "localhost.evil.com", "evil-localhost", "evillocalhost", "localhostevil", "localhost@evil.com",
        "localhost:x@evil.com", "localhost:3600@evil.com", "localhost:3600.evil.com", "localhost/.evil.com", "localhost#.evil.com",
        "localhost\\.evil.com", "localhost evil", "localhost:3600:1", "localhost..", "[localhost]", "[::1]evil.com", "[::1].evil.com",
        "::1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.01", "127.0.0.1.evil.com", "127.0.0.1.nip.io",
        "0.0.0.0", "[::]", "[::ffff:10.0.0.1]", "169.254.169.254", "10.0.0.1", "192.168.0.1", "[fe80::1%25eth0]", "metadata",
        "ⓛocalhost", "localhoſt", "127。0。0。1", "١٢٧.0.0.1", "mesh", "orders.mesh.evil.com", "orders.mesh@evil.com", "file", "null",
    ],
)  # fmt: skip
def test_anything_else_is_a_strangers(host: str) -> None:
    assert read_host(host, "mesh") is Whose.STRANGER


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("orders.mesh", "orders"),
        ("v2.orders.mesh:80", "orders@2"),
        ("orders.localhost", "orders"),
        ("V0.Orders.Mesh.", "orders@0"),
    ],
)
def test_a_name_of_the_mesh_is_an_address(host: str, address: str) -> None:
    assert read_host(host, "mesh") == parse_address(address)
    assert isinstance(read_host(host, "mesh"), Address)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("reply.mesh", "reserved"),
        ("a_b.mesh", "not a service name"),
        ("a.b.c.mesh", "too many labels"),
        ("i-1.orders.mesh", "one instance"),
    ],
)
def test_a_name_of_the_mesh_that_cannot_be_called(host: str, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        read_host(host, "mesh")
    assert refused.value.problem.code is Code.BAD_ADDRESS


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:5173",
        "https://127.0.0.1:8443",
        "http://[::1]:3000",
        "http://orders.mesh",
        "http://v2.orders.localhost:3600",
    ],
)
def test_pages_of_this_machine_may_call(origin: str) -> None:
    assert not is_foreign(origin, "mesh")


@pytest.mark.parametrize(
    "origin",
    [
        "", "null", "http://evil.com", "https://localhost.evil.com", "http://evil.com:3600", "file://", "file://localhost",
        "chrome-extension://localhost", "http://localhost:x@evil.com", "http://localhost@evil.com", "http://localhost/", "localhost",
        "//localhost", "http://reply.mesh", "http://169.254.169.254", "http://2130706433", "http://localhost, http://evil.com",
    ],
)  # fmt: skip
def test_pages_from_elsewhere_may_not(origin: str) -> None:
    assert is_foreign(origin, "mesh")
