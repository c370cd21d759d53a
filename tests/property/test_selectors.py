"""Selectors against a reference that knows no bounds: every operator spelled out over a grid of versions."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from meshq.core.names import BadName, Version, parse_version
from meshq.core.selectors import parse_selector

PARTS = range(3)
GRID = [
    Version(*core, pre)
    for core in itertools.product(PARTS, PARTS, PARTS)
    for pre in ((), ("0",), ("rc", "1"), ("rc", "2"))
]
operators = st.sampled_from(["", "=", "^", "~", ">", ">=", "<", "<="])
operands = (
    st.sampled_from([str(v) for v in GRID])
    | st.sampled_from([f"{a}.{b}" for a in PARTS for b in PARTS])
    | st.sampled_from([str(a) for a in PARTS])
)
comparators = st.tuples(operators, operands)


def names_release(operand: str, version: Version) -> bool:
    """Whether a partial operand is a prefix of the version."""
    return tuple(map(int, operand.split("."))) == version[: operand.count(".") + 1]


def holds(operator: str, operand: str, version: Version) -> bool:
    """One comparator, by the words of npm's semver; pre-releases are looked at elsewhere."""
    key = version.key()
    if operand.count(".") < 2:  # a partial one
        floor = parse_version(operand + ".0" * (2 - operand.count(".")))
        inside = names_release(operand, version) and key >= floor.key()
        match operator:
            case "" | "=":
                return inside
            case ">":
                return key > floor.key() and not names_release(operand, version)
            case ">=":
                return key >= floor.key()
            case "<":
                return key < floor.key() and not names_release(operand, version)
            case "<=":
                return inside or (key < floor.key() and not names_release(operand, version))
            case "~":
                return inside
            case _:
                fixed = 1 if floor.major or "." not in operand else 2
                return key >= floor.key() and version[:fixed] == floor[:fixed]
    exact = parse_version(operand)
    match operator:
        case "" | "=":
            return key == exact.key()
        case ">":
            return key > exact.key()
        case ">=":
            return key >= exact.key()
        case "<":
            return key < exact.key()
        case "<=":
            return key <= exact.key()
        case "~":
            return key >= exact.key() and version[:2] == exact[:2]
        case _:
            fixed = 1 if exact.major else 2 if exact.minor else 3
            return key >= exact.key() and version[:fixed] == exact[:fixed]


def reference(parts: list[tuple[str, str]], version: Version) -> bool:
    if not all(holds(operator, operand, version) for operator, operand in parts):
        return False
    named = [parse_version(o) for _, o in parts if o.count(".") >= 2]
    return not version.pre or any(v.pre and v[:3] == version[:3] for v in named)


@given(st.lists(comparators, min_size=1, max_size=3))
def test_a_selector_agrees_with_the_reference(parts: list[tuple[str, str]]) -> None:
    selector = parse_selector(",".join(operator + operand for operator, operand in parts))
    for version in GRID:
        expected = reference(parts, version) if selector.major is None else version.major == selector.major
        assert selector.admits(version) == expected, f"{selector.text} on {version}"


@given(st.sampled_from(GRID))
def test_a_version_is_within_its_own_selectors(version: Version) -> None:
    for operator in ("", "=", "^", "~", ">=", "<="):
        assert parse_selector(f"{operator}{version}").admits(version)
    for operator in (">", "<"):
        assert not parse_selector(f"{operator}{version}").admits(version)


@given(st.text(max_size=120) | st.text(st.sampled_from("^~<>=,. 0129-rcx+latest"), max_size=40))
def test_any_text_is_a_selector_or_bad_name(text: str) -> None:
    try:
        selector = parse_selector(text)
    except BadName:
        return
    assert selector.text == text
    for version in GRID[:8]:
        assert selector.admits(version) in (True, False)
