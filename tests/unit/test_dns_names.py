"""The mesh's names, from a picture of it."""

from dataclasses import replace

import pytest

from meshq.core.dns import MOST_RECORDS, Names, Zone
from meshq.core.dns_records import NEGATIVE_TTL, Answer, Authority, Kind, Name, Status, Target
from meshq.core.instances import EMPTY, State
from meshq.core.resolv import Cluster
from tests.dns_rig import instance, picture

ZONE = Zone("mesh", 3600, v6=True)
SEEN = picture(
    instance("orders", "orders-a", "2.3.1", http="10.0.0.7:8080"),
    instance("orders", "orders-b", "1.4.0", State.UNHEALTHY, address="[fd00::7]:3600"),
    instance("orders", "orders-c", "2.3.0", State.DOWN, address="10.0.0.9:3600"),
    instance("host", "host-a", address="pod-7:3600"),
    billing=(1,),
)


def ask(name: str, kind: int = Kind.A, zone: Zone = ZONE) -> Answer:
    found = Names(zone, SEEN).answer(labels(name), kind)
    assert found is not None
    return found


def labels(name: str) -> Name:
    return tuple(name.split(".")) if name else ()


def data(answer: Answer) -> list[object]:
    return [record.data for record in answer.records]


def assert_absent(answer: Answer, status: Status, zone: str = "mesh") -> None:
    assert (answer.status, answer.records) == (status, ())
    (soa,) = answer.authority
    assert (soa.name, soa.kind, soa.data, soa.ttl) == (labels(zone), Kind.SOA, Authority(7), NEGATIVE_TTL)


@pytest.mark.parametrize("name", ["orders.mesh", "v2.orders.mesh", "v1.orders.mesh", "billing.mesh", "v1.billing.mesh"])
def test_a_service_is_on_loopback_whatever_its_instances_do(name: str) -> None:
    assert data(ask(name)) == ["127.0.0.1"]
    assert data(ask(name, Kind.AAAA)) == ["::1"]


def test_without_a_sidecar_on_v6_there_is_no_such_address() -> None:
    assert_absent(ask("orders.mesh", Kind.AAAA, ZONE._replace(v6=False)), Status.GOOD)


@pytest.mark.parametrize(
    "name",
    [
        "unknown.mesh", "v3.orders.mesh", "v2.billing.mesh", "orders-c.orders.mesh", "nobody.orders.mesh", "x.v2.orders.mesh",
        "reply.mesh", "a_b.mesh", "_http._tcp.unknown.mesh", "_tcp.unknown.mesh", "_udp.orders.mesh", "_http.orders.mesh",
        "orders-b._http._tcp.orders.mesh", "_http._tcp.mesh", "orders\\046mesh.mesh", "\xff.mesh", "orders:80.mesh", ".mesh",
    ],
)  # fmt: skip
def test_what_is_not_there(name: str) -> None:
    for kind in (Kind.A, Kind.TXT, Kind.ANY, Kind.SRV):
        assert_absent(ask(name, kind), Status.NO_SUCH_NAME)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("orders.mesh", Kind.SRV),
        ("orders.mesh", 15),
        ("mesh", Kind.A),
        ("_tcp.orders.mesh", Kind.SRV),
        ("_http._tcp.orders.mesh", Kind.A),
        ("_http._tcp.orders-b.orders.mesh", Kind.SRV),
        ("orders-a.orders.mesh", Kind.AAAA),
        ("host-a.host.mesh", Kind.A),
    ],
)
def test_a_name_that_has_no_such_record(name: str, kind: int) -> None:
    assert_absent(ask(name, kind), Status.GOOD)


def test_the_zone_has_an_authority() -> None:
    assert data(ask("mesh", Kind.SOA)) == [Authority(7)]


def test_an_instance_is_where_it_says() -> None:
    assert data(ask("orders-a.orders.mesh")) == ["10.0.0.7"]
    assert data(ask("orders-b.orders.mesh", Kind.AAAA)) == ["fd00::7"]


def test_the_way_to_a_service_is_the_mesh() -> None:
    for host in ("orders.mesh", "v2.orders.mesh"):
        answer = ask(f"_http._tcp.{host}", Kind.SRV)
        assert data(answer) == [Target(3600, labels(host))]
        assert [record.data for record in answer.additional] == ["127.0.0.1", "::1"]


def test_the_way_to_one_instance_is_its_own_endpoint() -> None:
    assert data(ask("_http._tcp.orders.mesh", Kind.PTR)) == [labels("orders-a._http._tcp.orders.mesh")]
    for name in ("orders-a._http._tcp.orders.mesh", "_http._tcp.orders-a.orders.mesh"):
        answer = ask(name, Kind.SRV)
        assert data(answer) == [Target(8080, labels("orders-a.orders.mesh"))]
        assert [record.data for record in answer.additional] == ["10.0.0.7"]


def test_texts_tell_version_and_state() -> None:
    first = ("instance=orders-a", "version=2.3.1", "state=ready")
    second = ("instance=orders-b", "version=1.4.0", "state=unhealthy")
    assert data(ask("orders.mesh", Kind.TXT)) == [first, second]
    assert data(ask("_http._tcp.orders.mesh", Kind.TXT)) == [first, second]
    assert data(ask("v1.orders.mesh", Kind.TXT)) == [second]
    assert data(ask("orders-a.orders.mesh", Kind.TXT)) == [first]
    assert data(ask("orders-a._http._tcp.orders.mesh", Kind.TXT)) == [first]
    assert_absent(ask("billing.mesh", Kind.TXT), Status.GOOD)


def test_an_address_has_names() -> None:
    assert data(ask("7.0.0.10.in-addr.arpa", Kind.PTR)) == [labels("orders-a.orders.mesh")]
    nibbles = ".".join(reversed("fd000000000000000000000000000007"))
    assert data(ask(f"{nibbles}.ip6.arpa", Kind.PTR)) == [labels("orders-b.orders.mesh")]
    assert data(ask("1.0.0.127.in-addr.arpa", Kind.PTR)) == [("localhost",)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("9.0.0.10.in-addr.arpa", Kind.PTR),  # down
        ("8.0.0.10.in-addr.arpa", Kind.PTR),
        ("0.0.10.in-addr.arpa", Kind.PTR),
        ("7.0.0.10.in-addr.arpa", Kind.A),
        ("x.0.0.10.in-addr.arpa", Kind.PTR),
        ("0.ip6.arpa", Kind.PTR),
        ("zz" + ".0" * 31 + ".ip6.arpa", Kind.PTR),
        ("z" + ".0" * 31 + ".ip6.arpa", Kind.PTR),
        ("arpa", Kind.PTR),
        ("example.com", Kind.A),
        ("orders.mesh.example", Kind.A),
        ("orders", Kind.A),
        ("orders.shop.svc.cluster.local", Kind.A),
        ("", Kind.A),
    ],
)
def test_what_is_not_ours(name: str, kind: int) -> None:
    assert Names(ZONE, SEEN).answer(labels(name), kind) is None


def test_any_is_answered_with_next_to_nothing() -> None:
    answer = ask("orders.mesh", Kind.ANY)
    assert [(record.kind, record.data) for record in answer.records] == [(Kind.HINFO, ("RFC8482", ""))]


def test_localhost_needs_nobody() -> None:
    assert data(ask("localhost")) == ["127.0.0.1"]
    assert data(ask("v2.orders.localhost", Kind.AAAA)) == ["::1"]
    assert_absent(ask("localhost", Kind.TXT), Status.GOOD, "localhost")


def test_before_the_first_picture() -> None:
    names = Names(ZONE._replace(cluster=Cluster("shop")), EMPTY)
    assert names.answer(labels("orders.mesh"), Kind.A) == Answer(Status.SERVER_FAILURE)
    # The registry itself is looked up by such a name.
    assert names.answer(labels("orders.shop.svc.cluster.local"), Kind.A) is None
    stale = Names(ZONE, replace(SEEN, stale=True))
    assert stale.answer(labels("orders.mesh"), Kind.A) is not None


class TestCapture:
    ZONE = ZONE._replace(cluster=Cluster("shop"), spared=frozenset({"host"}))
    FORMS = ("{}", "{}.shop", "{}.shop.svc", "{}.shop.svc.cluster.local")

    @pytest.mark.parametrize("form", FORMS)
    def test_the_clusters_names_of_the_meshs_services(self, form: str) -> None:
        name = form.format("orders")
        assert data(ask(name, Kind.A, self.ZONE)) == ["127.0.0.1"]
        assert data(ask(name, Kind.AAAA, self.ZONE)) == ["::1"]
        assert_absent(ask(name, Kind.TXT, self.ZONE), Status.GOOD, name)
        assert Names(self.ZONE, SEEN).captured(name) == "orders"

    @pytest.mark.parametrize("service", ["unknown", "host", "kubernetes"])
    @pytest.mark.parametrize("form", FORMS)
    def test_others_are_left_to_the_cluster(self, service: str, form: str) -> None:
        name = form.format(service)
        assert Names(self.ZONE, SEEN).answer(labels(name), Kind.A) is None
        assert Names(self.ZONE, SEEN).captured(name) is None

    def test_a_dot_inside_a_label_separates_nothing(self) -> None:
        assert Names(self.ZONE, SEEN).answer(("orders\\046shop",), Kind.A) is None


def test_an_answer_has_an_end() -> None:
    crowd = picture(*(instance("orders", f"orders-{n:04}", http=f"10.0.{n // 250}.1:80") for n in range(1000)))
    for name, kind in (
        ("orders.mesh", Kind.TXT),
        ("_http._tcp.orders.mesh", Kind.PTR),
        ("1.0.0.10.in-addr.arpa", Kind.PTR),
    ):
        answer = Names(ZONE, crowd).answer(labels(name), kind)
        assert answer is not None
        assert len(answer.records) == MOST_RECORDS
