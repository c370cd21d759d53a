"""What a pod's /etc/resolv.conf says, and what its cluster means by a name."""

import pytest

from meshq.core.resolv import Cluster, ResolvConf, cluster_of, read_resolv_conf, service_of, upstream

POD = """\
# written by the kubelet
search shop.svc.cluster.local svc.cluster.local cluster.local eu-west-1.compute.internal
nameserver 127.0.0.1
nameserver 10.96.0.10
options ndots:5
"""


def test_a_pods_file() -> None:
    found = read_resolv_conf(POD)
    assert found.servers == ("127.0.0.1", "10.96.0.10")
    assert cluster_of(found.search) == Cluster("shop", "cluster.local")


@pytest.mark.parametrize(
    ("text", "servers", "search"),
    [
        ("", (), ()),
        ("nameserver", (), ()),
        ("nameserver host.example", (), ()),
        ("; nameserver 10.0.0.1\n#nameserver 10.0.0.2\n", (), ()),
        ("nameserver\t10.0.0.1   # comment\r\nnameserver fe80::1%eth0", ("10.0.0.1", "fe80::1%eth0"), ()),
        ("nameserver 1.1.1.1\n" * 5, ("1.1.1.1",) * 3, ()),
        ("search a.example\ndomain B.Example.", (), ("b.example",)),
        ("search .", (), ()),
        ("\0\udcff nonsense", (), ()),
    ],
)
def test_other_files(text: str, servers: tuple[str, ...], search: tuple[str, ...]) -> None:
    assert read_resolv_conf(text) == ResolvConf(servers, search)


def test_we_are_not_behind_ourselves() -> None:
    servers = ("127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1", "127.0.0.53", "10.96.0.10")
    assert upstream(servers, 53) == ("127.0.0.53", "10.96.0.10")
    assert upstream(servers, 3602) == servers  # at port 53 of this machine somebody else is


@pytest.mark.parametrize(
    ("search", "cluster"),
    [
        ((), Cluster(None)),
        (("example.com",), Cluster(None)),
        (("svc.cluster.local", "cluster.local"), Cluster(None)),
        (("corp.example", "pay.svc.k8s.example"), Cluster("pay", "k8s.example")),
    ],
)
def test_where_the_pod_is(search: tuple[str, ...], cluster: Cluster) -> None:
    assert cluster_of(search) == cluster


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("orders", "orders"),
        ("orders.shop", "orders"),
        ("orders.shop.svc", "orders"),
        ("orders.shop.svc.cluster.local", "orders"),
        ("orders.other", None),
        ("orders.other.svc.cluster.local", None),
        ("orders.com", None),
        ("orders.shop.svc.cluster.local.example", None),
        ("orders.shop.pod.cluster.local", None),
        ("v2.orders.shop.svc.cluster.local", None),
        ("svc.cluster.local", None),
        ("", None),
    ],
)
def test_what_the_cluster_means(name: str, service: str | None) -> None:
    assert service_of(name, Cluster("shop")) == service


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("orders", "orders"),
        ("orders.com", None),
        ("orders.any.svc", "orders"),
        ("orders.any.svc.cluster.local", "orders"),
        ("orders.any.svc.k8s.example", None),
    ],
)
def test_without_a_search_list_only_what_can_be_nothing_else(name: str, service: str | None) -> None:
    assert service_of(name, Cluster(None)) == service
