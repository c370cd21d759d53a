"""Names: whatever the text, a value that keeps its rule or BadName."""

import re
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.core import names
from meshq.core.names import BadName

NEAR = st.text(st.sampled_from("abv019.-+@:[]_ \nAé\u212a٢"), max_size=70)
"""Texts that look like names more often than chance."""
TEXTS = st.text(max_size=200) | NEAR

PARSERS: list[Callable[[str], object]] = [
    names.parse_version,
    names.parse_major,
    names.check_service,
    names.check_event,
    names.check_instance,
    names.parse_topic,
    lambda text: names.parse_host(text, "mesh"),
    lambda text: names.parse_host(text + ".mesh", "mesh"),
]


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_raises_bad_name_and_nothing_else(parser: Callable[[str], object]) -> None:
    @given(TEXTS)
    def holds(text: str) -> None:
        with suppress(BadName):
            parser(text)

    holds()


@given(TEXTS)
def test_what_was_cleaned_is_an_instance_id(text: str) -> None:
    cleaned = names.clean_instance(text)
    assert names.check_instance(cleaned) == cleaned
    assert re.fullmatch(r"[a-z0-9-]{1,63}", cleaned)
    assert not re.fullmatch(r"v[0-9]+", cleaned)


@given(TEXTS, st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=6, max_size=6))
def test_a_made_instance_id_is_one(host: str, random: str) -> None:
    made = names.instance_id(host, random)
    assert names.check_instance(made) == made
    assert made.endswith(f"-{random}")


numbers = st.integers(0, 2**31 - 1)
identifiers = st.from_regex(r"0|[1-9][0-9]{0,8}|[0-9]{0,3}[a-zA-Z-][0-9a-zA-Z-]{0,8}", fullmatch=True)
versions = st.builds(
    lambda core, pre, build: (
        ".".join(map(str, core)) + ("-" + ".".join(pre) if pre else "") + ("+" + ".".join(build) if build else "")
    ),
    st.tuples(numbers, numbers, numbers),
    st.lists(identifiers, max_size=4),
    st.lists(st.from_regex(r"[0-9A-Za-z-]{1,6}", fullmatch=True), max_size=2),
)


@given(versions)
def test_a_version_is_written_as_it_was_read(text: str) -> None:
    assert str(names.parse_version(text)) == text


@given(versions, versions)
def test_a_release_comes_after_its_pre_releases(one: str, other: str) -> None:
    first, second = names.parse_version(one), names.parse_version(other)
    if first[:3] == second[:3] and first.pre and not second.pre:
        assert first.key() < second.key()
    assert (first.key() < second.key()) + (first.key() > second.key()) + (first.key() == second.key()) == 1


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True), st.integers(0, 2**31 - 1))
def test_a_topic_is_read_as_it_was_made(service: str, major: int) -> None:
    assert names.parse_topic(names.topic(service, major)) == (service, major)
