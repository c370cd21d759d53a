"""Events in a `TestMesh`, in each mode."""

from collections import defaultdict
from typing import Any

import pytest

from meshq import Context, Problem, Service
from meshq.testing import TestMesh, run

SETTLED = "payments.settled"


class Subscriber:
    """One instance of a service that handles the event, and what it got."""

    def __init__(self, mode: str, name: str = "shipping", **more: Any) -> None:
        self.got: list[Any] = []
        self.service = Service(name)

        @self.service.on(f"{SETTLED}@1", mode=mode, **more)
        async def settled(event: dict[str, Any], ctx: Context) -> None:
            if event.get("fails"):
                raise Problem("broken", status=500)
            self.got.append(event["n"])


async def published(mesh: TestMesh, *numbers: int, **more: Any) -> None:
    for number in numbers:
        await mesh.client("payments").publish(SETTLED, {"n": number}, **more)
    await mesh.settle()


@run
async def test_shared_each_service_gets_an_event_once() -> None:
    one, two, other = Subscriber("shared"), Subscriber("shared"), Subscriber("shared", "mail")
    async with TestMesh() as mesh:
        for each in (one, two, other):
            await mesh.serve(each.service)
        await published(mesh, 1, 2, 3, 4)
        assert sorted(one.got + two.got) == [1, 2, 3, 4]
        assert other.got == [1, 2, 3, 4]
        assert one.got
        assert two.got
        mesh.assert_published(SETTLED, {"n": 3}, times=1)
        assert [each.body for each in mesh.published(f"{SETTLED}@1")] == [{"n": n} for n in (1, 2, 3, 4)]
        assert mesh.published(f"{SETTLED}@2") == mesh.published("payments") == []


@run
async def test_broadcast_each_instance_gets_it() -> None:
    one, two = Subscriber("broadcast"), Subscriber("broadcast")
    async with TestMesh() as mesh:
        await mesh.serve(one.service)
        await mesh.serve(two.service)
        await published(mesh, 1, 2)
        assert one.got == two.got == [1, 2]


@run
async def test_ordered_keeps_the_order_of_a_key_through_a_retry() -> None:
    one = Subscriber("ordered")
    async with TestMesh() as mesh:
        await mesh.serve(one.service)
        mesh.fail("shipping", SETTLED)
        await published(mesh, 1, 2, 3, key="customer 7")
        assert one.got == []
        await mesh.advance(1)
        assert one.got == [1, 2, 3]
        assert [each.key for each in mesh.published(SETTLED)] == ["customer 7"] * 3
        assert [each.attempts for each in mesh.published(SETTLED)] == [2, 1, 1]


@run
async def test_exclusive_another_instance_takes_over() -> None:
    one, two = Subscriber("exclusive"), Subscriber("exclusive")
    async with TestMesh() as mesh:
        await mesh.serve(one.service)
        await mesh.serve(two.service)
        await published(mesh, 1, 2, 3)
        assert sorted([one.got, two.got]) == [[], [1, 2, 3]]


@run
async def test_replay_begins_with_the_first() -> None:
    late = Subscriber("replay", start="first")
    async with TestMesh() as mesh:
        mesh.client("payments", settings={"MESHQ_LOG_EVENTS": f"{SETTLED}@1"})
        await published(mesh, 1, 2, 3)
        await mesh.serve(late.service)
        await mesh.advance(5)
        assert late.got == [1, 2, 3]


@run
async def test_a_delayed_event_comes_when_it_is_due() -> None:
    one = Subscriber("shared")
    async with TestMesh() as mesh:
        await mesh.serve(one.service)
        await published(mesh, 1, delay=3600)
        await published(mesh, 2)
        await mesh.advance(3599)
        assert one.got == [2]
        await mesh.advance(1)
        assert one.got == [2, 1]
        assert [each.body["n"] for each in mesh.published(SETTLED)] == [1, 2]


@run
async def test_an_event_that_is_never_handled_is_a_dead_letter_of_its_subscriber() -> None:
    one = Subscriber("shared")
    async with TestMesh() as mesh:
        await mesh.serve(one.service)
        await mesh.client("payments").publish(SETTLED, {"n": 1, "fails": True})
        await mesh.advance(3600)
        (letter,) = mesh.dead("shipping")
        assert (letter.event, letter.attempts, letter.status) == (f"{SETTLED}.v1", 5, 500)
        mesh.assert_dead("shipping", SETTLED, {"n": 1, "fails": True}, times=1)


@run
async def test_nobody_subscribes_and_many_at_once() -> None:
    async with TestMesh() as mesh:
        fates = await mesh.client("payments").publish_many(
            SETTLED, [{"n": n} for n in range(3)], key=lambda event: str(event["n"])
        )
        by_key = defaultdict(list)
        for each in mesh.published(SETTLED):
            by_key[each.key].append(each.body)
        assert len(fates) == 3
        assert by_key == {str(n): [{"n": n}] for n in range(3)}
        with pytest.raises(AssertionError, match=r"0 found: payments\.settled with {'n': 9}\npublished as"):
            mesh.assert_published(SETTLED, {"n": 9})


@pytest.mark.timeout(30)  # two minutes, if each renewal were waited for
@pytest.mark.parametrize("mode", ["shared", "broadcast", "ordered", "exclusive", "replay"])
@run
async def test_ten_quiet_days_pass_at_once(mode: str) -> None:
    one = Subscriber(mode)
    async with TestMesh() as mesh:
        await mesh.serve(one.service)
        payments = mesh.client("payments", settings={"MESHQ_LOG_EVENTS": f"{SETTLED}@1"})
        await payments.publish(SETTLED, {"n": 1})
        await mesh.settle()
        await mesh.advance(10 * 24 * 3600)
        await published(mesh, 2)
        await mesh.advance(5)
        assert one.got[-1] == 2
