"""What must hold for any bytes, any cut and any order of asking, answering, cancelling and leaving on a link."""

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshq.adapters.clock import ManualClock
from meshq.core import link
from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse
from meshq.core.link import FrameReader, Hello, Pong
from meshq.core.message import DecodeError
from meshq.linking import Link, LinkExchange
from tests.doubles import turn
from tests.link_rig import HIGH, Joined, Raw, Served
from tests.vectors.write_link_v1 import BAD, GOOD, LENIENT, REFUSED, UNKNOWN, frame
from tests.virtual_time import run

NUMBER = st.integers(0, 2**53 - 1)
NAME = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789-_", min_size=1, max_size=12).map(str.encode)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20).map(
    lambda text: text.encode("latin-1")
)
FIELDS = st.lists(st.tuples(NAME.filter(lambda name: name.lower() != b"host"), VALUE), max_size=6)
TARGET = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=30).map(
    lambda text: b"/" + text.encode()
)
METHOD = st.sampled_from([b"GET", b"POST", b"PURGE", b"m-search"])
REQUEST = st.builds(HttpRequest, METHOD, TARGET, FIELDS, st.none() | st.binary(max_size=50))
RESPONSE = st.builds(HttpResponse, st.integers(200, 999), FIELDS, st.binary(max_size=50))
FAILED = st.builds(Failed, st.sampled_from(Failure), st.text(max_size=20), st.none() | st.integers(200, 999))


@given(NUMBER, REQUEST, RESPONSE, FAILED, st.builds(Pong, st.text(max_size=20), st.booleans()))
def test_what_is_written_is_what_is_read(
    number: int, request: HttpRequest, response: HttpResponse, failed: Failed, pong: Pong
) -> None:
    frames = [
        link.request(number, request), link.response(number, response), link.failed(number, failed), link.pong(number, pong)
    ]  # fmt: skip
    found = list(FrameReader().feed(b"".join(frames)))
    assert [link.read_number(each) for each in found] == [number] * 4
    assert link.read_request(found[0]) == request
    assert link.read_response(found[1]) == response
    assert link.read_failed(found[2]) == failed
    assert link.read_pong(found[3]) == pong


FRAMES = [wire for _, wire in [*GOOD, *LENIENT, *UNKNOWN]]


@given(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=10), st.data())
def test_frames_cut_anywhere_are_the_same_frames(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    reader = FrameReader()
    found = [each for piece in pieces(stream, cuts) for each in reader.feed(piece)]
    assert found == list(FrameReader().feed(stream))
    assert len(found) == len(frames)


def pieces(stream: bytes, cuts: list[int]) -> Iterator[bytes]:
    for begin, end in itertools.pairwise([0, *cuts, len(stream)]):
        yield stream[begin:end]


# --- any bytes --------------------------------------------------------------------------------------------------------------------

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**64 - 1) | st.binary(max_size=8) | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
WRONG = [wire for _, wire in [*BAD, *REFUSED]]
ELEMENTS = st.lists(VALUES, max_size=6).flatmap(lambda rest: st.integers(0, 9).map(lambda kind: frame([kind, *rest])))
PIECE = st.one_of(
    st.sampled_from(FRAMES + WRONG), ELEMENTS, st.binary(max_size=20), VALUES.map(msgpack.packb).map(frame)
)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Nothing of what is refused needs to be said hundreds of times."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(PIECE, max_size=12))
@example(True, [link.request(1, HttpRequest(b"GET", b"/", [], None)), link.cancel(1)] * 3)
@example(True, [frame([3, 1, "broken"])])
@example(True, [link.goodbye(), link.ping(1), link.pong(2, Pong())])
def test_no_bytes_break_an_end(greets: bool, data: list[bytes]) -> None:
    async def story() -> None:
        served = Served()
        end, raw = Link(served, granted=3), Raw(Hello(3) if greets else None)
        joined = Joined(end, raw)
        asked: list[object] = []
        end.request(HttpRequest(b"GET", b"/", [], None), 5, asked.append)
        for piece in data:
            if not joined.wires[1].is_closing():
                raw.say(piece)
            await joined.settle()
        for exchange in served.asked:
            exchange.respond(HttpResponse(200, []))
        end.abort()
        await joined.settle()
        assert end.closed.is_set()
        assert len(asked) == 1
        assert len(raw.heard) <= 2 + len(served.asked) + 4 * len(data)

    run(ManualClock(), story())


@given(st.lists(PIECE, max_size=6))
def test_a_reader_gives_frames_or_the_one_error(data: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in data:
            for found in reader.feed(piece):
                assert type(found[0]) is int
    except DecodeError:
        pass


# --- any order --------------------------------------------------------------------------------------------------------------------


class Question:
    """One request in the test's books."""

    def __init__(self, at: "Side", number: int, size: int) -> None:
        self.at = at
        self.body = b"%d:" % number + bytes(size)
        self.cancel: Callable[[], None] = lambda: None
        self.cancelled = False
        self.outcomes: list[HttpResponse | Failed] = []
        self.handed: LinkExchange | None = None
        """As the other end got it."""
        self.answer: HttpResponse | Failed | None = None
        self.hung_up = False

    def done(self, outcome: HttpResponse | Failed) -> None:
        self.outcomes.append(outcome)


class Side:
    def __init__(self, world: "World", granted: int) -> None:
        self.world = world
        self.granted = granted
        self.link = Link(self.take, granted=granted)
        self.questions: list[Question] = []
        """That it asked."""
        self.held: list[Question] = []
        """That it has to answer."""

    def take(self, exchange: LinkExchange) -> None:
        question = self.world.by_body[exchange.request.body or b""]
        assert question.handed is None, "one request came twice"
        assert not self.link.leaving, "it was given a request after it had said goodbye"
        question.handed = exchange
        self.held.append(question)
        exchange.on_hangup(lambda: self.drop(question))
        assert len(self.held) <= self.granted, "more is open than was granted"

    def drop(self, question: Question) -> None:
        question.hung_up = True
        self.held.remove(question)


class World:
    def __init__(self, granted: tuple[int, int]) -> None:
        self.by_body: dict[bytes, Question] = {}
        self.sides = [Side(self, each) for each in granted]
        self.joined = Joined(self.sides[0].link, self.sides[1].link)

    def ask(self, side: Side, size: int) -> None:
        question = Question(side, len(self.by_body), size)
        self.by_body[question.body] = question
        side.questions.append(question)
        question.cancel = side.link.request(HttpRequest(b"PUT", b"/", [], question.body), 60, question.done)

    def answer(self, side: Side, index: int, size: int) -> None:
        if side.held:
            question = side.held.pop(index % len(side.held))
            assert question.handed is not None
            if size % 5 == 4:
                question.answer = Failed(Failure.TIMEOUT, "too slow")
                question.handed.fail(question.answer)
            else:
                question.answer = HttpResponse(200, [], question.body[:9] + bytes(size))
                question.handed.respond(question.answer)

    def cancel(self, side: Side, index: int) -> None:
        if side.questions:
            question = side.questions[index % len(side.questions)]
            question.cancelled = question.cancelled or not question.outcomes
            question.cancel()

    def move(self, which: int, most: int) -> None:
        self.joined.wires[which].move(most)

    def check(self, question: Question, broken: bool) -> None:
        (outcome,) = question.outcomes
        if isinstance(outcome, Failed) and outcome.failure is Failure.CANCELLED:
            assert question.cancelled
        elif isinstance(outcome, Failed) and outcome.failure is Failure.REFUSED:
            assert question.handed is None, "refused, but the other end had it"
        elif isinstance(outcome, Failed) and outcome.failure is Failure.BROKEN:
            assert broken, "broken without a break"
        else:
            assert outcome == question.answer


SIZE = st.sampled_from([0, 1, 2, 3, 4, 100, HIGH, 3 * HIGH, 4 + 5 * HIGH])
WHICH = st.integers(0, 1)
ACTION = st.one_of(
    st.tuples(st.just("ask"), WHICH, SIZE, st.just(0)),
    st.tuples(st.just("answer"), WHICH, SIZE, st.integers(0, 9)),
    st.tuples(st.just("cancel"), WHICH, st.just(0), st.integers(0, 9)),
    st.tuples(st.just("move"), WHICH, st.sampled_from([1, 7, 50, HIGH, 10 * HIGH]), st.just(0)),
    st.tuples(st.just("turn"), WHICH, st.just(0), st.just(0)),
)
END = st.sampled_from(["left", "right", "both", "broken"])


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)), st.lists(ACTION, max_size=60), END, st.lists(ACTION, max_size=30)
)
def test_whatever_happens_everybody_is_answered_once(
    granted: tuple[int, int], before: list[tuple[str, int, int, int]], end: str, after: list[tuple[str, int, int, int]]
) -> None:
    async def story() -> None:
        world = World(granted)
        await world.joined.settle()
        for action in before:
            await act(world, *action)
        left, right = world.sides
        for side in {"left": [left], "right": [right], "both": [left, right], "broken": []}[end]:
            side.link.leave()
        for action in after:
            await act(world, *action)
        if end == "broken":
            left.link.abort()
        await world.joined.settle()
        while left.held or right.held:
            for side in (left, right):
                world.answer(side, 0, 1)
            await world.joined.settle()
        for side in (left, right):
            assert side.link.closed.is_set()
            assert side.link.busy == 0
        for question in world.by_body.values():
            world.check(question, end == "broken")

    run(ManualClock(), story())


async def act(world: World, what: str, which: int, size: int, index: int) -> None:
    side = world.sides[which]
    match what:
        case "ask":
            world.ask(side, size)
        case "answer":
            world.answer(side, index, size)
        case "cancel":
            world.cancel(side, index)
        case "move":
            world.move(which, size)
        case "turn":
            await turn()
