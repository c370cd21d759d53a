"""What handlers promise, as documents: OpenAPI held to its specification by a validator of others, AsyncAPI to its structure."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from pydantic import BaseModel, Field

from meshq import Context, Reply, Service
from meshq.core import topology
from meshq.core.http import HttpRequest, HttpResponse, header


class Item(BaseModel):
    sku: Annotated[str, Field(min_length=1)]
    count: int = 1
    parts: list["Item"] = []


class Order(BaseModel):
    items: list[Item]
    paid_on: Annotated[date | None, Field(alias="paidOn")] = None


@dataclass
class Receipt:
    id: int
    total: float = 0.0


class SettledV1(BaseModel):
    amount: int


class SettledV2(BaseModel):
    cents: int


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


def shop() -> Service:
    """One of everything."""
    orders = Service("orders", version="2.3.0")

    @orders.post("/create")
    async def create(order: Order, ctx: Context) -> Receipt:
        """Take an order.

        It is paid later.
        """
        return Receipt(len(order.items))

    @orders.get("/orders/{id}")
    def find(
        id: int, size: Size | None = None, since: date = date(2026, 1, 1), kind: Literal["a"] = "a"
    ) -> Receipt | None:
        return None

    @orders.delete("/orders/{id}")
    def drop(id: int) -> None: ...

    @orders.get("/files/{name:path}")
    def file(name: str) -> bytes:
        return b""

    @orders.put("/raw")
    def raw(body: bytes) -> str:
        return ""

    @orders.patch("/any")
    def anything(body):  # type: ignore[no-untyped-def]
        return body

    @orders.post("/reply")
    def reply(receipt: Receipt | None = None) -> Reply:
        return Reply(receipt, status=201)

    @orders.on("payments.settled@2", mode="ordered")
    async def settled(event: SettledV2, ctx: Context) -> None:
        """Book it."""

    @orders.upgrade("payments.settled", 1, 2)
    def _(old: SettledV1) -> SettledV2:
        return SettledV2(cents=old.amount * 100)

    @orders.on("stock.*")
    async def stock(event: dict[str, int]) -> None: ...

    @orders.on("audit.#@3", name="audit", mode="broadcast")
    async def every_audit(ctx: Context) -> None: ...

    return orders


# --- OpenAPI ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    return shop().openapi()


def test_it_is_openapi_by_the_specification(openapi: dict[str, Any]) -> None:
    validate(openapi, cls=OpenAPIV31SpecValidator)
    assert openapi["openapi"] == "3.1.0"
    assert openapi["info"] == {"title": "orders", "version": "2.3.0"}


def test_the_validator_would_say_so(openapi: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(openapi))
    del broken["paths"]["/create"]["post"]["responses"]["200"]["description"]
    assert list(OpenAPIV31SpecValidator(broken).iter_errors())


def test_a_service_without_handlers() -> None:
    empty = Service("empty")
    validate(empty.openapi())
    assert empty.asyncapi()["channels"] == {}


def test_an_operation(openapi: dict[str, Any]) -> None:
    create = openapi["paths"]["/create"]["post"]
    assert (create["operationId"], create["summary"], create["description"]) == (
        "create", "Take an order.", "It is paid later.",
    )  # fmt: skip
    order, receipt = ({"schema": {"$ref": f"#/components/schemas/{name}"}} for name in ("Order", "Receipt"))
    assert create["requestBody"] == {
        "required": True, "content": {"application/json": order, "application/msgpack": order},
    }  # fmt: skip
    assert create["responses"]["200"]["content"] == {"application/json": receipt, "application/msgpack": receipt}
    assert list(create["responses"]) == ["200", "422", "default"]
    invalid = openapi["components"]["responses"][create["responses"]["422"]["$ref"].rpartition("/")[2]]
    assert list(invalid["content"]) == ["application/problem+json"]


def test_parameters(openapi: dict[str, Any]) -> None:
    assert openapi["paths"]["/orders/{id}"]["get"]["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
        {"name": "size", "in": "query", "required": False, "schema": {"$ref": "#/components/schemas/Size"}},
        {
            "name": "since", "in": "query", "required": False,
            "schema": {"type": "string", "format": "date", "default": "2026-01-01"},
        },
        {"name": "kind", "in": "query", "required": False, "schema": {"type": "string", "const": "a", "default": "a"}},
    ]  # fmt: skip


def test_answers_by_the_annotation(openapi: dict[str, Any]) -> None:
    def answers(method: str, path: str) -> dict[str, list[str]]:
        found = openapi["paths"][path][method]["responses"]
        return {status: list(each.get("content", {})) for status, each in found.items() if status.startswith("2")}

    both = ["application/json", "application/msgpack"]
    assert answers("get", "/orders/{id}") == {"200": both, "204": []}
    assert answers("delete", "/orders/{id}") == {"204": []}
    assert answers("get", "/files/{name}") == {"200": ["application/octet-stream"]}
    assert answers("put", "/raw") == {"200": ["text/plain; charset=utf-8"]}
    assert answers("patch", "/any") == {"2XX": ["*/*"]}
    assert answers("post", "/reply") == {"2XX": ["*/*"]}


def test_bodies_by_their_type(openapi: dict[str, Any]) -> None:
    def body(method: str, path: str) -> tuple[bool, list[str]]:
        found = openapi["paths"][path][method]["requestBody"]
        return found["required"], list(found["content"])

    assert body("put", "/raw") == (True, ["*/*"])
    assert body("patch", "/any") == (True, ["application/json", "application/msgpack", "*/*"])
    assert body("post", "/reply") == (False, ["application/json", "application/msgpack"])


def test_a_model_that_is_another_going_out_has_two_names() -> None:
    service = Service("s")

    @service.post("/echo")
    def echo(item: Item) -> Item:
        return item

    found = service.openapi()
    validate(found)
    operation = found["paths"]["/echo"]["post"]
    coming = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    going = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert (coming, going) == ("#/components/schemas/Item-Input", "#/components/schemas/Item-Output")


def test_a_model_called_as_one_of_ours() -> None:
    service = Service("s")

    class Problem(BaseModel):
        mine: int

    @service.post("/p")
    def p(problem: Problem) -> None: ...

    found = service.openapi()
    validate(found)
    assert list(found["components"]["schemas"]["Problem"]["properties"]) == ["mine"]
    assert "code" in found["components"]["schemas"]["meshq.Problem"]["properties"]


def test_functions_of_one_name_and_methods_without_a_place() -> None:
    service = Service("s")
    for path in ("/a", "/b"):

        @service.get(path)
        def same() -> int:
            return 1

    @service.route("PURGE", "/a")
    def purge() -> None: ...

    found = service.openapi()
    validate(found)
    assert [each["get"]["operationId"] for each in found["paths"].values()] == ["same", "same_2"]
    assert list(found["paths"]["/a"]) == ["get"]
    assert [each["title"] for each in service.asyncapi()["operations"].values()][-1] == "PURGE /a"


def test_a_type_without_a_schema_is_named() -> None:
    class Opaque:
        pass

    service = Service("s")

    @service.get("/opaque")
    def opaque() -> Opaque:
        return Opaque()

    for document in (service.openapi, service.asyncapi):
        with pytest.raises(TypeError, match=r"GET /opaque: .*Opaque.* has no schema"):
            document()


def test_the_same_handlers_make_the_same_document() -> None:
    one, other = shop(), shop()
    assert json.dumps(one.openapi()) == json.dumps(other.openapi())
    assert json.dumps(one.asyncapi()) == json.dumps(other.asyncapi())


# --- AsyncAPI -----------------------------------------------------------------------------------------------------------------

# The fields that version 3.0.0 and the AMQP binding 0.3.0 know, and of these the required ones.
CHANNEL = (
    {"address", "title", "summary", "description", "messages", "parameters", "bindings", "servers", "tags"},
    set(),
)
OPERATION = (
    {
        "action",
        "channel",
        "title",
        "summary",
        "description",
        "messages",
        "reply",
        "bindings",
        "traits",
        "tags",
        "security",
    },
    {"action", "channel"},
)
MESSAGE = (
    {
        "name",
        "title",
        "summary",
        "description",
        "contentType",
        "headers",
        "payload",
        "correlationId",
        "bindings",
        "traits",
    },
    set(),
)
REPLY = ({"address", "channel", "messages"}, set())
AMQP_CHANNEL = ({"is", "exchange", "queue", "bindingVersion"}, {"is", "bindingVersion"})
AMQP_EXCHANGE = ({"name", "type", "durable", "autoDelete", "vhost"}, {"name", "type"})
AMQP_QUEUE = ({"name", "durable", "exclusive", "autoDelete", "vhost"}, {"name"})
AMQP_OPERATION = (
    {
        "expiration",
        "userId",
        "cc",
        "priority",
        "deliveryMode",
        "mandatory",
        "bcc",
        "timestamp",
        "ack",
        "bindingVersion",
    },
    {"bindingVersion"},
)
AMQP_MESSAGE = ({"contentEncoding", "messageType", "bindingVersion"}, {"bindingVersion"})


def check(node: dict[str, Any], shape: tuple[set[str], set[str]]) -> None:
    known, required = shape
    assert required <= node.keys() <= known, node


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            assert list(node) == ["$ref"]
            yield node["$ref"]
        for each in node.values():
            yield from references(each)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


def resolved(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for token in reference.removeprefix("#/").split("/"):
        node = node[token.replace("~1", "/").replace("~0", "~")]
    return resolved(document, node["$ref"]) if "$ref" in node else node


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    return shop().asyncapi()


def test_it_is_asyncapi_by_its_structure(asyncapi: dict[str, Any]) -> None:
    assert asyncapi["asyncapi"] == "3.0.0"
    assert asyncapi.keys() == {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    for channel in asyncapi["channels"].values():
        check(channel, CHANNEL)
        amqp = channel["bindings"]["amqp"]
        check(amqp, AMQP_CHANNEL)
        assert amqp["bindingVersion"] == "0.3.0"
        if amqp["is"] == "queue":
            check(amqp["queue"], AMQP_QUEUE)
        else:
            check(amqp["exchange"], AMQP_EXCHANGE)
        assert ("queue" in amqp) is (amqp["is"] == "queue")
    for operation in asyncapi["operations"].values():
        check(operation, OPERATION)
        check(operation["bindings"]["amqp"], AMQP_OPERATION)
        check(operation.get("reply", {}), REPLY)
    for message in asyncapi["components"]["messages"].values():
        check(message, MESSAGE)
        check(message.get("bindings", {"amqp": {"bindingVersion": ""}})["amqp"], AMQP_MESSAGE)


def test_every_reference_leads_somewhere(asyncapi: dict[str, Any]) -> None:
    found = list(references(asyncapi))
    assert found
    for each in found:
        resolved(asyncapi, each)


def test_an_operation_names_messages_of_its_own_channel(asyncapi: dict[str, Any]) -> None:
    for operation in asyncapi["operations"].values():
        for node in (operation, operation.get("reply", operation)):
            for message in node["messages"]:
                assert message["$ref"].startswith(f"{node['channel']['$ref']}/messages/")


def test_queues_are_those_of_the_mesh(asyncapi: dict[str, Any]) -> None:
    declared = {queue.name: queue for queue in topology.service("orders.v2").queues}
    for name in ("meshq.orders.v2.call", "meshq.orders.v2.work"):
        channel = asyncapi["channels"][name]
        assert channel["address"] == name
        assert channel["bindings"]["amqp"]["queue"] == {
            "name": name, "durable": declared[name].durable, "exclusive": declared[name].exclusive, "autoDelete": False,
        }  # fmt: skip
        assert list(channel["messages"]) == ["create", "find", "drop", "file", "raw", "anything", "reply"]


def test_a_call_has_a_reply_and_a_correlation(asyncapi: dict[str, Any]) -> None:
    for name, queue in (("create", "meshq.orders.v2.call"), ("create.durable", "meshq.orders.v2.work")):
        operation = asyncapi["operations"][name]
        assert (operation["action"], operation["channel"]) == ("receive", {"$ref": f"#/channels/{queue}"})
        message = resolved(asyncapi, operation["messages"][0]["$ref"])
        assert message["payload"] == {"$ref": "#/components/schemas/Order"}
        assert resolved(asyncapi, message["correlationId"]["$ref"])["location"] == "$message.header#/Meshq-Message-Id"
        reply = operation["reply"]
        assert reply["address"]["location"] == "$message.header#/replyTo"
        answer, problem = (resolved(asyncapi, each["$ref"]) for each in reply["messages"])
        assert answer["payload"] == {"$ref": "#/components/schemas/Receipt"}
        assert problem["contentType"] == "application/problem+json"
        channel = resolved(asyncapi, reply["channel"]["$ref"])
        assert (channel["address"], channel["bindings"]["amqp"]["exchange"]["name"]) == (None, topology.REPLIES)


def test_events_of_each_major_that_upgrades_reach(asyncapi: dict[str, Any]) -> None:
    payloads = {}
    for name, channel in asyncapi["channels"].items():
        amqp = channel["bindings"]["amqp"]
        if amqp.get("exchange", {}).get("name") == topology.EVENTS:
            assert amqp["exchange"] == {"name": "meshq.events", "type": "topic", "durable": True, "autoDelete": False}
            (message,) = (resolved(asyncapi, each["$ref"]) for each in channel["messages"].values())
            payloads[name] = (channel["address"], message.get("payload"))
    assert payloads == {
        "payments.settled.v2": ("payments.settled.v2", {"$ref": "#/components/schemas/SettledV2"}),
        "payments.settled.v1": ("payments.settled.v1", {"$ref": "#/components/schemas/SettledV1"}),
        "stock._.v1": ("stock.*.v1", {"type": "object", "additionalProperties": {"type": "integer"}}),
        "audit.__.v3": ("audit.#.v3", None),
    }
    assert asyncapi["operations"]["on.settled"]["summary"] == "Book it."
    assert asyncapi["operations"]["on.settled-v1"]["description"] == "The subscription settled-v1, ordered."


def test_two_subscriptions_of_one_event_share_a_channel() -> None:
    service = Service("s")

    @service.on("paid")
    def book(event: SettledV1) -> None: ...

    @service.on("paid")
    def tell(event: SettledV2) -> None: ...

    found = service.asyncapi()
    assert list(found["channels"]) == ["paid.v1"]
    assert list(found["channels"]["paid.v1"]["messages"]) == ["on.book", "on.tell"]
    assert len(found["operations"]) == 2


# --- asked of the service -----------------------------------------------------------------------------------------------------


def get(service: Service, path: str, method: bytes = b"GET") -> HttpResponse:
    return asyncio.run(service.respond(HttpRequest(method, path.encode(), [], None)))


def test_the_service_answers_with_its_documents() -> None:
    service = shop()
    for path, document in (("/openapi.json", service.openapi()), ("/asyncapi.json", service.asyncapi())):
        response = get(service, path)
        assert (response.status, header(response.headers, b"content-type")) == (200, b"application/json")
        assert json.loads(response.body) == document
        assert get(service, path, b"POST").status == 405


def test_what_is_added_later_is_in_them() -> None:
    service = Service("s")
    assert json.loads(get(service, "/openapi.json").body)["paths"] == {}

    @service.get("/late")
    def late() -> int:
        return 1

    assert list(json.loads(get(service, "/openapi.json").body)["paths"]) == ["/late"]


def test_they_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshq.sdk import contracts

    made = []
    real = contracts.openapi
    monkeypatch.setattr(contracts, "openapi", lambda service: made.append(service) or real(service))
    service = shop()
    first, second = [get(service, "/openapi.json").body for _ in range(2)]
    assert first == second
    assert made == [service]


@pytest.mark.parametrize("path", ["/openapi.json", "/{name}", "/{rest:path}"])
def test_the_apps_own_routes_come_first(path: str) -> None:
    service = Service("s")

    @service.route("GET", path)
    def own(ctx: Context, name: str = "", rest: str = "") -> str:
        return "mine"

    assert get(service, "/openapi.json").body == b"mine"
