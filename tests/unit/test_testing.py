"""`TestMesh` as a user's tests use it: calls, retries, faults, dead letters, keys."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from meshq import Context, Mesh, Problem, Reply, Service
from meshq.settings import BadSettings
from meshq.testing import TestMesh, run


@dataclass
class Order:
    item: str


@dataclass
class Receipt:
    item: str
    price: int


class Shop:
    """Orders that ask billing for the price, and what each of them did."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, int]] = []
        self.charged: Counter[str] = Counter()
        self.left: list[float | None] = []
        self.orders = Service("orders", version="2.3.0")
        self.billing = Service("billing")
        self.orders.post("/create")(self.create)
        self.orders.post("/fast")(self.fast)
        self.orders.get("/orders/{id}")(self.find)
        self.orders.post("/slow")(self.slow)
        self.orders.post("/in-a-thread")(self.in_a_thread)
        self.billing.post("/charge")(self.charge)

    async def create(self, order: Order, ctx: Context) -> Receipt:
        self.handled.append((order.item, ctx.attempt))
        if order.item == "poison":
            ctx.reject("we sell no poison")
        assert ctx.mesh is not None
        return await ctx.mesh.call("billing", "POST /charge", order, returns=Receipt)

    async def fast(self, order: Order, ctx: Context) -> Receipt:
        self.handled.append((order.item, ctx.attempt))
        return Receipt(order.item, 1)

    async def find(self, id: int) -> Reply:
        return Reply({"id": id}, status=203)

    async def slow(self, order: Order, ctx: Context) -> None:
        self.left.append(ctx.time_left)
        await asyncio.sleep(20)
        self.left.append(ctx.time_left)

    def in_a_thread(self, order: Order) -> str:
        return f"{order.item} from a thread"

    async def charge(self, order: Order, ctx: Context) -> Receipt:
        self.charged[order.item] += 1
        return Receipt(order.item, 3)


@run
async def test_two_services_call_each_other() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        await mesh.serve(shop.billing)
        receipt = await mesh.client("web").call("orders", "POST /create", Order("tea"), returns=Receipt)
        assert receipt == Receipt("tea", 3)
        (to_orders,), (to_billing,) = mesh.sent("orders"), mesh.sent("billing", "POST /charge")
        assert (to_orders.caller, to_orders.to, to_orders.major) == ("web", "orders", 2)
        assert (to_billing.caller, to_billing.body, to_billing.as_(Order)) == ("orders", {"item": "tea"}, Order("tea"))
        assert (to_billing.attempts, to_billing.durable) == (1, False)


@run
async def test_an_operation_with_places_is_that_of_any_value() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        web = mesh.client("web")
        assert [await web.call("orders", f"/orders/{n}?x=1") for n in (7, 8)] == [{"id": 7}, {"id": 8}]
        mesh.assert_sent("orders", "GET /orders/{id}", times=2)
        mesh.assert_sent("orders", "GET /orders/7", times=1)
        mesh.assert_sent("orders", "GET /orders/7?x=1", times=1)
        assert mesh.sent("orders", "POST /orders/7") == []


@run
async def test_a_durable_call_is_tried_again_at_its_time_and_not_before() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        mesh.fail("orders", "POST /fast", times=4)
        ticket = await mesh.client("web").send("orders", "POST /fast", Order("tea"), returns=Receipt)
        await mesh.settle()
        for attempts, delay in enumerate((1, 5, 30, 120), start=1):
            await mesh.advance(delay - 0.05)
            assert mesh.sent("orders")[0].attempts == attempts
            await mesh.advance(0.05)
            assert mesh.sent("orders")[0].attempts == attempts + 1
        assert shop.handled == [("tea", 5)]
        assert await ticket.result() == Receipt("tea", 1)


@run
async def test_what_fails_to_the_last_is_a_dead_letter() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders, settings={"MESHQ_RETRY": "3:2s,10s"})
        mesh.fail("orders", times=None, status=500)
        ticket = await mesh.client("web").send("orders", "POST /fast", Order("tea"))
        await mesh.advance(11.9)
        assert mesh.dead("orders") == []
        await mesh.advance(0.1)
        (letter,) = mesh.dead("orders")
        assert (letter.operation, letter.body, letter.attempts, letter.status) == (
            "POST /fast",
            {"item": "tea"},
            3,
            500,
        )
        mesh.assert_dead("orders", "POST /fast", Order("tea"), reason=letter.reason, times=1)
        with pytest.raises(Problem) as caught:
            await ticket.result()
        assert caught.value.status == 500
        mesh.heal("orders")
        assert await mesh.client("web").call("orders", "POST /fast", Order("milk"), returns=Receipt) == Receipt(
            "milk", 1
        )


@run
async def test_what_the_handler_rejects_is_dead_at_once() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        await mesh.client("web").send("orders", "POST /create", Order("poison"))
        await mesh.settle()
        (letter,) = mesh.dead("orders")
        assert (letter.status, letter.attempts) == (422, 1)
        assert [each.id for each in mesh.dead("orders")] == [letter.id], "looking at them takes nothing away"


@run
async def test_ten_days_pass_at_once_and_in_order() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        await mesh.serve(shop.billing)
        web = mesh.client("web")
        day = 24 * 3600
        for days in (10, 3, 7, 1):
            await web.send("orders", "POST /fast", Order(f"day {days}"), delay=days * day)
        await mesh.settle()
        assert shop.handled == []
        began = mesh.now
        await mesh.advance(2 * day)
        assert shop.handled == [("day 1", 1)]
        await mesh.advance(8 * day - 1)
        assert shop.handled == [("day 1", 1), ("day 3", 1), ("day 7", 1)]
        await mesh.advance(1)
        assert [item for item, _ in shop.handled] == ["day 1", "day 3", "day 7", "day 10"]
        assert mesh.now - began == pytest.approx(10 * day, abs=0.1)
        assert await web.call("orders", "POST /fast", Order("after all"), returns=Receipt) == Receipt("after all", 1)


@run
async def test_a_waited_call_times_out_by_the_clock() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        call = asyncio.create_task(mesh.client("web").call("orders", "POST /slow", Order("tea"), timeout=5))
        await mesh.advance(4.99)
        assert not call.done()
        await mesh.advance(0.02)
        with pytest.raises(Problem) as caught:
            await call
        assert (caught.value.code, caught.value.by_mesh) == ("deadline", True)
        await mesh.advance(20)
        began, ended = shop.left
        assert began == pytest.approx(5, abs=0.01)
        assert ended == 0, "the handler's own clock has gone as far"


@run
async def test_a_durable_call_dies_when_its_deadline_passes() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        await mesh.client("web").send("orders", "POST /fast", Order("tea"), delay=60, deadline=mesh.now + 30)
        await mesh.advance(61)
        mesh.assert_dead("orders", "POST /fast", reason="deadline", times=1)
        assert shop.handled == []


@run
async def test_a_key_is_handled_once() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        web = mesh.client("web")
        answers = [
            await web.call("orders", "POST /fast", Order("tea"), idempotency_key="k1", returns=Receipt)
            for _ in range(3)
        ]
        assert answers == [Receipt("tea", 1)] * 3
        assert shop.handled == [("tea", 1)]
        assert [each.idempotency_key for each in mesh.sent("orders")] == ["k1"] * 3
        with pytest.raises(Problem) as caught:
            await web.call("orders", "POST /fast", Order("milk"), idempotency_key="k1")
        assert caught.value.code == "key-reused"
        await mesh.advance(24 * 3600 + 1)
        await web.call("orders", "POST /fast", Order("milk"), idempotency_key="k1")
        assert shop.handled == [("tea", 1), ("milk", 1)]


@run
async def test_a_nested_call_of_a_message_that_is_tried_again_is_done_once() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        await mesh.serve(shop.billing)
        mesh.slow("billing", seconds=10)
        await mesh.client("web").send("orders", "POST /create", Order("tea"))
        await mesh.advance(1)
        mesh.break_off("orders")
        await mesh.away("orders")
        await mesh.back("orders")
        await mesh.advance(60)
        assert [attempt for _, attempt in shop.handled] == [1, 3], "the second broke off before the handler"
        assert shop.charged == {"tea": 1}


@run
async def test_an_answer_can_break_off_or_come_late() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        web = mesh.client("web")
        mesh.break_off("orders")
        with pytest.raises(Problem) as caught:
            await web.call("orders", "POST /fast", Order("tea"))
        assert caught.value.code == "bad-gateway"
        mesh.slow("orders", "POST /fast", seconds=3)
        call = asyncio.create_task(web.call("orders", "POST /fast", Order("tea"), returns=Receipt))
        await mesh.advance(2.9)
        assert (call.done(), shop.handled) == (False, [])
        await mesh.advance(0.1)
        assert await call == Receipt("tea", 1)


@run
async def test_what_is_for_a_service_that_is_away_waits_for_it() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        web = mesh.client("web")
        await mesh.away("orders")
        await web.send("orders", "POST /fast", Order("tea"))
        await mesh.advance(3 * 24 * 3600)
        assert (shop.handled, mesh.dead("orders")) == ([], [])
        await mesh.back("orders")
        await mesh.settle()
        assert shop.handled == [("tea", 1)], "waiting burns no attempt"


@run
async def test_a_sender_is_told_that_the_broker_is_away() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        web = mesh.client("web")
        await web.call("orders", "POST /fast", Order("tea"))
        await mesh.broker_away()
        refused = asyncio.create_task(web.send("orders", "POST /fast", Order("tea")))
        await mesh.advance(30)
        with pytest.raises(Problem) as caught:
            await refused
        assert caught.value.code == "unavailable"
        assert len(mesh.sent("orders")) == 1, "what was refused was not sent"
        await mesh.away("orders")
        await mesh.back("orders")
        await mesh.broker_back()
        await web.send("orders", "POST /fast", Order("milk"))
        await mesh.settle()
        assert shop.handled == [("tea", 1), ("milk", 1)]


@run
async def test_it_closes_whatever_is_away() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        await mesh.serve(shop.billing)
        web = mesh.client("web")
        await web.send("orders", "POST /slow", Order("tea"))
        await mesh.advance(1)
        await mesh.away("billing")
        await mesh.broker_away()
    assert len(shop.left) == 2, "the handler that ran has finished"


@run
async def test_a_service_that_cannot_start_says_why() -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        raise ConnectionError("no database")
        yield

    shop = Shop()
    async with TestMesh() as mesh:
        with pytest.raises(ConnectionError, match="no database"):
            await mesh.serve(Service("stock", lifespan=lifespan))
        await mesh.serve(shop.orders)
        assert await mesh.client("web").call("orders", "POST /fast", Order("tea"), returns=Receipt) == Receipt("tea", 1)


@run
async def test_two_instances_share_the_work() -> None:
    one, two = Shop(), Shop()
    async with TestMesh() as mesh:
        await mesh.serve(one.orders)
        await mesh.serve(two.orders)
        web = mesh.client("web")
        for number in range(10):
            await web.call("orders", "POST /fast", Order(str(number)))
        assert len(one.handled) == len(two.handled) == 5
        assert (await web.service("orders")).ready == 2


@run
async def test_the_clock_waits_for_threads() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        call = asyncio.create_task(mesh.client("web").call("orders", "POST /in-a-thread", Order("tea"), timeout=1))
        await mesh.advance(60)
        assert await call == "tea from a thread"


@run
async def test_a_mesh_of_the_code_under_test_is_led_here_and_back() -> None:
    shop, own = Shop(), Mesh("http://127.0.0.1:9")
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        assert mesh.client("web", mesh=own) is own
        assert await own.call("orders", "POST /fast", Order("tea"), returns=Receipt) == Receipt("tea", 1)
        assert mesh.sent("orders")[0].caller == "web"
    assert own.url == "http://127.0.0.1:9"


@run
async def test_a_service_can_be_in_one_mesh_after_the_other() -> None:
    shop = Shop()
    for _ in range(2):
        async with TestMesh() as mesh:
            await mesh.serve(shop.orders)
            await mesh.client("web").call("orders", "POST /fast", Order("tea"))
            assert len(mesh.sent("orders")) == 1
    assert shop.handled == [("tea", 1)] * 2


@run
async def test_keys_are_taken_where_the_service_is_ordered() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders, settings={"MESHQ_ORDERED": "1"})
        await mesh.client("web").send("orders", "POST /fast", Order("tea"), key="customer 7")
        await mesh.settle()
        mesh.assert_sent("orders", key="customer 7", times=1)
        with pytest.raises(AssertionError, match="and key 'customer 8'"):
            mesh.assert_sent("orders", key="customer 8")


@run
async def test_a_failed_assertion_shows_what_there_was() -> None:
    shop = Shop()
    async with TestMesh() as mesh:
        await mesh.serve(shop.orders)
        await mesh.client("web").call("orders", "POST /fast", Order("tea"))
        with pytest.raises(AssertionError) as caught:
            mesh.assert_sent("orders", "POST /fast", Order("coffee"))
        first, heading, *there = str(caught.value).splitlines()
        assert first == "at least one expected, 0 found: POST /fast to orders with {'item': 'coffee'}"
        assert heading == "sent to orders:"
        assert len(there) == 1
        assert there[0].endswith("web -> orders@2 POST /fast  {'item': 'tea'}, attempts: 1")
        with pytest.raises(AssertionError, match=r"2 expected, 1 found: POST /fast to orders\n"):
            mesh.assert_sent("orders", "POST /fast", times=2)
        with pytest.raises(
            AssertionError, match=r"found: dead letter of orders by deadline\ndead at orders:\n  nothing"
        ):
            mesh.assert_dead("orders", reason="deadline")
        mesh.assert_sent("orders", "POST /create", times=0)


@run
async def test_what_is_wrong_with_the_test_is_said() -> None:
    async with TestMesh() as mesh:
        with pytest.raises(ValueError, match="there is no 'orders' in this mesh; there is nobody"):
            mesh.fail("orders")
        mesh.client("web")
        with pytest.raises(ValueError, match="200 is not the status of a problem"):
            mesh.fail("web", status=200)
        with pytest.raises(ValueError, match="Not_A_Name"):
            mesh.client("Not_A_Name")
        with pytest.raises(BadSettings, match="MESHQ_RETRY"):
            mesh.client("till", settings={"MESHQ_RETRY": "often"})
        with pytest.raises(ValueError, match="does not go back 1 s"):
            await mesh.advance(-1)
        shop = Shop()
        await mesh.serve(shop.orders)
        with pytest.raises(ValueError, match="is served already: another instance is another Service"):
            await mesh.serve(shop.orders)
        with pytest.raises(RuntimeError, match="there is a TestMesh on this event loop already"):
            await TestMesh().__aenter__()
    with pytest.raises(RuntimeError, match="this TestMesh is not open"):
        mesh.sent("orders")
    with pytest.raises(RuntimeError, match="a TestMesh is opened once"):
        await mesh.__aenter__()
