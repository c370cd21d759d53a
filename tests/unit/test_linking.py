"""One end of a link and the other, joined in memory: asking, credit, cancelling, leaving, and ends that do not keep to the rules."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from meshq.adapters.clock import ManualClock
from meshq.core import link
from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse
from meshq.core.link import MAX_BODY, Hello, Kind, Pong
from meshq.linking import HELLO_WITHIN, PIPELINED_PINGS, STALLED, WAITING_MOST, Link
from tests.doubles import turn
from tests.link_rig import GET, HIGH, Joined, Outcomes, Raw, Served, ok, pair, post
from tests.virtual_time import pass_time, run

HELLO = link.hello(Hello(4096))


def scene(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On a loop whose time is the test's."""
    run(ManualClock(), story())


def failures(outcomes: Outcomes) -> list[Failure | int]:
    return [each.failure if isinstance(each, Failed) else each.status for each in outcomes]


# --- asking and answering -------------------------------------------------------------------------------------------------------


def test_each_end_asks_the_other_and_answers_come_in_any_order() -> None:
    async def story() -> None:
        one, two = Served(), Served()
        left, right, joined = await pair(one, two)
        to_right, to_left = Outcomes(), Outcomes()
        for body in (b"a", b"b"):
            left.request(post(body), 5, to_right.done())
        right.request(GET, 5, to_left.done())
        await joined.settle()
        assert [exchange.request.body for exchange in two.asked] == [b"a", b"b"]
        assert (left.busy, right.busy) == (2, 1)
        two.asked[1].respond(ok(b"B"))
        two.asked[0].respond(ok(b"A"))
        one.asked[0].fail(Failed(Failure.TIMEOUT, "too slow"))
        await joined.settle()
        assert to_right == [ok(b"B"), ok(b"A")]
        assert to_left == [Failed(Failure.TIMEOUT, "too slow")]
        assert (left.busy, right.busy) == (0, 0)

    scene(story)


def test_a_request_arrives_as_it_was_sent_and_so_does_its_response() -> None:
    request = HttpRequest(b"PUT", b"/a?b=%20", [(b"X-A", b"1"), (b"x-a", b"\xe9")], b"")
    response = HttpResponse(299, [(b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")], bytes(range(256)))

    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, _, joined = await pair(Served(), served)
        left.request(request, 5, outcomes.done())
        await joined.settle()
        assert served.asked[0].request == request
        served.asked[0].respond(response)
        served.asked[0].respond(ok())  # once is enough
        await joined.settle()
        assert outcomes == [response]

    scene(story)


def test_what_is_written_in_one_turn_leaves_in_one_write() -> None:
    async def story() -> None:
        left, _, joined = await pair(Served(), Served())
        writes: list[bytes] = []
        joined.wires[0].write = writes.append  # type: ignore[method-assign]
        for _ in range(20):
            left.request(GET, 5, Outcomes().done())
        await turn()
        await turn()
        assert len(writes) == 1

    scene(story)


@pytest.mark.parametrize("frames", [1, 2], ids=["alone", "with-another"])
def test_frames_cut_anywhere_are_the_same_frames(frames: int) -> None:
    async def story() -> None:
        stream = HELLO + b"".join(link.request(n, post(b"x" * 20)) for n in range(frames))
        for cut in range(1, len(stream)):
            served = Served()
            end = Link(served)
            joined = Joined(end, Raw(None))
            end.data_received(stream[:cut])
            end.data_received(stream[cut:])
            assert [exchange.number for exchange in served.asked] == list(range(frames))
            await joined.settle()

    scene(story)


# --- credit -----------------------------------------------------------------------------------------------------------------------


def test_whoever_has_no_credit_waits_in_turn() -> None:
    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, _, joined = await pair(Served(), served, right=2)
        for body in (b"1", b"2", b"3", b"4"):
            left.request(post(body), 5, outcomes.done())
        await joined.settle()
        assert [exchange.request.body for exchange in served.asked] == [b"1", b"2"]
        served.asked[1].respond(ok())
        await joined.settle()
        assert [exchange.request.body for exchange in served.asked] == [b"1", b"2", b"3"]
        for exchange in served.asked:
            exchange.respond(ok())
        await joined.settle()
        served.asked[3].respond(ok())
        await joined.settle()
        assert failures(outcomes) == [200] * 4

    scene(story)


def test_credit_can_change() -> None:
    async def story() -> None:
        outcomes, raw = Outcomes(), Raw(Hello(0))
        left = Link(Served())
        joined = Joined(left, raw)
        for _ in range(3):
            left.request(GET, 5, outcomes.done())
        await joined.settle()
        assert Kind.REQUEST not in raw.kinds()
        raw.say(link.credit(2))
        await joined.settle()
        assert raw.kinds().count(Kind.REQUEST) == 2
        raw.say(link.credit(1), link.response(1, ok()))
        await joined.settle()
        assert raw.kinds().count(Kind.REQUEST) == 2
        raw.say(link.response(2, ok()))
        await joined.settle()
        assert raw.kinds().count(Kind.REQUEST) == 3

    scene(story)


def test_not_more_waits_than_may() -> None:
    async def story() -> None:
        outcomes = Outcomes()
        left = Link(Served())
        Joined(left, Raw(None))  # which grants nothing
        for _ in range(WAITING_MOST):
            left.request(GET, None, Outcomes().done())
        left.request(GET, None, outcomes.done())
        assert failures(outcomes) == [Failure.REFUSED]
        left.abort()

    scene(story)


def test_nothing_new_is_asked_of_an_end_that_does_not_read() -> None:
    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, _, joined = await pair(Served(), served)
        left.request(post(bytes(2 * HIGH)), 5, outcomes.done())
        await turn()
        await asyncio.sleep(0)  # it is written, and nobody reads
        left.request(GET, 5, outcomes.done())
        await turn()
        await turn()
        assert len(joined.wires[0].unsent) < 2 * HIGH + 100
        assert left.busy == 2
        await joined.settle()
        assert len(served.asked) == 2

    scene(story)


def test_two_ends_that_send_each_other_something_large_do_not_wait_for_each_other() -> None:
    async def story() -> None:
        one, two, outcomes = Served(), Served(), Outcomes()
        left, right, joined = await pair(one, two)
        for _ in range(4):
            left.request(GET, 50, outcomes.done())
            right.request(GET, 50, outcomes.done())
        await joined.settle()
        for exchange in (*one.asked, *two.asked):  # both write more than their sockets take, before either reads
            exchange.respond(ok(bytes(2 * HIGH)))
        await turn()
        await turn()
        assert all(len(wire.unsent) > HIGH for wire in joined.wires)
        await joined.settle()
        assert failures(outcomes) == [200] * 8

    scene(story)


@pytest.mark.parametrize("flood", ["requests", "pings"])
def test_an_end_that_asks_and_never_reads_is_not_read_from_for_ever(flood: str) -> None:
    granted = 10

    async def story() -> None:
        left = Link(lambda exchange: exchange.respond(ok(bytes(HIGH))), granted=granted)
        raw = Raw()
        joined = Joined(left, raw)
        await joined.settle()
        mine, theirs = joined.wires
        raw.transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0
        while mine.reading:
            assert sent <= 2 * (granted + PIPELINED_PINGS), "it takes and takes"
            frame = link.ping(sent) if flood == "pings" and sent else link.request(sent, GET)
            raw.say(frame)
            theirs.move()
            await turn()
            await turn()
            sent += 1
        assert sent >= granted
        raw.transport.resume_reading()  # type: ignore[attr-defined]
        await joined.settle()
        assert mine.reading
        answers = [kind for kind in raw.kinds() if kind in (Kind.RESPONSE, Kind.PONG)]
        assert len(answers) == sent
        raw.transport.abort()  # type: ignore[attr-defined]
        await joined.settle()

    scene(story)


# --- cancelling and time ------------------------------------------------------------------------------------------------------------


def test_who_cancels_is_told_so_and_the_other_end_hangs_up() -> None:
    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, _, joined = await pair(Served(), served)
        cancel = left.request(GET, 5, outcomes.done())
        await joined.settle()
        cancel()
        cancel()
        assert failures(outcomes) == [Failure.CANCELLED]
        await joined.settle()
        assert served.hung_up == [served.asked[0].number]
        served.asked[0].respond(ok())
        await joined.settle()
        assert len(outcomes) == 1

    scene(story)


def test_a_cancel_that_crosses_the_answer() -> None:
    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, right, joined = await pair(Served(), served)
        cancel = left.request(GET, 5, outcomes.done())
        await joined.settle()
        served.asked[0].respond(ok())
        cancel()
        await joined.settle()
        assert failures(outcomes) == [Failure.CANCELLED]
        assert served.hung_up == []
        right.request(GET, 5, Outcomes().done())  # the link is as good as before
        left.request(GET, 5, outcomes.done())
        await joined.settle()
        assert len(served.asked) == 2

    scene(story)


def test_what_is_cancelled_while_it_waits_never_leaves() -> None:
    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, _, joined = await pair(Served(), served, right=1)
        left.request(post(b"1"), 5, outcomes.done())
        left.request(post(b"2"), 5, outcomes.done())()
        left.request(post(b"3"), 5, outcomes.done())
        await joined.settle()
        served.asked[0].respond(ok())
        await joined.settle()
        assert [exchange.request.body for exchange in served.asked] == [b"1", b"3"]
        assert failures(outcomes) == [Failure.CANCELLED, 200]

    scene(story)


def test_a_timeout_frees_the_credit_and_one_that_never_left_is_refused() -> None:
    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, _, joined = await pair(Served(), served, right=1)
        left.request(post(b"1"), 3, outcomes.done())
        left.request(post(b"2"), 2, outcomes.done())
        left.request(post(b"3"), 9, outcomes.done())
        await joined.settle()
        await pass_time(2.5)
        assert failures(outcomes) == [Failure.REFUSED]
        await pass_time(1)
        await joined.settle()
        assert failures(outcomes) == [Failure.REFUSED, Failure.TIMEOUT]
        assert [exchange.request.body for exchange in served.asked] == [b"1", b"3"]
        assert served.hung_up == [served.asked[0].number]

    scene(story)


def test_a_callback_that_raises_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    def handle(exchange: object) -> None:
        raise RuntimeError("not this one")

    async def story() -> None:
        outcomes = Outcomes()
        left, _, joined = await pair(Served(), handle)

        def done(outcome: object) -> None:
            raise RuntimeError("nor this")

        left.request(GET, 5, done)
        left.request(GET, 5, outcomes.done())
        await joined.settle()
        assert outcomes == [Failed(Failure.BROKEN, "an internal error")]

    scene(story)
    assert {record.exc_info[1].args[0] for record in caplog.records if record.exc_info} == {"not this one", "nor this"}  # type: ignore[union-attr]


# --- pings --------------------------------------------------------------------------------------------------------------------------


def test_a_ping_asks_how_the_other_end_is() -> None:
    async def story() -> None:
        right = Link(Served(), health=lambda: Pong("the database is away", True))
        left = Link(Served())
        joined = Joined(left, right)
        asked = asyncio.ensure_future(left.ping(2))
        await joined.settle()
        assert await asked == Pong("the database is away", True)

    scene(story)


def test_a_ping_without_an_answer() -> None:
    async def story() -> None:
        left, _, joined = await pair(Served(), Served())
        assert await left.ping(2) is None  # nothing moves
        asked = asyncio.ensure_future(left.ping(2))
        await turn()
        left.abort()
        await joined.settle()
        assert await asked is None
        assert await left.ping(2) is None

    scene(story)


# --- the end ------------------------------------------------------------------------------------------------------------------------


def test_whoever_leaves_closes_once_nothing_is_open_in_either_direction() -> None:
    async def story() -> None:
        one, two, outcomes = Served(), Served(), Outcomes()
        left, right, joined = await pair(one, two)
        left.request(GET, 5, outcomes.done())
        right.request(GET, 5, outcomes.done())
        await joined.settle()
        left.leave()
        left.leave()
        await joined.settle()
        assert right.left
        assert not left.closed.is_set()
        one.asked[0].respond(ok())
        await joined.settle()
        assert not left.closed.is_set()
        left.request(post(b"finishing needs this"), 5, outcomes.done())  # it takes nothing more, but may ask
        await joined.settle()
        two.asked[0].respond(ok())
        two.asked[1].respond(ok())
        await joined.settle()
        assert failures(outcomes) == [200] * 3
        assert left.closed.is_set()
        assert right.closed.is_set()

    scene(story)


def test_an_idle_link_is_left_at_once() -> None:
    async def story() -> None:
        left, right, joined = await pair(Served(), Served())
        left.leave()
        await joined.settle()
        assert left.closed.is_set()
        assert right.closed.is_set()

    scene(story)


def test_a_request_that_crosses_goodbye_is_refused_not_broken() -> None:
    """It can be asked elsewhere then, and costs no attempt."""

    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, right, joined = await pair(served, Served())
        left.leave()
        right.request(GET, 5, outcomes.done())
        await joined.settle()
        assert failures(outcomes) == [Failure.REFUSED]
        assert served.asked == []
        assert left.closed.is_set()

    scene(story)


def test_what_waited_for_credit_is_refused_at_goodbye() -> None:
    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, right, joined = await pair(Served(), served, right=1)
        left.request(post(b"1"), 5, outcomes.done())
        left.request(post(b"2"), 5, outcomes.done())
        await joined.settle()
        right.leave()
        await joined.settle()
        assert failures(outcomes) == [Failure.REFUSED]
        left.request(GET, 5, outcomes.done())
        assert failures(outcomes) == [Failure.REFUSED] * 2
        served.asked[0].respond(ok())
        await joined.settle()
        assert failures(outcomes) == [Failure.REFUSED, Failure.REFUSED, 200]
        assert left.closed.is_set()

    scene(story)


def test_both_leave_at_once() -> None:
    async def story() -> None:
        one, two, outcomes = Served(), Served(), Outcomes()
        left, right, joined = await pair(one, two)
        left.request(GET, 5, outcomes.done())
        right.request(GET, 5, outcomes.done())
        await joined.settle()
        left.leave()
        right.leave()
        await joined.settle()
        one.asked[0].respond(ok())
        two.asked[0].respond(ok())
        await joined.settle()
        assert failures(outcomes) == [200, 200]
        assert left.closed.is_set()
        assert right.closed.is_set()

    scene(story)


def test_when_the_connection_breaks_everybody_is_told() -> None:
    async def story() -> None:
        one, two, open_, waiting, late = Served(), Served(), Outcomes(), Outcomes(), Outcomes()
        left, right, joined = await pair(one, two, right=1)
        left.request(GET, 5, open_.done())
        left.request(GET, 5, waiting.done())
        right.request(GET, 5, Outcomes().done())
        await joined.settle()
        left.abort()
        left.request(GET, 5, late.done())
        await joined.settle()
        assert failures(open_) == [Failure.BROKEN]
        assert failures(waiting) == failures(late) == [Failure.REFUSED]
        assert one.hung_up == [one.asked[0].number]
        assert two.hung_up == [two.asked[0].number]
        one.asked[0].respond(ok())
        left.leave()
        assert joined.wires[0].unsent == b""

    scene(story)


def test_on_end_comes_once_and_on_goodbye_before_it() -> None:
    told: list[str] = []

    async def story() -> None:
        left = Link(
            Served(),
            on_hello=lambda _: told.append("hello"),
            on_goodbye=lambda _: told.append("goodbye"),
            on_end=lambda _: told.append("end"),
        )
        right = Link(Served())
        joined = Joined(left, right)
        await joined.settle()
        right.leave()
        await joined.settle()

    scene(story)
    assert told == ["hello", "goodbye", "end"]


# --- time limits ----------------------------------------------------------------------------------------------------------------------


def test_an_end_that_says_no_hello_is_cut_off() -> None:
    async def story() -> None:
        left = Link(Served())
        Joined(left, Raw(None))
        loop = asyncio.get_running_loop()
        await pass_time(HELLO_WITHIN - 1)
        left.sweep(loop.time())
        assert not left._transport.is_closing()
        await pass_time(1)
        left.sweep(loop.time())
        assert left._transport.is_closing()

    scene(story)


@pytest.mark.parametrize("leaving", [False, True])
def test_an_end_that_reads_nothing_is_cut_off(leaving: bool) -> None:
    async def story() -> None:
        served = Served()
        left, right, joined = await pair(served, Served())
        right.request(GET, 500, Outcomes().done())
        await joined.settle()
        loop, mine = asyncio.get_running_loop(), joined.wires[0]
        if leaving:
            left.leave()
            await joined.settle()
        served.asked[0].respond(ok(bytes(3 * HIGH)))
        for _ in range(3):
            await pass_time(STALLED - 1)
            left.sweep(loop.time())
            mine.move(1000)  # slow, but it reads
            left.sweep(loop.time())
        assert mine.unsent
        await pass_time(STALLED + 1)
        left.sweep(loop.time())
        assert not mine.unsent
        assert left._transport.is_closing()

    scene(story)


# --- limits and what is malformed -------------------------------------------------------------------------------------------------------


def test_bodies_over_the_limit() -> None:
    async def story() -> None:
        served, outcomes, back = Served(), Outcomes(), Outcomes()
        left = Link(served, max_body=10)
        right = Link(lambda exchange: exchange.respond(ok(exchange.request.body or b"")))
        joined = Joined(left, right)
        await joined.settle()
        for size in (10, 11):
            right.request(post(bytes(size)), 5, outcomes.done())
            left.request(post(bytes(size)), 5, back.done())
        await joined.settle()
        assert failures(outcomes) == [413]
        assert failures(back) == [200, Failure.TOO_LARGE]
        assert len(served.asked) == 1

    scene(story)


def test_what_fits_into_no_frame_costs_nothing_else() -> None:
    huge = bytes(MAX_BODY + 1)
    many = [(b"x", b"y")] * 700

    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, _, joined = await pair(Served(), served)
        left.request(post(huge), 5, outcomes.done())
        left.request(HttpRequest(b"GET", b"/", many, None), 5, outcomes.done())
        assert failures(outcomes) == [413, 413]
        for _ in range(3):
            left.request(GET, 5, outcomes.done())
        await joined.settle()
        served.asked[0].respond(ok(huge))
        served.asked[1].respond(HttpResponse(200, many, b""))
        served.asked[2].respond(ok(bytes(MAX_BODY)))
        await joined.settle()
        assert failures(outcomes) == [413, 413, Failure.TOO_LARGE, Failure.TOO_LARGE, 200]

    scene(story)


@pytest.mark.parametrize(
    "request_",
    [
        HttpRequest(b"GET", b"http://orders.mesh/", [], None),
        HttpRequest(b"GET", b"*", [], None),
        HttpRequest(b"GET", b"/a b", [], None),
        HttpRequest(b"GET", b"/\r\nX: y", [], None),
        HttpRequest(b"GET", b"/" + b"a" * 9000, [], None),
        HttpRequest(b"GET /", b"/", [], None),
        HttpRequest(b"GET", b"/", [(b"X", b"a\r\nY: b")], None),
        HttpRequest(b"GET", b"/", [(b"X", b"a\x01b")], None),
        HttpRequest(b"GET", b"/", [(b"X: y", b"a")], None),
        HttpRequest(b"GET", b"/", [(b"", b"a")], None),
        HttpRequest(b"GET", b"/", [(b"Host", b"a"), (b"hOST", b"b")], None),
        HttpRequest(b"GET", b"/", [(b"X", bytes(129 * 1024))], None),
        HttpRequest(b"GET", b"/", [(b"X", b"y")] * 530, None),
    ],
)
def test_a_request_that_cannot_be_is_answered_so_and_harms_no_other(request_: HttpRequest) -> None:
    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, _, joined = await pair(Served(), served)
        left.request(request_, 5, outcomes.done())
        await joined.settle()
        assert failures(outcomes) == [400]
        assert served.asked == []
        left.request(GET, 5, outcomes.done())
        await joined.settle()
        assert len(served.asked) == 1

    scene(story)


def test_a_response_that_cannot_be_counts_as_none() -> None:
    async def story() -> None:
        served, outcomes = Served(), Outcomes()
        left, _, joined = await pair(Served(), served)
        for _ in range(3):
            left.request(GET, 5, outcomes.done())
        await joined.settle()
        served.asked[0].respond(HttpResponse(200, [(b"X", b"a\r\nb")], b""))
        served.asked[1].respond(HttpResponse(100, [], b""))
        served.asked[2].respond(ok())
        await joined.settle()
        assert failures(outcomes) == [Failure.BROKEN, Failure.BROKEN, 200]

    scene(story)


BAD = {
    "a frame before HELLO": link.request(1, GET),
    "GOODBYE before HELLO": link.goodbye() + HELLO,
    "HELLO twice": HELLO + HELLO,
    "an id that is open": HELLO + link.request(1, GET) * 2,
    "more than was granted": HELLO + b"".join(link.request(n, GET) for n in range(11)),
    "a negative id": HELLO + link._frame([4, -1]),
    "a huge id": HELLO + link._frame([4, 2**53]),
    "an id that is none": HELLO + link._frame([4, True]),
    "no id": HELLO + link._frame([1]),
    "a frame that is too long": HELLO + b"\xff\xff\xff\xff",
    "a frame that is empty": HELLO + bytes(4),
    "a frame that is no array": HELLO + b"\0\0\0\1\x80",
    "what is not msgpack": HELLO + b"\0\0\0\1\xc1",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_an_end_that_does_not_keep_to_the_protocol_is_cut_off(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        end, raw = Link(Served(), granted=10), Raw(None)
        joined = Joined(end, raw)
        raw.say(data)
        await joined.settle()
        assert end.closed.is_set()
        assert raw.ended

    scene(story)
    assert "the link is given up" in caplog.text


def test_what_is_not_known_is_passed_over() -> None:
    async def story() -> None:
        served, raw = Served(), Raw(None)
        end = Link(served)
        joined = Joined(end, raw)
        raw.say(
            link._frame([77, "of a later version"]),
            link._frame([0, {"requests": 5, "later": [1]}, "more"]),
            link._frame([1, 1, b"GET", b"/", [], None, "more"]),
            link.cancel(99),
            link.response(99, ok()),
            link.pong(99, Pong()),
            link._frame([7, 3, "more"]),
        )
        await joined.settle()
        assert [exchange.number for exchange in served.asked] == [1]
        assert raw.kinds() == [Kind.HELLO, Kind.PONG]
        assert not end.closed.is_set()
        raw.transport.abort()  # type: ignore[attr-defined]
        await joined.settle()

    scene(story)
