"""The SDK's docstrings: what they show is so, and every public name has one that says what a user needs."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import meshq
import meshq.sdk

MODULES = sorted(found.name for found in pkgutil.iter_modules(meshq.sdk.__path__, "meshq.sdk."))
CLASSES = sorted(name for name in meshq.__all__ if inspect.isclass(getattr(meshq, name)))
CALLS = ("call", "send", "publish", "publish_many", "watch")
"""What has an example in `Mesh`."""


@pytest.mark.parametrize("name", MODULES)
def test_what_the_docstrings_show_is_so(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def public(name: str) -> Iterator[tuple[str, object]]:
    for member, value in vars(getattr(meshq, name)).items():
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property | classmethod)):
            yield member, value


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_name_says_what_it_is(name: str) -> None:
    found = getattr(meshq, name)
    assert inspect.getdoc(found), name
    without = [member for member, value in public(name) if not inspect.getdoc(value)]
    assert without == []


@pytest.mark.parametrize("name", ["Mesh", "Service", "Context", "Ticket"])
def test_who_raises_says_what(name: str) -> None:
    """Of those whose own code can refuse: what a caller has to be ready for is in the docstring."""
    silent = [
        member
        for member, value in public(name)
        if inspect.isfunction(value)
        and "raise " in inspect.getsource(value)
        and "Raises" not in (inspect.getdoc(value) or "")
    ]
    assert silent == []


def test_the_calls_have_examples() -> None:
    for call in CALLS:
        doc = inspect.getdoc(getattr(meshq.Mesh, call)) or ""
        assert "Raises:" in doc, call
        assert "Example" in doc, call
