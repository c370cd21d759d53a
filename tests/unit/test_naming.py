"""What a sidecar is in the names that it answers for, from its settings and the pod's resolv.conf."""

import logging

import pytest

from meshq.core.errors import Code, Refused
from meshq.core.instances import EMPTY
from meshq.core.resolv import Cluster
from meshq.settings import Settings, load
from meshq_sidecar.naming import Naming, zone_of
from tests.dns_rig import picture

SEARCH = ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")


def settings(**more: str) -> Settings:
    given = {
        "service": "app",
        "service_version": "1.0.0",
        "broker_url": "embedded:",
        "registry_url": "embedded:",
        **more,
    }
    return load({f"MESHQ_{name.upper()}": value for name, value in given.items()})


@pytest.mark.parametrize(
    ("more", "port"),
    [({}, 3600), ({"port": "4000"}, 4000), ({"host_ports": "8080,80"}, 80), ({"host_ports": "8080,8081"}, 8080)],
)
def test_where_the_mesh_is_reached_by_name(more: dict[str, str], port: int) -> None:
    assert zone_of(settings(**more), (), v6=False).port == port


def test_without_capture_the_clusters_names_are_the_clusters() -> None:
    naming = Naming(zone_of(settings(), SEARCH, v6=False), lambda: picture(orders=(1,)))
    assert naming.zone.cluster is None
    assert naming.captured("orders") is None
    assert naming.as_json(53, ["10.96.0.10"]) == {"port": 53, "resolvers": ["10.96.0.10"], "capture": None}


def test_with_capture_they_are_the_meshs() -> None:
    seen = picture(orders=(1,))
    naming = Naming(zone_of(settings(dns_capture="1"), SEARCH, v6=False), lambda: seen)
    assert naming.captured("orders.shop") == "orders"
    assert naming.captured("billing.shop") is None
    seen = picture(billing=(1,))
    assert naming.captured("billing.shop") == "billing"
    assert naming.as_json(53, [])["capture"] == {"namespace": "shop", "domain": "cluster.local"}


def test_before_the_first_picture_nobody_knows_what_is_captured() -> None:
    zone = zone_of(settings(dns_capture="1", passthrough="legacy"), SEARCH, v6=False)
    naming = Naming(zone, lambda: EMPTY)
    with pytest.raises(Refused) as refused:
        naming.captured("orders.shop")
    assert refused.value.problem.code is Code.UNAVAILABLE
    assert naming.captured("legacy") is None
    assert naming.captured("example.com") is None


def test_the_names_are_made_once_a_picture() -> None:
    seen = EMPTY
    naming = Naming(zone_of(settings(), (), v6=False), lambda: seen)
    assert naming.names() is naming.names()
    first, seen = naming.names(), picture(orders=(1,))
    assert naming.names() is not first
    assert naming.names() is naming.names()


def test_the_broker_and_the_registry_are_never_captured() -> None:
    zone = zone_of(
        settings(
            dns_capture="1",
            broker_url="amqp://orders:secret@rabbit-0.rabbit:5672,rabbit.shop.svc.cluster.local/x",
            registry_url="redis://:secret@Redis:6379/0",
            passthrough="legacy.shop:8080,example.com",
        ),
        SEARCH,
        v6=False,
    )
    assert zone.spared == {"rabbit", "redis", "legacy"}
    seen = picture(redis=(1,), orders=(1,))
    naming = Naming(zone, lambda: seen)
    assert naming.captured("redis.shop.svc.cluster.local") is None
    assert naming.captured("orders.shop.svc.cluster.local") == "orders"


def test_what_may_be_a_mistake_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    chosen = settings(dns_capture="1")
    naming = Naming(zone_of(chosen, (), v6=False), lambda: EMPTY)
    assert naming.zone.cluster == Cluster(None)
    naming.say_what_is_missing(chosen, [])
    assert [word in caplog.text for word in ("no resolver", "no search list", "without MESHQ_HOST_PORTS")] == [True] * 3
    caplog.clear()
    chosen = settings(dns_capture="1", host_ports="80")
    Naming(zone_of(chosen, SEARCH, v6=False), lambda: EMPTY).say_what_is_missing(chosen, ["10.96.0.10"])
    assert not caplog.text
