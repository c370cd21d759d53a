"""OpenAPI 3.1 of a service's routes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter

from meshq.core.names import parse_version
from meshq.sdk.bodies import JSON, MSGPACK
from meshq.sdk.contracts_parts import (
    PROBLEM,
    PROBLEM_JSON,
    PROBLEM_NAME,
    Document,
    Schemas,
    content_type,
    operation_ids,
    ref,
    without_none,
    words,
)
from meshq.sdk.dispatch import Route
from meshq.sdk.handlers import Parameter
from meshq.sdk.reply import Reply

if TYPE_CHECKING:
    from meshq.sdk.service import Service

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
"""OpenAPI 3.1 has no place for others: their routes are left out."""


class _Answer(NamedTuple):
    """What an annotation says of the response."""

    type: Any
    nothing: bool
    """It may be a 204."""

    @classmethod
    def of(cls, returns: Any) -> "_Answer":
        return cls(None, True) if returns is None else cls(*without_none(returns))

    @property
    def unsaid(self) -> bool:
        """Neither status nor type are known."""
        return self.type is Any or self.type is Reply


def openapi(service: "Service") -> Document:
    """Raises TypeError for a type that has no schema."""
    routes = [route for route in service.routes if route.method.lower() in METHODS]
    ids = operation_ids(routes)
    schemas = Schemas()
    for ident, route in zip(ids, routes, strict=True):
        _want(schemas, ident, route)
    schemas.make()
    paths: Document = {}
    for ident, route in zip(ids, routes, strict=True):
        # Of two that are one to OpenAPI, /{name} and /{name:path}, the first is asked first.
        paths.setdefault(_path(route), {}).setdefault(route.method.lower(), _operation(schemas, ident, route))
    topic = f"{service.name}@{parse_version(service.version).major}"
    return {
        "openapi": "3.1.0",
        "info": {"title": service.name, "version": service.version},
        "servers": [
            {"url": f"http://localhost:3600/v1/call/{topic}", "description": "Through the sidecar of the calling app."}
        ],
        "paths": paths,
        "components": {
            "schemas": {**schemas.named, PROBLEM_NAME: PROBLEM},
            "responses": {
                "meshq.Invalid": _problem("The body or a parameter is not what is wanted."),
                "meshq.Problem": _problem("It failed, or was refused."),
            },
        },
    }


def _want(schemas: Schemas, ident: str, route: Route) -> None:
    handler, whose = route.handler, f"{route.method} {route.path.text}"
    for place, parameter in _parameters(route):
        wanted, _ = without_none(parameter.type)
        schemas.want(f"{ident} {place} {parameter.name}", "validation", wanted, whose)
    if handler.body_name:
        schemas.want(f"{ident} body", "validation", handler.body, whose)
    answer = _Answer.of(handler.returns)
    if answer.type is not None and not answer.unsaid:
        schemas.want(f"{ident} answer", "serialization", answer.type, whose)


def _operation(schemas: Schemas, ident: str, route: Route) -> Document:
    handler = route.handler
    found: Document = {"operationId": ident, **words(handler)}
    parameters = [
        _parameter(place, each, schemas[f"{ident} {place} {each.name}"]) for place, each in _parameters(route)
    ]
    if parameters:
        found["parameters"] = parameters
    if handler.body_name:
        content = _taken(handler.body, schemas[f"{ident} body"])
        found["requestBody"] = {"required": handler.body_required, "content": content}
    found["responses"] = {
        **_answers(schemas, ident, _Answer.of(handler.returns)),
        "422": ref("components", "responses", "meshq.Invalid"),
        "default": ref("components", "responses", "meshq.Problem"),
    }
    return found


def _parameters(route: Route) -> Iterator[tuple[str, Parameter]]:
    for each in route.handler.path:
        yield "path", each
    for each in route.handler.query:
        yield "query", each


def _parameter(place: str, parameter: Parameter, schema: Document) -> Document:
    if not parameter.required and parameter.default is not None:
        default = TypeAdapter(parameter.type).dump_python(parameter.default, mode="json")
        schema = {**schema, "default": default}
    return {"name": parameter.name, "in": place, "required": parameter.required, "schema": schema}


def _path(route: Route) -> str:
    return route.path.text.replace(":path}", "}")


def _taken(wanted: Any, schema: Document) -> Document:
    if wanted is bytes:
        return {"*/*": {}}
    content: Document = {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}
    if wanted is Any:
        content["*/*"] = {}
    return content


def _answers(schemas: Schemas, ident: str, answer: _Answer) -> Document:
    if answer.unsaid:
        return {"2XX": {"description": "The handler does not say of which type.", "content": {"*/*": {}}}}
    found: Document = {}
    if answer.type is not None:
        found["200"] = {"description": "Done.", "content": _given(answer.type, schemas[f"{ident} answer"])}
    if answer.nothing:
        found["204"] = {"description": "Done; there is nothing to say."}
    return found


def _given(returned: Any, schema: Document) -> Document:
    if returned is bytes:
        return {content_type(bytes): {}}
    kinds = (content_type(str),) if returned is str else (JSON, MSGPACK)
    return {kind: {"schema": schema} for kind in kinds}


def _problem(description: str) -> Document:
    schema = ref("components", "schemas", PROBLEM_NAME)
    return {"description": description, "content": {PROBLEM_JSON: {"schema": schema}}}
