"""INTERFACE part 1, rule by rule."""

import pytest

from meshq.core.names import (
    RESERVED,
    BadName,
    HostName,
    bare_host,
    check_event,
    check_instance,
    check_service,
    clean_instance,
    instance_id,
    parse_host,
    parse_major,
    parse_topic,
    parse_version,
    topic,
)


@pytest.mark.parametrize("name", ["a", "orders", "a-b", "o2", "a--b", "v1", "a" * 40])
def test_a_service_is_a_dns_label_of_up_to_40(name: str) -> None:
    assert check_service(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "2orders", "-a", "a-", "Orders", "a.b", "a_b", "a b", "a" * 41, "é", "a\n", "orders@2", "ａ"],
)
def test_what_no_service_may_be_called(name: str) -> None:
    with pytest.raises(BadName, match="is not a service name"):
        check_service(name)


def test_reserved_words_are_no_services() -> None:
    words = ["reply", "log", "delay", "dead", "return", "lost", "calls", "events", "replies"]
    assert set(words) == RESERVED
    for word in words:
        with pytest.raises(BadName, match="reserved"):
            check_service(word)
        assert check_service(word + "x") == word + "x"


@pytest.mark.parametrize("name", ["a", "payments.settled", "a.b.c", "0.1", "a-b.c", "a" * 120, ".".join("a" * 60)])
def test_an_event_is_dotted_labels_of_up_to_120(name: str) -> None:
    assert check_event(name) == name


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "A.b", "a_b", "-a", "a-", "a.-b", "a" * 121, "a\n"])
def test_what_no_event_may_be_called(name: str) -> None:
    with pytest.raises(BadName, match="is not an event name"):
        check_event(name)


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("orders-7d9f-k3m2qa", "orders-7d9f-k3m2qa"),
        ("Orders_1.local", "orders-1-local"),
        ("ÄB", "-b"),
        ("x" * 70, "x" * 63),
        ("v1", "i-v1"),
        ("V12", "i-v12"),
        ("v" + "1" * 80, "i-v" + "1" * 60),
        ("v1a", "v1a"),
        ("", "i-"),
    ],
)
def test_any_text_becomes_an_instance_id(given: str, cleaned: str) -> None:
    assert clean_instance(given) == cleaned
    assert check_instance(cleaned) == cleaned


@pytest.mark.parametrize("text", ["", "v1", "v007", "A", "a.b", "a" * 64, "a_b", "ä"])
def test_what_is_no_instance_id(text: str) -> None:
    with pytest.raises(BadName, match="is not an instance id"):
        check_instance(text)


@pytest.mark.parametrize(
    ("host", "made"),
    [
        ("orders-7d9f", "orders-7d9f-k3m2qa"),
        ("v1", "i-v1-k3m2qa"),
        ("x" * 80, "x" * 56 + "-k3m2qa"),
    ],
)
def test_an_instance_id_is_host_and_six_characters(host: str, made: str) -> None:
    assert instance_id(host, "K3M2QAXYZ") == made
    assert check_instance(made) == made


def test_topics() -> None:
    assert topic("orders", 2) == "orders.v2"
    assert parse_topic("orders.v2") == ("orders", 2)
    assert parse_topic("payments.settled.v1") == ("payments.settled", 1)
    assert parse_topic("a.v1.v2") == ("a.v1", 2)


@pytest.mark.parametrize(
    "text", ["", "orders", "orders.2", "orders.v", "orders.v02", "orders.vx", ".v2", "a..v2", "A.v2"]
)
def test_what_is_no_topic(text: str) -> None:
    with pytest.raises(BadName):
        parse_topic(text)


@pytest.mark.parametrize(("text", "major"), [("0", 0), ("2", 2), ("2147483647", 2**31 - 1)])
def test_majors(text: str, major: int) -> None:
    assert parse_major(text) == major


@pytest.mark.parametrize("text", ["", "02", "-1", "1.0", "x", "2147483648", "99999999999", " 1", "1\n", "٢"])
def test_what_is_no_major(text: str) -> None:
    with pytest.raises(BadName):
        parse_major(text)


# --- SemVer ----------------------------------------------------------------------------------------------------------------

SECTION_11 = [
    "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
    "1.0.0", "2.0.0", "2.1.0", "2.1.1",
]  # fmt: skip
"""Both examples of semver.org section 11, in order of precedence."""


def test_precedence_is_as_semver_org_lists_it() -> None:
    keys = [parse_version(text).key() for text in SECTION_11]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.0.0-1", "1.0.0-a"),
        ("1.0.0-9", "1.0.0-10"),
        ("1.0.0-A", "1.0.0-a"),
        ("1.9.0", "1.10.0"),
        ("1.0.0--", "1.0.0-0a"),
    ],
)
def test_more_precedence(lower: str, higher: str) -> None:
    assert parse_version(lower).key() < parse_version(higher).key()


def test_build_metadata_does_not_count() -> None:
    assert parse_version("1.0.0+a").key() == parse_version("1.0.0+b.2").key() == parse_version("1.0.0").key()


@pytest.mark.parametrize(
    "text",
    [
        "0.0.4",
        "10.20.30",
        "1.1.2-prerelease+meta",
        "1.0.0-alpha-a.b-c+x",
        "1.0.0-0A.is.legal",
        "2.0.0+build.1848",
        "1.0.0--",
    ],
)
def test_versions_are_written_as_they_were_read(text: str) -> None:
    assert str(parse_version(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1.2", "1.2.3.4", "01.1.1", "1.01.1", "1.1.01", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+", "v1.2.3",
        "1.2.3 ", " 1.2.3", "1.2.3\n", "1.2.3-ä", "-1.0.0", "2147483648.0.0", "1.99999999999.0", "1.0.0-" + "a" * 130, "١.0.0",
    ],
)  # fmt: skip
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(BadName):
        parse_version(text)


# --- host names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("orders.mesh", HostName("orders")),
        ("ORDERS.Mesh", HostName("orders")),
        ("orders.mesh.", HostName("orders")),
        ("orders.mesh:80", HostName("orders")),
        ("orders.mesh.:3600", HostName("orders")),
        ("v2.orders.mesh", HostName("orders", major=2)),
        ("v2.orders.localhost:3600", HostName("orders", major=2)),
        ("orders.localhost", HostName("orders")),
        ("orders-7d9f-k3m2qa.orders.mesh", HostName("orders", instance="orders-7d9f-k3m2qa")),
        ("v2a.orders.mesh", HostName("orders", instance="v2a")),
    ],
)
def test_hosts_of_the_mesh(host: str, name: HostName) -> None:
    assert parse_host(host, "mesh") == name


@pytest.mark.parametrize(
    "host",
    [
        "", "mesh", "localhost", "example.com", "orders.mesh.com", "ordersmesh", "[::1]", "[::1]:3600", "127.0.0.1",
        "orders.mesh@evil.com", "orders.mesh:x@evil.com", "orders.mesh:80:90", "orders.mesh/x", "a b.mesh", "orders.mesh..",
        "reply.localhost", "UPPER_case.localhost", "a.b.c.localhost", "v99999999999.orders.localhost", "é.mesh",
    ],
)  # fmt: skip
def test_hosts_that_are_not_of_the_mesh(host: str) -> None:
    assert parse_host(host, "mesh") is None


@pytest.mark.parametrize(
    "host",
    ["reply.mesh", ".mesh", "a..mesh", "a.b.c.mesh", "o_rders.mesh", "v99999999999.orders.mesh", "x_y.orders.mesh"],
)
def test_hosts_under_the_domain_that_no_service_can_have(host: str) -> None:
    with pytest.raises(BadName):
        parse_host(host, "mesh")


def test_the_domain_is_a_setting() -> None:
    assert parse_host("orders.shop", "shop") == HostName("orders")
    assert parse_host("orders.mesh", "shop") is None
    assert parse_host("orders.localhost", "shop") == HostName("orders")


@pytest.mark.parametrize(
    ("host", "bare"),
    [
        ("A.b:1", "a.b"),
        ("a.", "a"),
        ("[::1]:80", "::1"),
        ("", ""),
        ("a:123456", None),
        ("a:-1", None),
        ("[::1", None),
        ("[::1]x", None),
    ],
)
def test_a_host_without_its_port(host: str, bare: str | None) -> None:
    assert bare_host(host) == bare
