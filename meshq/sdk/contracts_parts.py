"""What both kinds of documents are made of: schemas by pydantic, names, and the words of a docstring."""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from meshq.sdk.bodies import BYTES, JSON, TEXT
from meshq.sdk.dispatch import Route
from meshq.sdk.handlers import Handler

Document = dict[str, Any]
Mode = Literal["validation", "serialization"]
"""Of what comes in, and of what goes out."""

SCHEMAS = "#/components/schemas/"

PROBLEM_NAME = "meshq.Problem"
"""No model has a dot in its name."""
PROBLEM_JSON = "application/problem+json"
PROBLEM: Document = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457). The sidecar's own say so in the field Meshq-Error too.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For people."},
        "code": {"type": "string", "description": "For machines."},
        "retryable": {"type": "boolean", "description": "Whether the same again may succeed."},
        "errors": {
            "type": "array",
            "description": "Which fields are not what is wanted.",
            "items": {
                "type": "object",
                "properties": {
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                    "type": {"type": "string"},
                },
                "required": ["loc", "msg", "type"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "retryable"],
}


class Schemas:
    """The schemas of the types of one document. They are asked for one by one and made together, so that a model which is not the same
    coming in as going out has two names."""

    def __init__(self) -> None:
        self._wanted: list[tuple[str, Mode, TypeAdapter[Any]]] = []
        self._made: dict[str, Document] = {}
        self.named: dict[str, Document] = {}
        """Those that others refer to; there after `make`."""

    def want(self, key: str, mode: Mode, wanted: Any, whose: str) -> None:
        """`key` is free to choose; `whose` is for the error. Raises TypeError where the type has no schema."""
        try:
            adapter = TypeAdapter(wanted)
            adapter.json_schema(mode=mode)
        except PydanticUserError as error:
            raise TypeError(f"{whose}: {wanted!r} has no schema: {error.message}") from error
        self._wanted.append((key, mode, adapter))

    def make(self) -> None:
        found, definitions = TypeAdapter.json_schemas(self._wanted, ref_template=SCHEMAS + "{model}")
        self._made = {key: dict(schema) for (key, _), schema in found.items()}
        self.named = dict(sorted(definitions.get("$defs", {}).items()))

    def __getitem__(self, key: str) -> Document:
        return self._made[key]


def operation_ids(routes: Iterable[Route]) -> list[str]:
    """The name of each one's function; of those that share one, the second is `find_2`."""
    taken: set[str] = set()
    found = []
    for route in routes:
        name, number = route.handler.name, 2
        while name in taken:
            name, number = f"{route.handler.name}_{number}", number + 1
        taken.add(name)
        found.append(name)
    return found


def words(handler: Handler) -> Document:
    """The first line of the docstring as the summary, the rest as the description."""
    first, _, rest = handler.doc.partition("\n")
    said = {"summary": first.strip(), "description": rest.strip()}
    return {name: text for name, text in said.items() if text}


def without_none(wanted: Any) -> tuple[Any, bool]:
    """`Receipt | None` -> (Receipt, True)."""
    if get_origin(wanted) not in (Union, UnionType) or NoneType not in get_args(wanted):
        return wanted, False
    return Union[tuple(each for each in get_args(wanted) if each is not NoneType)], True  # noqa: UP007 - of a tuple


def content_type(written: Any) -> str:
    """What a body of this type is where nobody asks for another."""
    return BYTES if written is bytes else TEXT if written is str else JSON


def ref(*path: str) -> Document:
    """A reference within the document."""
    return {"$ref": "/".join(("#", *(each.replace("~", "~0").replace("/", "~1") for each in path)))}
