"""The text by which Redis sorts versions against their precedence."""

from hypothesis import example, given
from hypothesis import strategies as st

from meshq.adapters.redis_records import version_order
from meshq.core.names import Version, parse_version

numbers = st.integers(0, 12) | st.integers(0, 2**31 - 1)
fields = st.from_regex(r"0|[1-9][0-9]{0,11}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]{0,4}", fullmatch=True)
versions = st.builds(
    Version, numbers, numbers, numbers, st.lists(fields, max_size=4).map(tuple), st.sampled_from(["", "b1"])
)


@given(versions, versions)
@example(parse_version("1.0.0-alpha"), parse_version("1.0.0-alpha.1"))
@example(parse_version("1.0.0-alpha"), parse_version("1.0.0-alpha-1"))
@example(parse_version("1.0.0-a.b"), parse_version("1.0.0-a-b"))
@example(parse_version("1.0.0-rc.2"), parse_version("1.0.0-rc.11"))
@example(parse_version("1.0.0-1"), parse_version("1.0.0"))
def test_the_order_of_the_texts_is_that_of_the_versions(one: Version, other: Version) -> None:
    # Redis compares whole members, in which a colon and more follow.
    texts = version_order(one).encode() + b":", version_order(other).encode() + b":"
    assert (texts[0] < texts[1]) == (one.key() < other.key())
    assert (texts[0] == texts[1]) == (one.key() == other.key())


@given(versions)
def test_the_text_has_no_colon(version: Version) -> None:
    assert ":" not in version_order(version)
