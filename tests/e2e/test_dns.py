"""Mesh DNS of real sidecars, asked as people ask (dig, Debian's bind9-dnsutils), by dnspython and by the system's own resolver."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.resolver
import pytest

from tests.e2e.pods import PATIENCE, ROOT, Mesh, Sidecar, ask, environment, mesh
from tests.servers.processes import LOOPBACK, NoServer, free_port, wait_for
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisDatabases, RedisServer

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]


def dig(port: int, *words: str) -> str:
    """What dig prints, without its comments on the way there and back."""
    program = shutil.which("dig")
    if program is None:
        raise NoServer("the tests of mesh DNS need dig: install it (on Debian: apt-get install bind9-dnsutils)")
    command = [program, f"@{LOOPBACK}", "-p", str(port), "+tries=1", "+time=20", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def short(port: int, *words: str) -> list[str]:
    return dig(port, "+short", *words).splitlines()


class World:
    def __init__(self, found: Mesh) -> None:
        self.mesh = found
        self.old = found.pod("orders", service_version="1.4.0")
        self.new = found.pod("orders", service_version="2.3.1")
        self.host_port = free_port()
        self.shop = found.sidecar("shop", host_ports=str(self.host_port), dns_capture="1")
        for sidecar in (self.old.sidecar, self.new.sidecar, self.shop):
            sidecar.wait_ready()
        self.shop.wait(lambda: len(self.ready()) == 2, "both in the picture")

    @property
    def port(self) -> int:
        return self.shop.dns_port

    def ready(self) -> list[dict[str, str]]:
        return [each for each in self.shop.instances("orders") if each["state"] == "ready"]

    def pod(self, version: str) -> dict[str, str]:
        (found,) = [each for each in self.ready() if each["version"] == version]
        return found


@pytest.fixture(scope="module")
def world(rabbitmq: Cluster, redis_server: RedisDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    vhost = rabbitmq.new_vhost()
    with mesh(rabbitmq.url(vhost), redis_server.new_database(), tmp_path_factory.mktemp("mesh")) as found:
        yield World(found)
    rabbitmq.delete_vhost(vhost)


# --- dig --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("+tcp",), ("+noedns",), ("+bufsize=512",), ("+nocookie",), ("+dnssec",)])
def test_dig_finds_services(world: World, options: tuple[str, ...]) -> None:
    for name in ("orders.mesh", "v1.orders.mesh", "V2.Orders.Mesh", "shop.mesh"):
        said = dig(world.port, *options, name, "A")
        assert "status: NOERROR" in said
        assert re.search(rf"^{name}\.\s+5\s+IN\s+A\s+127\.0\.0\.1$", said, re.MULTILINE)
        assert re.search(r"flags: qr aa rd( ad)? ra;", said)


def test_dig_finds_v6_where_the_sidecar_listens_there(world: World) -> None:
    listens = f"[::1]:{world.port}" in subprocess.run(["ss", "-uln"], capture_output=True, text=True, check=True).stdout
    said = dig(world.port, "orders.mesh", "AAAA")
    assert "status: NOERROR" in said
    assert ("::1" in short(world.port, "orders.mesh", "AAAA")) is listens
    assert ("SOA" in said) is not listens


def test_dig_is_told_what_is_not_there(world: World) -> None:
    for name in ("unknown.mesh", "v9.orders.mesh", "nobody.orders.mesh"):
        said = dig(world.port, name)
        assert "status: NXDOMAIN" in said
        assert re.search(r"^mesh\.\s+1\s+IN\s+SOA\s", said, re.MULTILINE)
    said = dig(world.port, "orders.mesh", "MX")
    assert "status: NOERROR" in said
    assert "ANSWER: 0" in said


def test_dig_finds_the_way_to_a_service(world: World) -> None:
    assert short(world.port, "_http._tcp.orders.mesh", "SRV") == [f"0 0 {world.host_port} orders.mesh."]
    assert short(world.port, "_http._tcp.v1.orders.mesh", "SRV") == [f"0 0 {world.host_port} v1.orders.mesh."]


def test_dig_finds_instances(world: World) -> None:
    pod = world.pod("2.3.1")
    name = f"{pod['id']}.orders.mesh"
    host, _, _ = pod["address"].rpartition(":")
    kind, address = ("AAAA", host.strip("[]")) if "[" in host else ("A", host)
    assert short(world.port, name, kind) == [address]
    assert short(world.port, name, "TXT") == [f'"instance={pod["id"]}" "version=2.3.1" "state=ready"']
    assert len(short(world.port, "orders.mesh", "TXT")) == 2
    assert f"{name}." in short(world.port, "-x", address)
    said = short(world.port, f"_http._tcp.{name}", "SRV")
    assert said == [f"0 0 {world.new.app.port} {name}."]
    assert f"{pod['id']}._http._tcp.orders.mesh." in short(world.port, "_http._tcp.orders.mesh", "PTR")


def test_dig_gets_next_to_nothing_for_any(world: World) -> None:
    assert short(world.port, "orders.mesh", "ANY", "+notcp") == ['"RFC8482" ""']


def test_dig_is_refused_other_classes_and_versions(world: World) -> None:
    assert "status: REFUSED" in dig(world.port, "version.bind", "TXT", "CH")
    assert "status: BADVERS" in dig(world.port, "+edns=9", "+noednsnegotiation", "orders.mesh")
    assert "status: NOTIMP" in dig(world.port, "+opcode=STATUS", "orders.mesh")


# --- dnspython --------------------------------------------------------------------------------------------------------------------


def resolver(port: int) -> dns.resolver.Resolver:
    found = dns.resolver.Resolver(configure=False)
    found.nameservers, found.port = [LOOPBACK], port
    return found


@pytest.mark.parametrize("tcp", [False, True])
def test_a_resolver_library_finds_them_too(world: World, tcp: bool) -> None:
    found = resolver(world.port)
    assert [r.address for r in found.resolve("orders.mesh", "A", tcp=tcp)] == [LOOPBACK]
    (srv,) = found.resolve("_http._tcp.orders.mesh", "SRV", tcp=tcp)
    assert (srv.target.to_text(), srv.port) == ("orders.mesh.", world.host_port)
    states = {b"version=1.4.0", b"version=2.3.1", b"state=ready"}
    texts = [set(r.strings) & states for r in found.resolve("orders.mesh", "TXT", tcp=tcp)]
    assert {frozenset(text) for text in texts} == {frozenset({v, b"state=ready"}) for v in states - {b"state=ready"}}
    with pytest.raises(dns.resolver.NXDOMAIN):
        found.resolve("unknown.mesh", "A", tcp=tcp)
    with pytest.raises(dns.resolver.NoAnswer):
        found.resolve("orders.mesh", "MX", tcp=tcp)


def test_queries_are_counted(world: World) -> None:
    before = world.shop.metric("dns_queries_total", result="unknown")
    short(world.port, "nobody.mesh")
    assert world.shop.metric("dns_queries_total", result="unknown") == before + 1
    about = json.loads(ask(world.shop.port, "/v1/self").body)["dns"]
    assert (about["port"], about["capture"] is not None) == (world.port, True)


# --- by Host ----------------------------------------------------------------------------------------------------------------------


def test_host_ports_take_names_of_services(world: World) -> None:
    for host, version in (("orders.mesh", "2.3.1"), ("v1.orders.mesh:80", "1.4.0"), ("orders", "2.3.1")):
        answer = ask(world.host_port, "/", headers={"Host": host})
        assert answer.status == 200
        assert answer.headers["Meshq-Served-By"].split("/")[1] == version
    assert ask(world.host_port, "http://v1.orders.mesh/").status == 200
    for host in ("localhost", LOOPBACK, "evil.example", "unknown", "kubernetes.default.svc.cluster.local"):
        answer = ask(world.host_port, "/v1/self", headers={"Host": host})
        assert (answer.status, answer.code) == (421, "misdirected")
    answer = ask(world.host_port, "/", headers={"Host": "orders.mesh", "Origin": "http://evil.example"})
    assert (answer.status, answer.code) == (403, "denied")


# --- faults -----------------------------------------------------------------------------------------------------------------------


def test_names_go_on_without_the_registry(broker_url: str, fault_redis: RedisServer, tmp_path: Path) -> None:
    fault_redis.kill()
    with mesh(broker_url, fault_redis.url, tmp_path / "mesh") as found:
        orders = found.pod("orders")
        shop = found.sidecar("shop")
        wait_for(lambda: answers(shop), PATIENCE, "mesh DNS")
        assert "status: SERVFAIL" in dig(shop.dns_port, "orders.mesh")
        fault_redis.start()
        for sidecar in (orders.sidecar, shop):
            sidecar.wait_ready()
        wait_for(lambda: short(shop.dns_port, "orders.mesh") == [LOOPBACK], PATIENCE, "orders.mesh")
        fault_redis.kill()
        shop.wait(lambda: shop.metric("registry_stale") == 1, "a stale picture")
        assert short(shop.dns_port, "orders.mesh") == [LOOPBACK]
        assert "status: NXDOMAIN" in dig(shop.dns_port, "unknown.mesh")


def answers(sidecar: Sidecar) -> bool:
    try:
        dns.query.udp(dns.message.make_query("mesh", "SOA"), LOOPBACK, timeout=1, port=sidecar.dns_port)
    except (OSError, dns.exception.Timeout):
        return False
    return True


# --- a whole pod ------------------------------------------------------------------------------------------------------------------


def in_namespaces(*command: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
    """In a network and with mounts of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        raise NoServer("the tests of a pod's names need namespaces: run them as root, with util-linux installed")
    return subprocess.run(
        ["unshare", "--net", "--mount", "--", *command],
        capture_output=True, text=True, check=False, timeout=timeout, cwd=ROOT, env=environment({}),
    )  # fmt: skip


def test_an_app_in_a_pod_needs_nothing_but_names(tmp_path: Path) -> None:
    ended = in_namespaces(sys.executable, "-m", "tests.e2e.dns_pod", str(tmp_path))
    assert ended.returncode == 0, ended.stderr + (tmp_path / "pair.log").read_text()
    found = json.loads(ended.stdout)
    assert found == {
        "get http://orders/": "200",
        "get http://orders.shop/": "200",
        "get http://orders.shop.svc/": "200",
        "get http://orders.shop.svc.cluster.local:8080/": "200",
        "get http://v1.orders.mesh/": "200",
        "get http://v7.orders.mesh/": "gaierror",
        "look up orders": "127.0.0.1",
        "look up legacy": "192.0.2.2",
        "look up orders.other": "192.0.2.3",
        "look up outside.example": "192.0.2.4",
        "look up v1.orders.mesh": "127.0.0.1",
        "look up nobody.mesh": "none",
        "look up nobody.example": "none",
        "a stranger's host": "421 misdirected",
        "the sidecar's own API": "421 misdirected",
        "a page from elsewhere": "403 denied",
        "a page of a captured name": "200",
        "by proxy": "200",
        "by proxy, a stranger": "421 misdirected",
    }


def test_a_port_for_which_the_user_has_no_right() -> None:
    settings = {
        "MESHQ_SERVICE": "app", "MESHQ_SERVICE_VERSION": "1.0.0", "MESHQ_BROKER_URL": "embedded:",
        "MESHQ_REGISTRY_URL": "embedded:", "MESHQ_HOST_PORTS": "80",
    }  # fmt: skip
    given = [f"{name}={value}" for name, value in settings.items()]
    ended = in_namespaces(
        "sh", "-c", 'ip link set lo up && exec setpriv --bounding-set=-net_bind_service env "$@"',
        "sh", *given, sys.executable, "-m", "meshq_sidecar",
    )  # fmt: skip
    assert ended.returncode == 64, ended.stderr
    assert "net.ipv4.ip_unprivileged_port_start" in ended.stderr
    assert "MESHQ_HOST_PORTS" in ended.stderr
