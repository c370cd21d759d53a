"""Documents as they are given on the command line: a file, standard input, or the Python object of a service."""

import importlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from meshq.cli.given import map_of
from meshq.core.compatibility import BadDocument, kind_of
from meshq.sdk.service import Service

Documents = dict[str, Any]
"""By kind."""

_OBJECT = re.compile(r"[\w.]+:[\w.]+")


def pair(old: str, new: str, kinds: Sequence[str]) -> tuple[Documents, Documents]:
    """Those of `kinds` that both have; a service has each."""
    if old == new == "-":
        raise typer.BadParameter("only one of the two can be read from standard input", param_hint="OLD NEW")
    before, after = _documents(old, kinds, "OLD"), _documents(new, kinds, "NEW")
    common = [kind for kind in kinds if kind in before and kind in after]
    if not common:
        sides = [" and ".join(side) or f"no {' or '.join(kinds)}" for side in (before, after)]
        raise typer.BadParameter(
            f"{old} is {sides[0]}, {new} is {sides[1]}: there is nothing to compare", param_hint="OLD NEW"
        )
    return {kind: before[kind] for kind in common}, {kind: after[kind] for kind in common}


def of_service(text: str, kinds: Sequence[str], hint: str = "MODULE:SERVICE") -> Documents:
    service = _service(text, hint)
    try:
        documents: Documents = {kind: service.openapi() if kind == "openapi" else service.asyncapi() for kind in kinds}
    except TypeError as error:
        raise typer.BadParameter(f"{text}: {error}", param_hint=hint) from error
    # No part is shared, which YAML would write as an alias.
    shown: Documents = json.loads(json.dumps(documents))
    return shown


def _documents(text: str, kinds: Sequence[str], hint: str) -> Documents:
    if text != "-" and _OBJECT.fullmatch(text) and not Path(text).exists():
        return of_service(text, kinds, hint)
    document = map_of(text, hint, "openapi: 3.1.0")
    try:
        found = kind_of(document)
    except BadDocument as error:
        raise typer.BadParameter(f"{text}: {error}", param_hint=hint) from error
    return {found: document} if found in kinds else {}


def _service(text: str, hint: str) -> Service:
    module, _, path = text.partition(":")
    if not _OBJECT.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is not a module and an object in it, such as shop.orders:orders", param_hint=hint
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever the app's own code raises
        raise typer.BadParameter(
            f"{module} cannot be imported: {type(error).__name__}: {error}", param_hint=hint
        ) from error
    for name in path.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, Service):
        raise typer.BadParameter(f"there is no meshq.Service {path} in {module}", param_hint=hint)
    return found
