"""Any contract: it fits itself, what only adds breaks nobody, what was added is missed; whatever fits does take what was written."""

from contextlib import suppress
from copy import deepcopy
from typing import Any

import jsonschema
from hypothesis import assume, given
from hypothesis import strategies as st

from meshq.core.compatibility import BadDocument, Finding, compare

names = st.sampled_from("abcd")
strings = st.fixed_dictionaries({"type": st.just("string")}, optional={"maxLength": st.integers(0, 3)})
numbers = st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number"])},
    optional={"minimum": st.integers(0, 3), "exclusiveMaximum": st.integers(4, 7)},
)
enums = st.fixed_dictionaries({"enum": st.lists(st.sampled_from(["x", "y", 1, None]), min_size=1, unique=True)})
references = st.builds(lambda name: {"$ref": f"#/components/schemas/{name}"}, st.sampled_from("PQ"))
leaves = strings | numbers | enums | references | st.just({"type": "null"}) | st.just({}) | st.just({"type": "boolean"})


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda properties, required, further: {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name in required],
            **further,
        },
        st.dictionaries(names, inner, max_size=3),
        st.sets(names),
        st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": True}]),
    )


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.builds(lambda items: {"type": "array", "items": items}, inner)
    unions = st.builds(
        lambda word, parts: {word: parts}, st.sampled_from(["anyOf"]), st.lists(inner, min_size=1, max_size=3)
    )
    return objects(inner) | lists | unions


schemas = st.recursive(leaves, combined, max_leaves=8)
models = objects(schemas)
components = st.fixed_dictionaries({"P": models, "Q": models})


def document(schema: Any, named: dict[str, Any], *, request: bool) -> dict[str, Any]:
    content = {"content": {"application/json": {"schema": schema}}}
    operation = {"requestBody": content} if request else {"responses": {"200": content}}
    return {"openapi": "3.1.0", "info": {}, "paths": {"/x": {"post": operation}}, "components": {"schemas": named}}


def found(old: Any, new: Any, named: dict[str, Any], *, request: bool) -> list[Finding]:
    return compare(document(old, named, request=request), document(new, deepcopy(named), request=request))


def breaks(findings: list[Finding]) -> bool:
    return any(each.breaking for each in findings)


@given(schemas, components, st.booleans())
def test_a_document_fits_itself(schema: Any, named: dict[str, Any], request: bool) -> None:
    assert found(schema, deepcopy(schema), named, request=request) == []


@given(models, schemas, components)
def test_an_optional_field_more_in_a_request_breaks_nobody(model: Any, field: Any, named: dict[str, Any]) -> None:
    wider = deepcopy(model)
    wider["properties"]["new"] = field
    assert not breaks(found(model, wider, named, request=True))


@given(models, schemas, components)
def test_a_required_field_more_in_a_request_breaks_and_taking_it_out_does_not(
    model: Any, field: Any, named: dict[str, Any]
) -> None:
    assume(model.get("additionalProperties") is not False)
    stricter = deepcopy(model)
    stricter["properties"]["new"] = field
    stricter["required"].append("new")
    assert breaks(found(model, stricter, named, request=True))
    assert not breaks(found(stricter, model, named, request=True))


@given(models, schemas, components, st.booleans())
def test_a_field_more_in_a_response_breaks_nobody_and_is_missed_when_it_goes(
    model: Any, field: Any, named: dict[str, Any], required: bool
) -> None:
    assume(model.get("additionalProperties") is not False)
    wider = deepcopy(model)
    wider["properties"]["new"] = field
    wider["required"] += ["new"] if required else []
    assert not breaks(found(model, wider, named, request=False))
    assert breaks(found(wider, model, named, request=False))


@given(st.lists(schemas, min_size=1, max_size=3), schemas, components)
def test_a_request_may_take_more_and_a_response_give_less(parts: list[Any], more: Any, named: dict[str, Any]) -> None:
    few, many = {"anyOf": parts}, {"anyOf": [*parts, more]}
    assert not breaks(found(few, many, named, request=True))
    assert not breaks(found(deepcopy(many), deepcopy(few), named, request=False))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.sampled_from(["x", "y", "", "long enough"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


def as_written(node: Any) -> Any:
    """What a caller writes who knows the document: no fields that it does not name."""
    if isinstance(node, list):
        return [as_written(each) for each in node]
    if not isinstance(node, dict):
        return node
    inner = {key: as_written(each) for key, each in node.items()}
    return {**inner, "additionalProperties": False} if node.get("type") == "object" else inner


@given(schemas, schemas, components, st.lists(values, min_size=20, max_size=20))
def test_whatever_fits_the_old_request_fits_the_new_one_unless_it_is_said_to_break(
    old: Any, new: Any, named: dict[str, Any], tried: list[Any]
) -> None:
    """Held to a validator that this project did not write."""
    if breaks(found(old, new, named, request=True)):
        return
    before, after = (
        jsonschema.Draft202012Validator({**each, "components": {"schemas": those}})
        for each, those in ((as_written(old), as_written(named)), (new, named))
    )
    for value in tried:
        assert not before.is_valid(value) or after.is_valid(value), value


anything = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({}) | st.just([{}])


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in [(node, key), *places(node[key])]]


@given(models, components, anything, st.booleans(), st.data())
def test_nonsense_anywhere_is_refused_or_compared(
    model: Any, named: dict[str, Any], nonsense: Any, request: bool, data: st.DataObject
) -> None:
    good = document(model, named, request=request)
    good["paths"]["/x"]["post"]["parameters"] = [{"in": "query", "name": "q", "schema": {"type": "string"}}]
    wrong = deepcopy(good)
    container, key = data.draw(st.sampled_from(places(wrong)))
    container[key] = nonsense
    for old, new in ((good, wrong), (wrong, good), (wrong, wrong)):
        with suppress(BadDocument):
            compare(old, new)
