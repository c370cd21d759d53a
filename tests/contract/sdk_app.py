"""The service that the SDK's suite calls: orders 2.0.0, with a handler for each thing that handlers do, and what they saw."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field

from meshq import Context, Mesh, Problem, Reply, Service, SyncMesh


class Order(BaseModel):
    id: str
    amount: int = Field(gt=0)
    note: str = ""


class Receipt(BaseModel):
    order: str
    total: int


@dataclass
class Parcel:
    """A body that is no pydantic model."""

    id: str
    size: float
    tags: list[str] = field(default_factory=list)


class SettledV1(BaseModel):
    payment: str
    cents: int


class SettledV2(BaseModel):
    payment: str
    amount: float
    currency: str = "EUR"


KINDS: dict[str, Any] = {
    "model": Receipt(order="a", total=3),
    "dataclass": Parcel("p", 1.5, ["ü"]),
    "dict": {"a": [1, None, "ü"]},
    "list": [1, 2],
    "number": 7,
    "bytes": b"\x00\xff",
    "text": "grün",
    "none": None,
    "reply": Reply({"id": 7}, status=201, headers={"Location": "/orders/7", "X-Name": "Zoë"}),
    "refusal": Reply(b"no tea", status=418, content_type="text/x-tea"),
}


class Seen:
    """What the handlers saw, by the name of the run that it belongs to; from the test's thread."""

    def __init__(self) -> None:
        self._things: dict[str, list[Any]] = {}
        self._more = threading.Condition()

    def add(self, run: str, thing: Any) -> None:
        with self._more:
            self._things.setdefault(run, []).append(thing)
            self._more.notify_all()

    def of(self, run: str) -> list[Any]:
        with self._more:
            return list(self._things.get(run, ()))

    async def wait(self, run: str, good: Callable[[list[Any]], bool], seconds: float = 20) -> list[Any]:
        """What was seen, once it is `good`."""

        def look() -> list[Any]:
            with self._more:
                assert self._more.wait_for(lambda: good(self._things.get(run, [])), seconds), self._things.get(run)
                return list(self._things[run])

        return await asyncio.to_thread(look)

    async def count(self, run: str, number: int) -> list[Any]:
        return await self.wait(run, lambda things: len(things) >= number)


class Held:
    """Handlers that wait until the test lets them go on."""

    def __init__(self) -> None:
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def gate(self, run: str) -> threading.Event:
        with self._lock:
            return self._gates.setdefault(run, threading.Event())

    def release(self) -> None:
        with self._lock:
            for gate in self._gates.values():
                gate.set()


def orders(mesh: Mesh, blocking: SyncMesh, seen: Seen, held: Held) -> Service:
    service = Service("orders", version="2.0.0", mesh=mesh)
    _answers(service)
    _ends(service, seen, held)
    _nested(service, blocking, seen)
    _events(service, seen)
    return service


def _answers(service: Service) -> None:
    @service.post("/order")
    async def order(order: Order) -> Receipt:
        return Receipt(order=order.id, total=2 * order.amount)

    @service.post("/parcel")
    async def parcel(parcel: Parcel) -> Parcel:
        return Parcel(parcel.id[::-1], parcel.size, [*parcel.tags, "seen"])

    @service.post("/any")
    async def any_body(body: Any, ctx: Context) -> Any:
        return {"body": body.hex() if isinstance(body, bytes) else body, "type": ctx.headers.get("content-type", "")}

    @service.post("/raw")
    async def raw(body: bytes) -> bytes:
        return body[::-1]

    @service.get("/kinds/{kind}")
    async def kinds(kind: str) -> Any:
        return KINDS[kind]

    @service.get("/items/{id}")
    async def item(id: int, limit: int = 10, name: str | None = None) -> dict[str, Any]:
        return {"id": id, "limit": limit, "name": name}

    @service.get("/files/{path:path}")
    def file(path: str) -> str:
        return path

    @service.get("/thread")
    def thread(ctx: Context) -> dict[str, Any]:
        return {"main": threading.current_thread().name == "world", "caller": ctx.caller_claimed}

    @service.post("/fields")
    async def fields(ctx: Context) -> Reply:
        own = {name: value for name, value in ctx.headers.items() if name.startswith("x-")}
        said = {
            "key": ctx.key,
            "caller": ctx.caller_claimed,
            "topic": ctx.topic,
            "attempt": ctx.attempt,
            "id": ctx.message_id,
        }
        return Reply({**own, **said}, headers={"X-Back": ctx.headers.get("x-there", "")})


def _ends(service: Service, seen: Seen, held: Held) -> None:
    @service.post("/refuse/{status}")
    async def refuse(status: int) -> None:
        raise Problem(
            "sold-out", "no tea is left", status=status, fields={"left": 0}, retry_after=2 if status == 503 else None
        )

    @service.post("/broken/{run}")
    async def broken(run: str, ctx: Context) -> str:
        seen.add(run, ctx.attempt)
        if ctx.attempt == 1:
            raise LookupError("the handler of the test failed, as it is to")
        return f"attempt {ctx.attempt}"

    @service.post("/later/{run}")
    async def later(run: str, ctx: Context) -> str:
        seen.add(run, ctx.attempt)
        if ctx.attempt == 1:
            ctx.retry(after=1, reason="not now")
        return "later"

    @service.post("/wrong/{run}")
    def wrong(run: str, ctx: Context) -> None:
        seen.add(run, ctx.attempt)
        ctx.reject("no such customer")

    @service.post("/held/{run}")
    async def held_up(run: str, ctx: Context) -> str:
        seen.add(run, ctx.message_id)
        gate = held.gate(run)
        try:
            await asyncio.to_thread(gate.wait, 20)
        except asyncio.CancelledError:
            seen.add(run, "cancelled")
            raise
        return "released"

    @service.post("/count/{run}")
    async def count(run: str) -> dict[str, int]:
        seen.add(run, 1)
        return {"times": len(seen.of(run))}


def _nested(service: Service, blocking: SyncMesh, seen: Seen) -> None:
    @service.post("/outer/{run}")
    async def outer(run: str, ctx: Context) -> Any:
        found = await ctx.mesh.call("orders", f"POST /inner/{run}", {"n": 1})
        return {"outer": _about(ctx), "inner": found}

    @service.post("/outer-in-thread/{run}")
    def outer_in_thread(run: str, ctx: Context) -> Any:
        found = blocking.call("orders", f"POST /inner/{run}", {"n": 1})
        return {"outer": _about(ctx), "inner": found}

    @service.post("/inner/{run}")
    async def inner(run: str, ctx: Context) -> Any:
        seen.add(run, ctx.message_id)
        return _about(ctx)

    @service.post("/twice/{run}")
    async def twice(run: str, ctx: Context) -> str:
        """Fails after it has called, so that it is handled again."""
        for _ in range(2):
            await ctx.mesh.call("orders", f"POST /count/{run}-nested", {"n": 1})
        await ctx.mesh.publish("nested.happened", {"run": run})
        await ctx.mesh.publish_many("nested.happened", [{"run": f"{run}-many"}, {"run": f"{run}-many"}])
        seen.add(run, ctx.attempt)
        if ctx.attempt == 1:
            raise Problem("unlucky", status=503)
        return "done"

    @service.on("nested.happened")
    async def nested(event: dict[str, str]) -> None:
        seen.add(event["run"] + "-event", 1)


def _about(ctx: Context) -> dict[str, Any]:
    traceparent = ctx.headers.get("traceparent", "")
    return {
        "deadline": ctx.headers.get("meshq-deadline"),
        "trace": traceparent.split("-")[1] if traceparent else "",
        "baggage": ctx.headers.get("baggage", ""),
        "key": ctx.idempotency_key,
        "id": ctx.message_id,
    }


def _events(service: Service, seen: Seen) -> None:
    @service.on("payments.settled@2")
    async def settled(event: SettledV2, ctx: Context) -> None:
        assert ctx.event is not None
        seen.add(event.payment, (event, ctx.event))

    @service.upgrade("payments.settled", 1, 2)
    def settled_of_old(old: SettledV1) -> SettledV2:
        return SettledV2(payment=old.payment, amount=old.cents / 100)

    @service.on("stock.moved", mode="ordered")
    async def moved(event: dict[str, Any], ctx: Context) -> None:
        run, key, number = event["run"], event["key"], event["number"]
        assert not event["key"] or ctx.key == key
        seen.add(run, (key, number, "begin"))
        await asyncio.sleep(0)
        seen.add(run, (key, number, "end"))

    @service.on("parcels.*", name="express", filter={"ce-subject": "express"})
    def express(event: dict[str, Any], ctx: Context) -> None:
        seen.add(event["run"], (ctx.topic, ctx.event.subject if ctx.event else ""))

    @service.on("notes.written", name="notes", mode="broadcast")
    async def note(body: str) -> None:
        seen.add(body, body)
