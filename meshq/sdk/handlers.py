"""What a function takes and gives, read off its signature once: which parameter is the body, which stand in the path or the query, which
is the context.

    async def create(order: Order, ctx: Context) -> Receipt          the body is an Order
    def find(id: int, limit: int = 10) -> list[Order]                `/orders/{id}?limit=5`

A parameter named in the path is a place of it; one annotated `Context` is the context; of the others one with a plain type (str, int,
float, bool, an Enum or a date, `| None`) is a query parameter, and one, at most, with any other is the body.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from meshq.core.http import HttpRequest, header
from meshq.sdk.bodies import UNPROCESSABLE, Invalid, convert, decode
from meshq.sdk.context import Context
from meshq.sdk.operation import Template
from meshq.sdk.problem import INVALID, Problem

Function = Callable[..., Any]

_PLAIN = (str, int, float, bool, Enum, date, datetime, timedelta, Decimal, UUID)
_MISSING = inspect.Parameter.empty


class Parameter(NamedTuple):
    """One in the path or the query."""

    name: str
    type: Any
    default: Any
    """inspect.Parameter.empty: it is required."""

    @property
    def required(self) -> bool:
        return self.default is _MISSING


@dataclass(frozen=True, slots=True)
class Handler:
    """A function, and what it is given and gives."""

    function: Function
    is_async: bool
    body: Any
    """The type of the body; None: it takes none."""
    body_name: str
    body_required: bool
    context_name: str
    """"" : it takes none."""
    path: tuple[Parameter, ...]
    query: tuple[Parameter, ...]
    returns: Any
    """Any where it says nothing; None for nothing."""

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", "handler"))

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    def arguments(
        self, request: HttpRequest, context: Context, places: dict[str, str], query: dict[str, str]
    ) -> dict[str, Any]:
        """Raises Invalid."""
        found: dict[str, Any] = {each.name: convert(places[each.name], each.type, each.name) for each in self.path}
        for each in self.query:
            if each.name in query:
                found[each.name] = convert(query[each.name], each.type, each.name)
            elif each.required:
                raise Invalid(_missing(each.name))
        if self.context_name:
            found[self.context_name] = context
        if self.body_name:
            content_type = (header(request.headers, b"content-type") or b"").decode("latin-1")
            if request.body or self.body_required:
                found[self.body_name] = decode(request.body, content_type, self.body)
        return found


def read(function: Function, path: Template | None) -> Handler:
    """Of an event's handler `path` is None. Raises TypeError, which says what is wrong with which parameter."""
    name = getattr(function, "__qualname__", repr(function))
    types = _types(function, name)
    places = path.names if path is not None else ()
    context_name, bodies, in_path, query = "", [], {}, []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{name}: {parameter} has no place in a request; name what the handler takes")
        wanted = types.get(parameter.name, Any)
        if wanted is Context:
            context_name = parameter.name
        elif parameter.name in places:
            in_path[parameter.name] = Parameter(parameter.name, str if wanted is Any else wanted, _MISSING)
        elif path is not None and _is_plain(wanted):
            query.append(Parameter(parameter.name, wanted, parameter.default))
        else:
            bodies.append(Parameter(parameter.name, wanted, parameter.default))
    if len(bodies) > 1:
        raise TypeError(
            f"{name}: {', '.join(each.name for each in bodies)} cannot all be the body; put them into one model"
        )
    if missing := [each for each in places if each not in in_path]:
        raise TypeError(
            f"{name}: the path {path.text if path else ''} has {{{missing[0]}}}, which the function does not take"
        )
    body = bodies[0] if bodies else None
    return Handler(
        function,
        inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)),  # noqa: B004
        None if body is None else body.type,
        "" if body is None else body.name,
        body is not None and body.required,
        context_name,
        tuple(in_path[each] for each in places),
        tuple(query),
        types.get("return", Any),
    )


def _types(function: Function, name: str) -> dict[str, Any]:
    try:
        types = get_type_hints(_annotated(function), include_extras=True)
    except NameError as error:
        raise TypeError(f"{name}: {error}: its annotations must be importable where it is defined") from error
    return {key: None if value is NoneType else value for key, value in types.items()}


def _annotated(function: Function) -> Any:
    """Where the annotations are: of an object that can be called, at the class."""
    return function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004


def _is_plain(wanted: Any) -> bool:
    origin = get_origin(wanted)
    if origin is Annotated:
        return _is_plain(get_args(wanted)[0])
    if origin in (Union, UnionType):
        return all(each is NoneType or _is_plain(each) for each in get_args(wanted))
    if origin is Literal:
        return True
    return isinstance(wanted, type) and issubclass(wanted, _PLAIN)


def _missing(name: str) -> Problem:
    errors = [{"loc": [name], "msg": "Field required", "type": "missing"}]
    return Problem(INVALID, f"{name}: Field required", status=UNPROCESSABLE, fields={"errors": errors})
