"""From the spool to the broker: what is sent when, what is sent again, what is given up. The broker says what the test wants."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from meshq.adapters.clock import ManualClock
from meshq.adapters.spool import DiskSpool
from meshq.core import dead, topology
from meshq.core.message import DeadLetter, Request, decode, encode_request
from meshq.core.topology import CALLS, DEAD, EVENTS
from meshq.ports import Publication, Published, Spooled
from meshq_sidecar import spooling, spooling_patience
from meshq_sidecar.spooling import SpoolForwarder
from tests.contract.broker_rigs import Recorder
from tests.doubles import Counted, until
from tests.spools import NOW_MS, appended, ids, left, life, publication, taken
from tests.told_broker import ToldBroker

WORK = "orders.v1.work"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE", "FIRST_LOOK", "LONGEST_LOOK"):
        monkeypatch.setattr(spooling_patience, name, 0.002)


class Scene:
    """A forwarder between a real spool and a broker that is told."""

    def __init__(self, spool: DiskSpool) -> None:
        self.spool = spool
        self.broker = ToldBroker()
        self.metrics = Counted()
        clock = ManualClock(mesh_ms=NOW_MS)
        self.forwarder = SpoolForwarder(spool, self.broker, clock, self.metrics, "shop.v3", "shop/3.1.0/s-1")  # type: ignore[arg-type]

    async def accept(self, *publications: Publication) -> None:
        fates = Recorder[Spooled]()
        for each in publications:
            self.forwarder.accept(each, fates)
        assert await fates.count(len(publications)) == [Spooled.WRITTEN] * len(publications)

    async def asked(self, count: int) -> list[str]:
        """Message ids of what the broker was given and has not answered, once there are so many."""
        await until(lambda: len(self.broker.asked) >= count)
        return [p.message_id for p, _ in self.broker.asked]

    async def say(self, *fates: Published) -> None:
        """One after the other, each as soon as there is something to say it to."""
        for fate in fates:
            await until(lambda: self.broker.asked)
            self.broker.say(fate)

    @property
    def letters(self) -> list[DeadLetter]:
        """The dead letters among what the broker has not answered."""
        found = [decode(p.body)[0] for p, _ in self.broker.asked if p.exchange == DEAD]
        return [letter for letter in found if isinstance(letter, DeadLetter)]


def play(directory: Path, story: Callable[[Scene], Awaitable[None]]) -> None:
    async def told(spool: DiskSpool) -> None:
        scene = Scene(spool)
        await story(scene)
        await scene.forwarder.close(0)

    life(directory, told)


def to(key: str, number: int, exchange: str = CALLS) -> Publication:
    return publication(number)._replace(exchange=exchange, key=key)


def keyed(number: int, key: str, exchange: str = CALLS, routing: str = "orders.v1.key.3") -> Publication:
    request = Request(f"m{number}", "POST", b"/", [], b"x", "shop", accepted_ms=1, key=key)
    return Publication(exchange, routing, encode_request(request), f"m{number}", "call")


C, R, N, A, F, U = (
    Published.CONFIRMED,
    Published.REFUSED,
    Published.UNKNOWN,
    Published.AWAY,
    Published.FULL,
    Published.UNROUTABLE,
)


# --- the good case ----------------------------------------------------------------------------------------------------------


def test_what_is_accepted_goes_on_in_order_and_leaves_the_disk_when_it_is_confirmed(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        assert scene.forwarder.idle
        await scene.accept(*map(publication, range(5)))
        assert not scene.forwarder.idle
        assert await scene.asked(5) == ["m0", "m1", "m2", "m3", "m4"]
        assert [p for p, _ in scene.broker.asked] == list(map(publication, range(5)))
        assert scene.spool.waiting == 5
        await scene.say(C, C, C)
        assert scene.spool.waiting == 2
        await scene.say(C, C)
        assert scene.forwarder.idle

    play(tmp_path, story)
    assert left(tmp_path) == []


def test_it_is_not_idle_while_something_is_on_its_way_to_the_disk(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.broker.at_once = C
        fates = Recorder[Spooled]()
        scene.forwarder.accept(publication(1), fates)
        assert not scene.forwarder.idle
        await fates.count(1)
        await until(lambda: scene.forwarder.idle)

    play(tmp_path, story)


def test_what_the_spool_does_not_take_is_said_and_not_sent(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        fates = Recorder[Spooled]()
        scene.forwarder.accept(publication(1, bytes(100_000)), fates)
        assert await fates.count(1) == [Spooled.FULL]
        assert scene.forwarder.idle

    async def small(spool: DiskSpool) -> None:
        await story(Scene(spool))

    life(tmp_path, small, limit=50_000)


def test_no_more_than_a_window_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "WINDOW", 3)
    monkeypatch.setattr(spooling, "TURN", 2)

    async def story(scene: Scene) -> None:
        await scene.accept(*map(publication, range(10)))
        assert await scene.asked(3) == ["m0", "m1", "m2"]
        await scene.say(C)
        assert await scene.asked(3) == ["m1", "m2", "m3"]
        await scene.say(*[C] * 9)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_no_more_than_so_many_bytes_are_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "WINDOW_BYTES", 1500)

    async def story(scene: Scene) -> None:
        await scene.accept(*(publication(n, bytes(1000)) for n in range(5)))
        assert await scene.asked(2) == ["m0", "m1"]
        await scene.say(*[C] * 5)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_a_broker_that_confirms_at_once_is_given_everything_in_turns(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await appended(scene.spool, *map(publication, range(2000)))
        scene.broker.at_once = C
        scene.forwarder.start()
        assert 0 < scene.spool.waiting < 2000, "a turn at a time"
        await until(lambda: scene.forwarder.idle)

    play(tmp_path, story)


# --- away -------------------------------------------------------------------------------------------------------------------


def test_what_an_earlier_process_left_goes_when_the_broker_comes(tmp_path: Path) -> None:
    async def first(scene: Scene) -> None:
        scene.broker.tell(False)
        await scene.accept(*map(publication, range(3)))

    async def second(scene: Scene) -> None:
        scene.broker.tell(False)
        scene.forwarder.start()
        await scene.accept(publication(3))
        scene.broker.tell(True)
        assert await scene.asked(4) == ["m0", "m1", "m2", "m3"]
        await scene.say(C, C, C, C)

    play(tmp_path, first)
    play(tmp_path, second)
    assert left(tmp_path) == []


def test_it_finds_out_by_itself_that_the_broker_takes_messages_again(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.broker.at_once = F
        await scene.accept(*map(publication, range(3)))
        scene.broker.at_once = C  # and nobody says so
        await until(lambda: scene.forwarder.idle)

    play(tmp_path, story)


@pytest.mark.parametrize("not_sent", [A, F])
def test_what_was_not_sent_keeps_its_place(tmp_path: Path, not_sent: Published) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(*map(publication, range(2)))
        scene.broker.at_once = not_sent
        await scene.accept(*map(publication, range(2, 5)))
        scene.broker.at_once = None
        assert await scene.asked(2) == ["m0", "m1"]
        await scene.say(C)
        assert await scene.asked(4) == ["m1", "m2", "m3", "m4"]
        await scene.say(C, C, C, C)
        assert scene.forwarder.idle

    play(tmp_path, story)


# --- failures ---------------------------------------------------------------------------------------------------------------


def test_after_a_lost_connection_all_that_is_unknown_is_sent_again_in_order(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(*map(publication, range(9)))
        await scene.asked(9)
        await scene.say(C, C, N, N, N, N, N, N)
        assert len(scene.broker.asked) == 1, "nothing before all are settled"
        await scene.say(N)
        assert await scene.asked(1) == ["m2"], "alone: it may be the reason"
        await scene.say(C)
        assert await scene.asked(2) == ["m3", "m4"], "for each that is confirmed one more at once"
        await scene.say(C)
        assert await scene.asked(3) == ["m4", "m5", "m6"]
        await scene.say(C)
        assert await scene.asked(4) == ["m5", "m6", "m7", "m8"]
        await scene.say(C, C, C, C)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_a_refusal_is_tried_again_before_what_comes_after_it(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(*map(publication, range(4)))
        await scene.asked(4)
        await scene.say(C, R, C, C)
        await scene.accept(publication(4))
        assert await scene.asked(1) == ["m1"]
        assert "the broker does not take a message for orders.v1.work" in scene.forwarder.fault
        await scene.say(C)
        assert scene.forwarder.fault == ""
        assert await scene.asked(1) == ["m4"]
        await scene.say(C)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_of_one_ordering_key_one_is_under_way_and_other_keys_go_on(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        event = ("meshq.events", "paid.v1.0")
        await scene.accept(
            keyed(0, "a"), keyed(1, "b"), keyed(2, "a", *event), keyed(3, "", *event), keyed(4, "a"), keyed(5, "c")
        )
        assert await scene.asked(4) == ["m0", "m1", "m2", "m3"], "m4 waits for m0, and what is behind it too"
        await scene.say(R)
        assert len(scene.broker.asked) == 3
        await scene.say(C, C, C)
        assert await scene.asked(1) == ["m0"]
        await scene.say(C, C, C)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_ten_refusals_make_a_dead_letter_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(to("bad", 0), to(WORK, 1))
        await scene.asked(2)
        await scene.say(R, C)
        for _ in range(9):
            assert await scene.asked(1) == ["m0"]
            assert not scene.letters
            await scene.say(R)
        await scene.asked(1)
        (letter,) = scene.letters
        burial = scene.broker.asked[0][0]
        assert (burial.key, burial.kind, burial.message_id) == (topology.dead_queue("shop.v3"), "dead", "m0")
        assert (letter.id, letter.reason, letter.queue, letter.body) == ("m0", dead.UNSENDABLE, "bad", b"body 0")
        assert (letter.instance, letter.sender, letter.at_ms) == ("shop/3.1.0/s-1", "shop", NOW_MS)
        assert "the broker refuses it" in letter.detail
        assert scene.spool.waiting == 1, "on the disk until the dead letter is confirmed"
        await scene.say(C)
        assert scene.forwarder.idle
        assert scene.metrics.events == {f"dead_lettered:{dead.UNSENDABLE}": 1}

    play(tmp_path, story)
    assert left(tmp_path) == []


def test_what_no_queue_takes_gets_five_tries(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(to("nowhere.v1.work", 0))
        await scene.say(U, U, U, U)
        assert await scene.asked(1) == ["m0"]
        assert not scene.letters
        await scene.say(U)
        await until(lambda: scene.letters)
        assert "no queue takes it" in scene.letters[0].detail
        await scene.say(C)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_a_hopeless_destination_gets_one_try_a_message_until_it_takes_one(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(to("bad", 0))
        await scene.say(*[R] * 10, C)
        await scene.accept(to("bad", 1))
        await scene.say(R)  # in a full window: which one it is shows when it is alone
        await scene.say(R)
        await until(lambda: scene.letters)
        await scene.say(C)
        await scene.accept(to("bad", 2))
        await scene.say(C)
        await scene.accept(to("bad", 3))
        await scene.say(R, R)
        assert await scene.asked(1) == ["m3"]
        assert not scene.letters, "it took one: the count began anew"

    play(tmp_path, story)


def test_refusals_of_one_window_count_once(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(*map(publication, range(20)))
        await scene.asked(20)
        await scene.say(*[R] * 20)
        await scene.say(R)  # alone
        assert await scene.asked(1) == ["m0"]
        assert not scene.letters
        await scene.say(*[C] * 20)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_a_message_that_breaks_the_channel_is_found_and_costs_the_others_nothing(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(to(WORK, 0), to("forbidden", 1), to(WORK, 2))
        await scene.asked(3)
        await scene.say(C, N, N)
        for _ in range(30):
            assert await scene.asked(1) == ["m1"], "alone"
            assert not scene.letters
            await scene.say(N)
        await until(lambda: scene.letters)
        assert scene.letters[0].id == "m1"
        assert "closes the channel" in scene.letters[0].detail
        await scene.say(C)
        assert await scene.asked(1) == ["m2"]
        await scene.say(C)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_a_message_that_breaks_the_channel_is_found_wherever_it_is(tmp_path: Path) -> None:
    """A broker that closes its channel over one message in two hundred, and takes with it all that are under way."""

    async def story(scene: Scene) -> None:
        took: list[str] = []
        await scene.accept(*(to("forbidden" if n == 137 else WORK, n) for n in range(200)))
        while not scene.forwarder.idle:
            await until(lambda: scene.broker.asked)
            window, scene.broker.asked = scene.broker.asked, []
            closed = False
            for sent, done in window:
                closed = closed or sent.key == "forbidden"
                if not closed:
                    took.append(sent.message_id)
                done(N if closed else C)
        burial = topology.dead_queue("shop.v3")
        assert scene.metrics.events == {f"dead_lettered:{dead.UNSENDABLE}": 1}
        assert [ident for ident in took if ident != "m137"] == [f"m{n}" for n in range(200) if n != 137]
        assert took.count("m137") == 1, f"its letter in {burial}"

    play(tmp_path, story)


def test_a_message_that_cannot_be_encoded_goes_to_the_dead_letters(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        publish = scene.broker.publish

        def picky(given: Publication, done: Callable[[Published], None]) -> None:
            if len(given.key) > 255:
                raise ValueError("a short string has at most 255 bytes")
            publish(given, done)

        scene.broker.publish = picky  # type: ignore[method-assign]
        await scene.accept(to(WORK, 0), to("x" * 300, 1), to(WORK, 2))
        await scene.asked(3)
        assert [p.message_id for p, _ in scene.broker.asked] == ["m0", "m1", "m2"]
        assert "at most 255 bytes" in scene.letters[0].detail
        await scene.say(C, C, C)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_a_dead_letter_that_is_not_confirmed_leaves_the_message_where_it_is(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(to("nowhere.v1.work", 0))
        await scene.say(*[U] * 5)
        await until(lambda: scene.letters)
        await scene.say(N)
        assert await scene.asked(1) == ["m0"]
        assert not scene.letters, "the message itself is tried first: perhaps it goes now"
        await scene.say(C)
        assert scene.forwarder.idle
        assert not scene.metrics.events

    play(tmp_path, story)


def test_what_not_even_the_dead_letters_take_stays_on_the_disk_and_holds_up_nobody(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(to("nowhere.v1.work", 0), to(WORK, 1))
        await scene.asked(2)
        await scene.say(U, C)
        await scene.say(*[U] * 4)
        for _ in range(5):
            await until(lambda: scene.letters)
            await scene.say(U)
            if not scene.forwarder.idle:
                assert await scene.asked(1) == ["m0"]
                await scene.say(U)
        assert scene.forwarder.idle, "what comes may go directly"
        assert "messages stay in the spool" in scene.forwarder.fault
        assert topology.dead_queue("shop.v3") in scene.forwarder.fault
        await scene.accept(to(WORK, 2))
        assert await scene.asked(1) == ["m2"]
        await scene.say(C)
        assert scene.spool.waiting == 1

    play(tmp_path, story)
    assert left(tmp_path) == [0]


def test_an_event_without_subscribers_is_counted_and_gone(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(to("paid.v1.0", 0, EVENTS), to(WORK, 1))
        await scene.asked(2)
        await scene.say(U, C)
        assert scene.forwarder.idle
        assert scene.metrics.events == {"event_unrouted": 1}
        assert scene.forwarder.fault == ""

    play(tmp_path, story)


def test_destinations_counted_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling_patience, "MAX_DESTINATIONS", 2)

    async def story(scene: Scene) -> None:
        for number in range(5):
            await scene.accept(to(f"nowhere{number}.v1.work", number))
            await scene.say(*[U] * 5, C)
        assert len(scene.forwarder._refusals) == 2

    play(tmp_path, story)


# --- the end ----------------------------------------------------------------------------------------------------------------


def test_closing_empties_what_it_can(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(*map(publication, range(4)))
        closing = asyncio.ensure_future(scene.forwarder.close(20))
        await scene.say(C, C, C, C)
        await closing
        assert scene.spool.waiting == 0

    play(tmp_path, story)


def test_what_is_not_confirmed_in_time_stays_and_nothing_is_sent_after_that(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(*map(publication, range(4)))
        await scene.asked(4)
        await scene.say(C)
        await scene.forwarder.close(0.01)
        await scene.say(C, N, N)  # too late for the closing, not for the disk
        await scene.accept(publication(4))
        scene.broker.tell(True)
        assert not scene.broker.asked
        assert scene.spool.waiting == 3

    play(tmp_path, story)
    assert left(tmp_path) == [2, 3, 4]


def test_a_spool_that_is_only_taken_from_by_the_forwarder_is_not_disturbed_by_a_callback_that_raises(
    tmp_path: Path,
) -> None:
    async def story(scene: Scene) -> None:
        def bad(_: Spooled) -> None:
            raise RuntimeError("from the test")

        scene.forwarder.accept(publication(0), bad)
        assert await scene.asked(1) == ["m0"]
        await scene.say(C)
        assert scene.forwarder.idle
        assert ids(taken(scene.spool)) == []

    play(tmp_path, story)


def test_a_dead_letter_that_cannot_be_sent_now_is_sent_when_the_broker_is_back(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(to("forbidden", 0))
        for _ in range(30):  # the first of them was not known to be alone
            await scene.say(N)
        await scene.asked(1)
        scene.broker.tell(False)  # it closed the channel over this message, once more
        await scene.say(N)
        scene.broker.tell(True)
        await until(lambda: scene.letters)
        await scene.say(C)
        assert scene.forwarder.idle

    play(tmp_path, story)


def test_dead_letters_that_are_taken_again_get_all_their_tries_the_next_time(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(to("nowhere.v1.work", 0))
        await scene.say(*[U] * 5)
        await scene.say(U, U)  # its dead letter, and then itself again
        await until(lambda: scene.letters)
        await scene.say(C)
        await scene.accept(to("elsewhere.v1.work", 1))
        await scene.say(*[U] * 5)
        for _ in range(4):
            await until(lambda: scene.letters)
            await scene.say(U, U)
        await until(lambda: scene.letters)
        await scene.say(C)
        assert scene.spool.waiting == 0

    play(tmp_path, story)


def test_a_broker_that_is_only_away_is_no_fault_of_a_message(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.accept(*map(publication, range(3)))
        await scene.asked(3)
        scene.broker.tell(False)
        await scene.say(N, N, N)
        assert scene.forwarder.fault == ""
        await until(lambda: scene.forwarder._looks)
        assert scene.forwarder.fault == ""
        scene.broker.tell(True)
        await scene.say(C, C, C)
        assert scene.forwarder.idle

    play(tmp_path, story)
