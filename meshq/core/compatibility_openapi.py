"""Two OpenAPI documents, operation by operation. What is said of security and of fields of responses is not looked at."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from meshq.core.compatibility_reading import Reading, listed
from meshq.core.compatibility_schemas import differences
from meshq.core.compatibility_variants import Finding, Way

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_PLACE = re.compile(r"\{[^{}]*\}")

Node = Mapping[str, Any]
_NONE: Node = {}


class _Operation(NamedTuple):
    label: str
    """`POST /create`"""
    path: str
    node: Node
    shared: Node
    """The path's, whose parameters are this one's too."""


def compare(old: Reading, new: Reading) -> list[Finding]:
    """Raises BadDocument."""
    before, after = _operations(old), _operations(new)
    found: list[Finding] = []
    for key, operation in before.items():
        if key in after:
            found += _Pair(old, operation, new, after[key]).told()
        else:
            found.append(Finding(operation.label, "is gone", True))
    found += [Finding(after[key].label, "is new", False) for key in after if key not in before]
    return list(dict.fromkeys(found))


def _operations(of: Reading) -> dict[tuple[str, str], _Operation]:
    """By method and path; what a place in the path is called is nobody's concern."""
    found = {}
    for path, item in _map(of, of.document, "paths").items():
        shared = of.followed(item, path)
        for method in _METHODS:
            if method in shared:
                label = f"{method.upper()} {path}"
                node = of.followed(shared[method], label)
                found[(method, _PLACE.sub("{}", path))] = _Operation(label, path, node, shared)
    return found


class _Pair:
    def __init__(self, old: Reading, before: _Operation, new: Reading, after: _Operation) -> None:
        self._old, self._before = old, before
        self._new, self._after = new, after
        self._label = before.label

    def told(self) -> Iterator[Finding]:
        if self._after.node.get("deprecated") is True and self._before.node.get("deprecated") is not True:
            yield Finding(self._label, "is deprecated now", False)
        yield from self._parameters()
        yield from self._body()
        yield from self._responses()

    def _schemas(self, place: str, way: Way, before: Node, after: Node) -> list[Finding]:
        return differences(place, way, self._old, before.get("schema", True), self._new, after.get("schema", True))

    # --- requests -------------------------------------------------------------------------------------------------------------

    def _parameters(self) -> Iterator[Finding]:
        before, after = _parameters(self._old, self._before), _parameters(self._new, self._after)
        for key, was in before.items():
            place = f"{self._label} {was['in']} {was['name']}"
            now = after.get(key)
            if now is None:
                yield Finding(place, "is no longer known, and passed over", False)
                continue
            required, required_now = was.get("required") is True, now.get("required") is True
            if required != required_now:
                yield Finding(place, "is required now" if required_now else "may be absent now", required_now)
            yield from self._schemas(place, Way.REQUEST, _with_schema(self._old, was), _with_schema(self._new, now))
        for key, now in after.items():
            if key not in before:
                required = now.get("required") is True
                sentence = "is a new parameter, and required" if required else "is a new parameter"
                yield Finding(f"{self._label} {now['in']} {now['name']}", sentence, required)

    def _body(self) -> Iterator[Finding]:
        place = f"{self._label} request"
        before, after = (
            _map(self._old, self._before.node, "requestBody"),
            _map(self._new, self._after.node, "requestBody"),
        )
        required, required_now = before.get("required") is True, after.get("required") is True
        if required_now and not required:
            yield Finding(place, "is required now" if before else "is a body now, and required", True)
        elif before and not after:
            yield Finding(place, "is passed over now: it takes no body any more", False)
        elif after and not before:
            yield Finding(place, "may be a body now", False)
        elif required and not required_now:
            yield Finding(place, "may be absent now", False)
        if before and after:
            yield from self._contents(place, Way.REQUEST, before, after)

    # --- responses ------------------------------------------------------------------------------------------------------------

    def _responses(self) -> Iterator[Finding]:
        before, after = _responses(self._old, self._before), _responses(self._new, self._after)
        for status, was in before.items():
            place = self._response(status)
            now = _of_status(after, status)
            if now is None:
                yield Finding(place, "is gone", _is_success(status))
            else:
                yield from self._contents(place, Way.RESPONSE, was, now)
        for status, now in after.items():
            if status not in before:
                yield self._new_status(status, now, before)

    def _response(self, status: str) -> str:
        return f"{self._label} response" if status == "200" else f"{self._label} response {status}"

    def _new_status(self, status: str, now: Node, before: Mapping[str, Node]) -> Finding:
        place = self._response(status)
        always = any(was.get("content") for known, was in before.items() if _is_success(known))
        if always and _is_success(status) and _of_status(before, status) is None and not now.get("content"):
            return Finding(place, "is new, and has no body, where one always came", True)
        return Finding(place, "is new", False)

    # --- bodies ---------------------------------------------------------------------------------------------------------------

    def _contents(self, place: str, way: Way, before: Node, after: Node) -> Iterator[Finding]:
        old, new = _map(self._old, before, "content"), _map(self._new, after, "content")
        for media, was in old.items():
            now = _of_media(new, media)
            if now is not None:
                yield from self._schemas(place, way, self._old.followed(was, media), self._new.followed(now, media))
            elif way is Way.REQUEST:
                yield Finding(place, f"is no longer taken as {media}", True)
            else:
                yield Finding(place, f"no longer comes as {media}", True)
        for media in new:
            if _of_media(old, media) is None:
                yield Finding(
                    place, f"is taken as {media} too" if way is Way.REQUEST else f"may come as {media} too", False
                )


def _parameters(of: Reading, operation: _Operation) -> dict[tuple[str, str], Node]:
    """By place and name; one in the path by its number there, and names of fields in lower case."""
    places = [each[1:-1] for each in _PLACE.findall(operation.path)]
    found: dict[tuple[str, str], Node] = {}
    for node in (*listed(operation.shared, "parameters"), *listed(operation.node, "parameters")):
        parameter = {"in": "", "name": "", **of.followed(node, f"a parameter of {operation.label}")}
        name = str(parameter["name"])
        if parameter["in"] == "path" and name in places:
            name = str(places.index(name))
        elif parameter["in"] == "header":
            name = name.lower()
        found[(str(parameter["in"]), name)] = parameter
    return found


def _with_schema(of: Reading, parameter: Node) -> Node:
    """Its own, or that of its one content."""
    for media, node in _map(of, parameter, "content").items():
        return of.followed(node, media)
    return parameter


def _responses(of: Reading, operation: _Operation) -> dict[str, Node]:
    responses = _map(of, operation.node, "responses")
    return {str(status): of.followed(node, f"{operation.label} {status}") for status, node in responses.items()}


def _of_status(responses: Mapping[str, Node], status: str) -> Node | None:
    """That of the status, or of its class; of an error also the default."""
    names = [status, f"{status[:1]}XX"] + ([] if _is_success(status) else ["default"])
    return next((responses[name] for name in names if name in responses), None)


def _is_success(status: str) -> bool:
    return status[:1] in ("1", "2", "3")


def _of_media(content: Node, media: str) -> Any:
    return next((content[each] for each in _wider(media) if each in content), None)


def _wider(media: str) -> Iterable[str]:
    plain = media.partition(";")[0]
    return media, plain, f"{plain.partition('/')[0]}/*", "*/*"


def _map(of: Reading, node: Node, key: str) -> Node:
    return of.followed(node[key], key) if key in node else _NONE
