"""Answers on their way back: packed by loop turn and caller, kept while the broker takes none."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshq.adapters.clock import ManualClock
from meshq.core.message import Response, decode, encode_response
from meshq.core.packing import PACK_BYTES
from meshq.ports import BrokerState, Publication
from meshq_sidecar.replies import AGAIN_BYTES, MAX_UNSENT, PACK_RECORDS, Replies
from tests.doubles import Counted

UP, DOWN = BrokerState(True, True, ""), BrokerState(False, True, "gone")


@dataclass
class Wire:
    """A broker's sending side that can be closed."""

    open: bool = True
    sent: list[Publication] = field(default_factory=list)

    def send(self, publication: Publication) -> bool:
        if self.open:
            self.sent.append(publication)
        return self.open

    def answers(self) -> list[list[str]]:
        return [[message.id for message in decode(publication.body)] for publication in self.sent]


@dataclass
class Held:
    reply_to: str = "shop.a.1"
    acknowledged: int = 0

    def ack(self) -> None:
        self.acknowledged += 1


def record(ident: str, body: bytes = b"x") -> bytes:
    return encode_response(Response(ident, 200, [], body, "orders/1.0.0/i"))


def run(scene: Callable[[Wire, Replies, list[str], ManualClock], Any]) -> None:
    async def main() -> None:
        wire, told = Wire(), []
        clock = ManualClock()
        replies = Replies(wire, clock, Counted(), lambda: told.append("empty"))  # type: ignore[arg-type]
        await scene(wire, replies, told, clock)

    asyncio.run(main())


async def turn() -> None:
    await asyncio.sleep(0)


def test_what_is_ready_in_one_turn_leaves_as_one_message_for_each_caller() -> None:
    async def scene(wire: Wire, replies: Replies, told: list[str], clock: ManualClock) -> None:
        held = [Held(), Held("shop.b.1"), Held()]
        for number, delivery in enumerate(held):
            replies.put(f"m{number}", record(f"m{number}"), delivery)  # type: ignore[arg-type]
        assert not wire.sent
        assert not replies.idle
        assert [delivery.acknowledged for delivery in held] == [0, 0, 0]
        await turn()
        assert [(p.key, p.message_id, p.kind) for p in wire.sent] == [
            ("shop.a.1", "m0", "reply"),
            ("shop.b.1", "m1", "reply"),
        ]
        assert wire.answers() == [["m0", "m2"], ["m1"]]
        assert [delivery.acknowledged for delivery in held] == [1, 1, 1]
        assert told == ["empty"]

    run(scene)


def test_an_answer_of_the_next_turn_is_a_message_of_its_own() -> None:
    async def scene(wire: Wire, replies: Replies, told: list[str], clock: ManualClock) -> None:
        for number in range(2):
            replies.put(f"m{number}", record(f"m{number}"), Held())  # type: ignore[arg-type]
            await turn()
        assert wire.answers() == [["m0"], ["m1"]]

    run(scene)


def test_a_pack_is_bounded_in_number_and_bytes() -> None:
    async def scene(wire: Wire, replies: Replies, told: list[str], clock: ManualClock) -> None:
        for number in range(PACK_RECORDS + 1):
            replies.put(f"m{number}", record(f"m{number}"), Held())  # type: ignore[arg-type]
        await turn()
        assert [len(group) for group in wire.answers()] == [PACK_RECORDS, 1]
        wire.sent.clear()
        for number in range(3):
            replies.put(f"m{number}", record(f"m{number}", b"x" * (PACK_BYTES // 2)), Held())  # type: ignore[arg-type]
        await turn()
        assert wire.answers() == [["m0"], ["m1"], ["m2"]]

    run(scene)


def test_what_cannot_leave_is_kept_in_order_and_not_acknowledged() -> None:
    async def scene(wire: Wire, replies: Replies, told: list[str], clock: ManualClock) -> None:
        wire.open = False
        held = [Held() for _ in range(3)]
        for number, delivery in enumerate(held):
            replies.put(f"m{number}", record(f"m{number}"), delivery)  # type: ignore[arg-type]
            await turn()
        assert [delivery.acknowledged for delivery in held] == [0, 0, 0]
        assert not replies.idle
        wire.open = True
        replies.on_state(UP)
        assert wire.answers() == [["m0"], ["m1"], ["m2"]]
        assert [delivery.acknowledged for delivery in held] == [1, 1, 1]
        assert told == ["empty"]

    run(scene)


def test_beyond_the_bound_answers_are_dropped_and_their_deliveries_settled() -> None:
    async def scene(wire: Wire, replies: Replies, told: list[str], clock: ManualClock) -> None:
        wire.open = False
        for number in range(MAX_UNSENT):
            replies.put(f"m{number}", record(f"m{number}"), Held(f"shop.{number}.1"))  # type: ignore[arg-type]
        await turn()
        last = Held("shop.last.1")
        replies.put("last", record("last"), last)  # type: ignore[arg-type]
        await turn()
        assert last.acknowledged == 1
        wire.open = True
        replies.on_state(UP)
        assert len(wire.sent) == MAX_UNSENT

    run(scene)


def test_the_answers_of_the_last_moment_before_a_loss_are_sent_again() -> None:
    async def scene(wire: Wire, replies: Replies, told: list[str], clock: ManualClock) -> None:
        held = [Held() for _ in range(3)]
        for number, delivery in enumerate(held):
            replies.put(f"m{number}", record(f"m{number}"), delivery)  # type: ignore[arg-type]
            await turn()
            clock.advance(0.7)
        replies.on_state(DOWN)
        clock.advance(5)
        replies.on_state(DOWN)
        wire.sent.clear()
        replies.on_state(UP)
        assert wire.answers() == [["m2"]]
        replies.on_state(UP)
        assert wire.answers() == [["m2"]]
        assert [delivery.acknowledged for delivery in held] == [1, 1, 1]

    run(scene)


def test_what_is_kept_to_be_sent_again_is_bounded_in_bytes() -> None:
    async def scene(wire: Wire, replies: Replies, told: list[str], clock: ManualClock) -> None:
        for number in range(5):
            replies.put(f"m{number}", record(f"m{number}", bytes(AGAIN_BYTES // 3)), Held())  # type: ignore[arg-type]
            await turn()
        replies.on_state(DOWN)
        wire.sent.clear()
        replies.on_state(UP)
        assert wire.answers() == [["m3"], ["m4"]]

    run(scene)
