"""Whether a new version breaks callers of the old one: each kind of difference, in requests, responses, events."""

from copy import deepcopy
from typing import Any

import pytest

from meshq.core.compatibility import BadDocument, Finding, compare, is_new_major

Schema = Any
STRING, INTEGER, NUMBER, NULL = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "null"}


def model(*required: str, further: Any = None, **properties: Schema) -> Schema:
    found: dict[str, Any] = {"type": "object", "properties": properties, "required": list(required)}
    return found if further is None else {**found, "additionalProperties": further}


def listing(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def union(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def content(schema: Schema, media: str = "application/json") -> dict[str, Any]:
    return {"content": {media: {"schema": schema}}}


def document(operations: dict[str, Any], version: str = "1.0.0", **schemas: Schema) -> dict[str, Any]:
    """`{"post /create": {...}}`"""
    paths: dict[str, Any] = {}
    for name, operation in operations.items():
        method, path = name.split()
        paths.setdefault(path, {})[method] = operation
    info = {"title": "orders", "version": version}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def request(schema: Schema, **schemas: Schema) -> dict[str, Any]:
    body = {"required": True, **content(schema)}
    return document({"post /create": {"requestBody": body, "responses": {"204": {"description": ""}}}}, **schemas)


def response(schema: Schema, **schemas: Schema) -> dict[str, Any]:
    return document({"get /one": {"responses": {"200": {"description": "", **content(schema)}}}}, **schemas)


def told(findings: list[Finding]) -> list[str]:
    return [f"{'! ' if each.breaking else ''}{each.place}: {each.sentence}" for each in findings]


# --- schemas ------------------------------------------------------------------------------------------------------------------

# old, new, in a request, in a response; ! breaks. Places are without the operation.
CASES: dict[str, tuple[Schema, Schema, list[str], list[str]]] = {
    "nothing": (model("a", a=STRING), model("a", a=STRING), [], []),
    "words only": (
        model("a", a={**STRING, "title": "A", "description": "one", "default": "x", "examples": ["x"]}),
        model("a", a={**STRING, "title": "B", "description": "two"}),
        [], [],
    ),
    "a new optional field": (model(), model(a=STRING), [".a: is a new field"], [".a: is a new field"]),
    "a new required field": (
        model(), model("a", a=STRING), ["! .a: is a new field, and required"], [".a: is a new field"],
    ),
    "a field made required": (
        model(a=STRING), model("a", a=STRING), ["! .a: is required now"], [".a: is always there now"],
    ),
    "a field made optional": (
        model("a", a=STRING), model(a=STRING), [".a: may be absent now"], ["! .a: may be absent now"],
    ),
    "a field removed": (
        model("a", a=STRING), model(), [".a: is no longer known, and passed over"], ["! .a: is gone"],
    ),
    "an optional field removed": (
        model(a=STRING), model(), [".a: is no longer known, and passed over"], ["! .a: is gone"],
    ),
    "a field removed from a closed model": (
        model(a=STRING, further=False), model(further=False), ["! .a: is refused now"], ["! .a: is gone"],
    ),
    "a field added to a closed model": (
        model(further=False), model(a=STRING, further=False),
        [".a: is a new field"], ["! .a: is a new field, where none was to come besides those named"],
    ),
    "a model closed": (
        model(a=STRING), model(a=STRING, further=False), ["! : refuses fields that it does not name now"], [],
    ),
    "a model opened": (
        model(a=STRING, further=False), model(a=STRING, further=True),
        [": takes fields that it does not name now"], ["! : may have fields that are not named now"],
    ),
    "values of a map": (
        {"type": "object", "additionalProperties": STRING}, {"type": "object", "additionalProperties": INTEGER},
        ["! .*: takes integer now, no longer string"], ["! .*: may be integer now, which was string"],
    ),
    "a map made a model": (
        {"type": "object", "additionalProperties": STRING}, model(a=INTEGER),
        [".a: is a new field", "! .a: takes integer now, no longer string"],
        ["! .a: may be integer now, which was string"],
    ),
    "a type changed": (
        model("a", a=STRING), model("a", a=INTEGER),
        ["! .a: takes integer now, no longer string"], ["! .a: may be integer now, which was string"],
    ),
    "integer to number": (
        INTEGER, NUMBER, [": takes number now"], ["! : may be number now, which was integer"],
    ),
    "number to integer": (
        NUMBER, INTEGER, ["! : takes integer now, no longer number"], [": is integer now, was number"],
    ),
    "anything to something": (
        {}, STRING, ["! : takes string now, no longer anything"], [": is string now, was anything"],
    ),
    "something to anything": (
        STRING, {}, [": takes anything now"], ["! : may be anything now, which was string"],
    ),
    "made nullable": (
        STRING, union(STRING, NULL), [": takes null too"], ["! : may be null now, which was string"],
    ),
    "made nullable by a list of types": (
        STRING, {"type": ["string", "null"]}, [": takes null too"], ["! : may be null now, which was string"],
    ),
    "made nullable as OpenAPI 3.0 has it": (
        STRING, {"type": "string", "nullable": True}, [": takes null too"], ["! : may be null now, which was string"],
    ),
    "no longer nullable": (
        {"type": ["string", "null"]}, STRING, ["! : takes string now, no longer null"], [": is no longer null"],
    ),
    "nullable in two ways of writing": (union(STRING, NULL), {"type": ["null", "string"]}, [], []),
    "a value added": (
        {"enum": ["a"]}, {"enum": ["a", "b"]}, [': takes "b" too'], [': may be "b" now'],
    ),
    "a value removed": (
        {"enum": ["a", "b"]}, {"enum": ["a"]}, ['! : no longer takes "b"'], [': is no longer "b"'],
    ),
    "a constant and an enum of one": ({"const": "a"}, {"type": "string", "enum": ["a"]}, [], []),
    "values pinned down": (
        STRING, {"type": "string", "enum": ["a"]}, ['! : takes only "a" now'], [': is one of "a" now'],
    ),
    "values set free": (
        {"type": "string", "enum": ["a"]}, STRING, [": takes any value now"], ["! : may be any value now"],
    ),
    "a minimum raised": (
        {**INTEGER, "minimum": 1}, {**INTEGER, "minimum": 5},
        ["! : minimum is 5 now, was 1"], [": minimum is 5 now, was 1"],
    ),
    "a maximum raised": (
        {**INTEGER, "maximum": 1}, {**INTEGER, "maximum": 5},
        [": maximum is 5 now, was 1"], ["! : maximum is 5 now, was 1"],
    ),
    "above 0 is from 1 for an integer": (
        {**INTEGER, "exclusiveMinimum": 0}, {**INTEGER, "minimum": 1}, [], [],
    ),
    "above 0 is more than from 0 for a number": (
        {**NUMBER, "minimum": 0}, {**NUMBER, "exclusiveMinimum": 0},
        ["! : minimum is above 0 now, was 0"], [": minimum is above 0 now, was 0"],
    ),
    "a flag of OpenAPI 3.0 for the same": (
        {**NUMBER, "minimum": 0, "exclusiveMinimum": True}, {**NUMBER, "exclusiveMinimum": 0}, [], [],
    ),
    "a length limited": (
        STRING, {**STRING, "maxLength": 5}, ["! : has a maxLength now: 5"], [": has a maxLength now: 5"],
    ),
    "a length of 0 is no limit": (STRING, {**STRING, "minLength": 0}, [], []),
    "a pattern changed": (
        {**STRING, "pattern": "a"}, {**STRING, "pattern": "b"},
        ['! : pattern is "b" now, was "a"'], ['! : pattern is "b" now, was "a"'],
    ),
    "a format dropped": (
        {**STRING, "format": "date"}, STRING,
        [': has no format any more, was "date"'], ['! : has no format any more, was "date"'],
    ),
    "items of items": (
        listing(listing(model("a", a=STRING))), listing(listing(model("a", a=INTEGER))),
        ["! [][].a: takes integer now, no longer string"], ["! [][].a: may be integer now, which was string"],
    ),
    "a place of a tuple": (
        {"type": "array", "prefixItems": [STRING, INTEGER]}, {"type": "array", "prefixItems": [STRING, STRING]},
        ["! [1]: takes string now, no longer integer"], ["! [1]: may be string now, which was integer"],
    ),
    "one value made a list": (
        STRING, listing(STRING), ["! : takes array now, no longer string"], ["! : may be array now, which was string"],
    ),
    "parts put together": (
        {"allOf": [model("a", a=STRING), model("b", b=STRING)]}, model("a", "b", a=STRING, b=STRING), [], [],
    ),
    "parts put together, one more strict": (
        {"allOf": [model(a={**STRING, "maxLength": 5}), model(a={**STRING, "maxLength": 9})]},
        model(a={**STRING, "maxLength": 6}),
        [".a: maxLength is 6 now, was 5"], ["! .a: maxLength is 6 now, was 5"],
    ),
    "nothing fits any more": (
        STRING, False, ["! : takes nothing now, no longer string"], [": is no longer string"],
    ),
}  # fmt: skip


def within(operation: str, finding: str) -> str:
    mark, _, rest = finding.rpartition("! ")
    return f"{'! ' if finding.startswith('! ') else ''}{operation}{rest if not mark else finding}"


@pytest.mark.parametrize("case", CASES)
def test_a_request(case: str) -> None:
    old, new, expected, _ = CASES[case]
    assert told(compare(request(old), request(new))) == [within("POST /create request", each) for each in expected]


@pytest.mark.parametrize("case", CASES)
def test_a_response(case: str) -> None:
    old, new, _, expected = CASES[case]
    assert told(compare(response(old), response(new))) == [within("GET /one response", each) for each in expected]


# --- unions -------------------------------------------------------------------------------------------------------------------

CAT = model("kind", "lives", kind={"const": "cat"}, lives=INTEGER)
DOG = model("kind", "tricks", kind={"const": "dog"}, tricks=listing(STRING))
BIRD = model("kind", kind={"const": "bird"})


@pytest.mark.parametrize("word", ["anyOf", "oneOf"])
def test_a_further_model_of_a_union(word: str) -> None:
    two, three = {word: [CAT, DOG]}, {word: [BIRD, DOG, CAT]}
    assert told(compare(request(two), request(three))) == ["POST /create request: takes object too"]
    assert told(compare(request(three), request(two))) == ["! POST /create request: takes object now, no longer object"]
    assert told(compare(response(two), response(three))) == ["! GET /one response: may be object now, which was object"]
    assert told(compare(response(three), response(two))) == ["GET /one response: is no longer object"]


def test_one_model_becomes_a_union() -> None:
    assert told(compare(response(CAT), response(union(CAT, BIRD)))) == [
        "! GET /one response: may be object now, which was object"
    ]


def test_a_difference_inside_a_model_of_a_union_is_told_of_that_one() -> None:
    changed = deepcopy(DOG)
    changed["properties"]["tricks"]["items"] = INTEGER
    assert told(compare(request(union(CAT, DOG)), request(union(CAT, changed)))) == [
        "! POST /create request.tricks[]: takes integer now, no longer string"
    ]


def test_models_without_a_tag_are_matched_by_what_fits() -> None:
    short, long = model("a", a=STRING), model("a", "b", a=STRING, b=STRING)
    assert compare(request(union(long, short)), request(union(short, long))) == []
    assert told(compare(request(union(short, long)), request(union(long)))) == [
        "! POST /create request.b: is a new field, and required"
    ]


# --- references ---------------------------------------------------------------------------------------------------------------


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def tree(value: Schema) -> Schema:
    return model("value", value=value, left=union(ref("Tree"), NULL), children=listing(ref("Tree")))


def test_a_model_has_another_name() -> None:
    assert compare(request(ref("A"), A=model("a", a=STRING)), request(ref("B"), B=model("a", a=STRING))) == []


def test_a_model_that_contains_itself() -> None:
    old, new = request(ref("Tree"), Tree=tree(STRING)), request(ref("Tree"), Tree=tree(INTEGER))
    assert compare(old, deepcopy(old)) == []
    findings = told(compare(old, new))
    assert findings[0] == "! POST /create request.value: takes integer now, no longer string"
    assert len(findings) < 10


def test_a_model_that_contains_itself_only_deeper_down() -> None:
    """The same promise, unrolled once: what is assumed of the inner ones has to be looked at again."""
    once = request(ref("Tree"), Tree=tree(STRING))
    twice = request(ref("Outer"), Tree=tree(STRING), Outer=tree(STRING))
    assert compare(once, twice) == []
    broken = request(ref("Outer"), Tree=tree(INTEGER), Outer=tree(STRING))
    assert any(each.breaking for each in compare(once, broken))


def test_a_union_of_models_that_contain_themselves_is_not_taken_on_trust() -> None:
    def nodes(leaf: Schema) -> dict[str, Schema]:
        return {
            "A": model("next", next=union(ref("A"), ref("B"))),
            "B": model("next", "leaf", next=union(ref("A"), ref("B")), leaf=leaf),
        }

    old, new = request(ref("B"), **nodes(STRING)), request(ref("B"), **nodes(INTEGER))
    assert compare(old, deepcopy(old)) == []
    assert "! POST /create request.leaf: takes integer now, no longer string" in told(compare(old, new))


def test_a_schema_that_is_only_itself_allows_nothing() -> None:
    assert told(compare(request(STRING), request(ref("A"), A=ref("A")))) == [
        "! POST /create request: takes nothing now, no longer string"
    ]


# --- operations ---------------------------------------------------------------------------------------------------------------

EMPTY: dict[str, Any] = {"responses": {"204": {"description": ""}}}


def query(required: bool, schema: Schema = INTEGER) -> dict[str, Any]:
    return {**EMPTY, "parameters": [{"in": "query", "name": "limit", "required": required, "schema": schema}]}


def in_path(name: str, schema: Schema = INTEGER) -> dict[str, Any]:
    return {**EMPTY, "parameters": [{"in": "path", "name": name, "required": True, "schema": schema}]}


def answers(**statuses: Schema | None) -> dict[str, Any]:
    return {
        "responses": {
            status[1:]: {"description": "", **({} if schema is None else content(schema))}
            for status, schema in statuses.items()
        }
    }


OPERATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "gone": ({"get /a": EMPTY, "get /b": EMPTY}, {"get /a": EMPTY}, ["! GET /b: is gone"]),
    "new": ({"get /a": EMPTY}, {"get /a": EMPTY, "post /a": EMPTY}, ["POST /a: is new"]),
    "another method": ({"get /a": EMPTY}, {"post /a": EMPTY}, ["! GET /a: is gone", "POST /a: is new"]),
    "deprecated": ({"get /a": EMPTY}, {"get /a": {**EMPTY, "deprecated": True}}, ["GET /a: is deprecated now"]),
    "a place has another name": ({"get /a/{x}": in_path("x")}, {"get /a/{y}": in_path("y")}, []),
    "a place has another type": (
        {"get /a/{x}": in_path("x")}, {"get /a/{y}": in_path("y", {"type": "boolean"})},
        ["! GET /a/{x} path x: takes boolean now, no longer integer"],
    ),
    "a required parameter": (
        {"get /a": EMPTY}, {"get /a": query(True)}, ["! GET /a query limit: is a new parameter, and required"],
    ),
    "an optional parameter": ({"get /a": EMPTY}, {"get /a": query(False)}, ["GET /a query limit: is a new parameter"]),
    "a parameter made required": (
        {"get /a": query(False)}, {"get /a": query(True)}, ["! GET /a query limit: is required now"],
    ),
    "a parameter made optional": (
        {"get /a": query(True)}, {"get /a": query(False)}, ["GET /a query limit: may be absent now"],
    ),
    "a parameter gone": (
        {"get /a": query(True)}, {"get /a": EMPTY}, ["GET /a query limit: is no longer known, and passed over"],
    ),
    "a parameter narrowed": (
        {"get /a": query(False)}, {"get /a": query(False, {**INTEGER, "maximum": 9})},
        ["! GET /a query limit: has a maximum now: 9"],
    ),
    "a body": (
        {"post /a": EMPTY}, {"post /a": {**EMPTY, "requestBody": {"required": True, **content(STRING)}}},
        ["! POST /a request: is a body now, and required"],
    ),
    "a body that may come": (
        {"post /a": EMPTY}, {"post /a": {**EMPTY, "requestBody": content(STRING)}}, ["POST /a request: may be a body now"],
    ),
    "a body gone": (
        {"post /a": {**EMPTY, "requestBody": content(STRING)}}, {"post /a": EMPTY},
        ["POST /a request: is passed over now: it takes no body any more"],
    ),
    "a body made required": (
        {"post /a": {**EMPTY, "requestBody": content(STRING)}},
        {"post /a": {**EMPTY, "requestBody": {"required": True, **content(STRING)}}},
        ["! POST /a request: is required now"],
    ),
    "a media type gone": (
        {"post /a": {**EMPTY, "requestBody": content(STRING, "text/csv")}},
        {"post /a": {**EMPTY, "requestBody": content(STRING)}},
        [
            "! POST /a request: is no longer taken as text/csv",
            "POST /a request: is taken as application/json too",
        ],
    ),
    "a media type taken as any": (
        {"post /a": {**EMPTY, "requestBody": content(STRING, "text/csv")}},
        {"post /a": {**EMPTY, "requestBody": content(STRING, "*/*")}},
        ["POST /a request: is taken as */* too"],
    ),
    "an answer without a body": (
        {"get /a": answers(_200=STRING)}, {"get /a": answers(_200=STRING, _204=None)},
        ["! GET /a response 204: is new, and has no body, where one always came"],
    ),
    "an answer gone": (
        {"get /a": answers(_200=STRING, _204=None)}, {"get /a": answers(_200=STRING)},
        ["! GET /a response 204: is gone"],
    ),
    "an answer of the class": (
        {"get /a": answers(_200=STRING)}, {"get /a": answers(_2XX=STRING)}, ["GET /a response 2XX: is new"],
    ),
    "an error gone": ({"get /a": answers(_204=None, _409=STRING)}, {"get /a": EMPTY}, ["GET /a response 409: is gone"]),
    "an error new": ({"get /a": EMPTY}, {"get /a": answers(_204=None, _409=STRING)}, ["GET /a response 409: is new"]),
}  # fmt: skip


@pytest.mark.parametrize("case", OPERATIONS)
def test_operations(case: str) -> None:
    old, new, expected = OPERATIONS[case]
    assert told(compare(document(old), document(new))) == expected


def test_parameters_of_the_path_and_references_to_them() -> None:
    old = document({"get /a": EMPTY})
    new = document({"get /a": {**EMPTY, "parameters": [{"$ref": "#/components/parameters/limit"}]}})
    new["paths"]["/a"]["parameters"] = [{"in": "header", "name": "X-User", "required": True, "schema": STRING}]
    new["components"]["parameters"] = {"limit": {"in": "query", "name": "limit", "schema": INTEGER}}
    assert told(compare(old, new)) == [
        "! GET /a header X-User: is a new parameter, and required",
        "GET /a query limit: is a new parameter",
    ]


# --- events -------------------------------------------------------------------------------------------------------------------


def events(
    version: str = "1.0.0", reply: Schema | None = None, action: str = "receive", **payloads: Any
) -> dict[str, Any]:
    """Channels by name with `_` for `.`, each with one message."""
    channels, operations = {}, {}
    for name, payload in payloads.items():
        address = name.replace("_", ".")
        channels[name] = {"address": address, "messages": {"m": {"title": address, "payload": payload}}}
        operations[name] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/m"}],
        }
        if reply is not None:
            channels["answers"] = {"address": None, "messages": {"a": {"title": "answer", "payload": reply}}}
            operations[name]["reply"] = {
                "channel": {"$ref": "#/channels/answers"},
                "messages": [{"$ref": "#/channels/answers/messages/a"}],
            }
    info = {"title": "orders", "version": version}
    return {"asyncapi": "3.0.0", "info": info, "channels": channels, "operations": operations}


def test_a_subscription_gone_and_a_new_one() -> None:
    old, new = events(paid_v1=STRING), events(paid_v1=STRING, refunded_v1=STRING)
    assert told(compare(new, old)) == ["! refunded.v1: is gone"]
    assert told(compare(old, new)) == ["refunded.v1: is new"]


def test_what_is_received_is_a_request_and_what_is_sent_a_response() -> None:
    loose, strict = model(a=STRING), model("a", a=STRING)
    assert told(compare(events(paid_v1=loose), events(paid_v1=strict))) == ["! paid.v1 request.a: is required now"]
    assert told(compare(events(action="send", paid_v1=loose), events(action="send", paid_v1=strict))) == [
        "paid.v1 request.a: is always there now"
    ]


def test_a_reply_is_a_response() -> None:
    old, new = events(reply=model("a", a=STRING), create=STRING), events(reply=model(a=STRING), create=STRING)
    assert told(compare(old, new)) == ["! create response.a: may be absent now"]


def test_a_subscription_may_have_another_name() -> None:
    old, new = events(paid_v1=STRING), events(paid_v1=STRING)
    new["operations"]["other"] = new["operations"].pop("paid_v1")
    assert compare(old, new) == []


def test_two_subscriptions_of_one_event_are_told_apart() -> None:
    both = events(paid_v1=STRING)
    both["channels"]["paid_v1"]["messages"]["n"] = {"title": "paid.v1", "payload": INTEGER}
    channel = {"$ref": "#/channels/paid_v1"}
    message = {"$ref": "#/channels/paid_v1/messages/n"}
    both["operations"]["second"] = {"action": "receive", "channel": channel, "messages": [message]}
    turned = deepcopy(both)
    turned["operations"] = dict(reversed(turned["operations"].items()))
    assert compare(both, turned) == []


def test_the_own_major_version_is_no_difference() -> None:
    old, new = events(meshq_orders_v1_call=STRING), events("2.0.0", meshq_orders_v2_call=INTEGER)
    for each in (old, new):
        next(iter(each["channels"].values()))["messages"]["m"]["title"] = "POST /create"
    assert told(compare(old, new)) == ["! POST /create request: takes integer now, no longer string"]


def test_a_payload_with_its_format() -> None:
    described = {"schemaFormat": "application/schema+json;version=draft-07", "schema": INTEGER}
    assert compare(events(paid_v1=INTEGER), events(paid_v1=described)) == []


# --- what is no document ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "neither openapi nor asyncapi"),
        ({"swagger": "2.0"}, "neither openapi nor asyncapi"),
        ({"openapi": "2.0"}, "openapi 2.0 is not read here"),
        ({"asyncapi": "2.6.0"}, "asyncapi 2.6.0 is not read here"),
        (events(), "one document is of openapi and the other of asyncapi"),
        (request(ref("Missing")), "leads nowhere"),
        (request({"$ref": "other.json#/A"}), "leads out of the document"),
        (request("string"), "is not a schema"),
        (request({"properties": []}), "properties of a schema"),
        (request({"anyOf": {}}), "anyOf is not a list"),
        ({**request(STRING), "paths": []}, "paths is not a map"),
    ],
)
def test_what_is_no_document(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(BadDocument, match=said):
        compare(request(STRING), wrong)


def test_a_reference_in_a_circle() -> None:
    wrong = document({"get /a": {"$ref": "#/components/a"}})
    wrong["components"] = {"a": {"$ref": "#/components/b"}, "b": {"$ref": "#/components/a"}}
    with pytest.raises(BadDocument, match="leads to itself"):
        compare(wrong, wrong)


def test_what_is_nested_deep_is_compared() -> None:
    def nested(inner: Schema) -> Schema:
        for _ in range(300):
            inner = model(a=inner)
        return inner

    (finding,) = compare(request(nested(STRING)), request(nested(INTEGER)))
    assert finding == Finding(f"POST /create request{'.a' * 300}", "takes integer now, no longer string", breaking=True)


def test_a_union_that_is_nested_too_deep_is_refused() -> None:
    deep: Schema = STRING
    for _ in range(2000):
        deep = union(deep)
    with pytest.raises(BadDocument, match="nested too deep"):
        compare(request(STRING), request(deep))


def test_parts_in_a_circle_do_not_grow() -> None:
    """Each is made of two that contain both: put together again at each step, they would be new ones without end."""
    grown = {
        name: {"allOf": [model(x={"allOf": [ref(other), ref(name), {"title": name}]}), model(x=ref("P"))]}
        for name, other in (("P", "Q"), ("Q", "P"))
    }
    assert compare(request(ref("P"), **grown), request(ref("Q"), **grown)) == []


def test_many_models_that_all_refer_to_each_other() -> None:
    def models(count: int) -> dict[str, Schema]:
        return {
            f"M{i}": model(**{f"p{j}": union(ref(f"M{j}"), ref(f"M{(j * 7 + i) % count}"), NULL) for j in range(4)})
            for i in range(count)
        }

    named = models(20)
    assert compare(request(ref("M0"), **named), request(ref("M0"), **deepcopy(named))) == []
    changed = deepcopy(named)
    changed["M3"] = model("z", z=STRING)
    assert any(each.breaking for each in compare(request(ref("M0"), **named), request(ref("M0"), **changed)))


@pytest.mark.parametrize(
    ("old", "new", "higher"),
    [("1.0.0", "2.0.0", True), ("1.0.0", "1.9.0", False), ("2.0.0", "1.0.0", False), ("", "2.0.0", False)],
)
def test_a_new_major(old: str, new: str, higher: bool) -> None:
    assert is_new_major(old, new) is higher
