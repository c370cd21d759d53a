"""What selectors accept, by the tables of npm's semver that the module follows."""

import pytest

from meshq.core.names import BadName, parse_version
from meshq.core.selectors import MAX_SELECTOR, Address, parse_address, parse_selector

TABLE = [
    # selector, in, out
    ("2", "2.0.0 2.9.9", "1.9.9 3.0.0"),
    ("2.1", "2.1.0 2.1.9", "2.0.9 2.2.0 2.1.0-rc.1 2.2.0-rc.1"),
    ("2.1.3", "2.1.3 2.1.3+build", "2.1.2 2.1.4 2.1.3-rc.1"),
    ("=2.1.3", "2.1.3", "2.1.4"),
    ("=2", "2.0.0 2.7.1", "1.0.0 3.0.0 2.1.0-rc.1 3.0.0-0"),
    ("2.1.3-rc.1", "2.1.3-rc.1", "2.1.3 2.1.3-rc.2 2.1.3-rc.0"),
    ("^2.1", "2.1.0 2.9.0", "2.0.9 3.0.0 2.4.0-rc.1 3.0.0-rc.1"),
    ("^2.1.3", "2.1.3 2.2.0", "2.1.2 3.0.0"),
    ("^2", "2.0.0 2.9.0", "1.9.9 3.0.0 2.4.0-rc.1 3.0.0-0"),
    ("^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0 1.0.0"),
    ("^0.0.3", "0.0.3", "0.0.2 0.0.4"),
    ("^0.0", "0.0.0 0.0.9", "0.1.0"),
    ("^0", "0.0.0 0.9.9", "1.0.0"),
    ("^2.1.3-rc.2", "2.1.3-rc.2 2.1.3-rc.10 2.1.3 2.4.0", "2.1.3-rc.1 2.4.0-rc.3 3.0.0"),
    ("~2.1.3", "2.1.3 2.1.9", "2.1.2 2.2.0"),
    ("~2.1", "2.1.0 2.1.9", "2.0.9 2.2.0"),
    ("~2", "2.0.0 2.9.9", "3.0.0 1.9.9"),
    (">2", "3.0.0 9.0.0", "2.9.9 2.0.0 3.0.0-rc.1"),
    (">2.1", "2.2.0", "2.1.9"),
    (">2.1.3", "2.1.4", "2.1.3"),
    (">=2.1", "2.1.0 9.0.0", "2.0.9 2.1.0-rc.1"),
    ("<2", "1.9.9 0.0.0", "2.0.0 2.0.0-rc.1"),
    ("<2.1.0", "2.0.9", "2.1.0 2.1.0-rc.1"),
    ("<2.1.0-rc.2", "2.0.9 2.1.0-rc.1", "2.1.0-rc.2 2.1.0 2.0.9-rc.1"),
    ("<=2", "2.9.9 1.0.0", "3.0.0 3.0.0-rc.1"),
    ("<=2.1.3", "2.1.3", "2.1.4"),
    (">=2.1,<3", "2.1.0 2.9.9", "2.0.9 3.0.0"),
    (">=2.1, <3", "2.1.0 2.9.9", "2.0.9 3.0.0"),
    (">=3.0.0-alpha,<3", "", "3.0.0-alpha 3.0.0-rc.1 3.0.0 2.9.9"),
    ("^2,>=3.0.0-alpha", "", "3.0.0-rc.1 2.9.9 3.0.0"),
    (">=3.0.0-alpha,<3.0.0", "3.0.0-alpha 3.0.0-rc.1", "3.0.0 2.9.9"),
    ("latest", "0.0.1 9.0.0 1.0.0-rc.1", ""),
]


@pytest.mark.parametrize(("text", "accepted", "refused"), TABLE, ids=[row[0] for row in TABLE])
def test_what_a_selector_accepts(text: str, accepted: str, refused: str) -> None:
    selector = parse_selector(text)
    assert [v for v in accepted.split() if not selector.admits(parse_version(v))] == []
    assert [v for v in refused.split() if selector.admits(parse_version(v))] == []
    assert selector.text == text


def test_a_bare_major_is_its_topic_pre_releases_too() -> None:
    selector = parse_selector("2")
    assert selector.major == 2
    assert selector.admits(parse_version("2.4.0-rc.1")), "whoever consumes the topic of major 2 gets what goes there"
    assert parse_selector("2.0").major is None
    assert parse_selector("^2").major is None
    assert parse_selector("=2").major is None


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "x", "*", "2.x", "v2", "02", "2.01", "^", ">=", "2,", ",2", "2,,3", "2 || 3", "1 - 2", "^^2", ">=<2", "2.1.3.4",
        "LATEST", "latest,2", "2147483648", "-1", "2\n", "٢", ",".join(["2"] * 9), "2" * (MAX_SELECTOR + 1),
        "1.0.0-" + "a" * MAX_SELECTOR,
    ],
)  # fmt: skip
def test_what_is_no_selector(text: str) -> None:
    with pytest.raises(BadName):
        parse_selector(text)


@pytest.mark.parametrize("text", ["orders", "orders@2", "orders@^2.1", "orders@>=2.1,<3", "orders@latest"])
def test_addresses_are_written_as_they_were_read(text: str) -> None:
    address = parse_address(text)
    assert str(address) == text
    assert address.service == "orders"


def test_an_address_without_a_selector_has_none() -> None:
    assert parse_address("orders") == Address("orders", None)


@pytest.mark.parametrize("text", ["", "@2", "orders@", "Orders@2", "orders@2@3", "orders 2", "reply@1", "orders@x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadName):
        parse_address(text)
