"""YAML with comments, as text, and what every manifest says."""

import re
import textwrap

WIDTH = 110
"""Of comments."""
REPLICAS = (
    "Leave `replicas` out of the Deployment's own manifest, or every time that it is applied the replicas are set back."
)

_PLAIN = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])
"""What YAML takes for something else than text."""


def header(sentence: str, *points: str) -> str:
    """Before a document: what it is for, then what is to be known, point by point; those that are "" are left out."""
    bullets = "".join(note(point, "- ") for point in points if point)
    return f"{note(sentence)}#\n{bullets}"


def note(text: str, bullet: str = "") -> str:
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "".join(f"# {line}\n" for line in lines)


def name(text: str) -> str:
    """A name in Kubernetes, in quotes where YAML would take it for a number or a truth value."""
    return text if _PLAIN.fullmatch(text) and text not in _WORDS else f'"{text}"'
