"""What meshq.ports.Store promises, over every store there is."""

import asyncio
import random
from collections import Counter

import pytest

from meshq.core.keeping import MAX_ANSWER, MAX_FIELDS, MAX_RESULT, Keeping
from meshq.ports import Once, OnceState, RequestRecord, Store
from tests.contract.store_rigs import LONG, SHORT, StoreRig

NEW, RUNNING, REUSED = Once(OnceState.NEW), Once(OnceState.RUNNING), Once(OnceState.REUSED)


def done(answer: bytes) -> Once:
    return Once(OnceState.DONE, answer)


def not_kept(status: int) -> Once:
    return Once(OnceState.NOT_KEPT, status=status)


async def claim(store: Store, owner: str, scope: str = "k", digest: str = "d", lease: float = LONG) -> Once:
    return await store.once("orders", scope, digest, owner, lease)


async def answered(store: Store, owner: str, answer: bytes = b"yes", scope: str = "k", window: float = LONG) -> None:
    await store.done("orders", scope, owner, answer, 200, window)


# --- once per key -----------------------------------------------------------------------------------------------------------


async def test_the_first_handles_it_and_the_others_get_its_answer(stores: StoreRig) -> None:
    a, b = await stores.connect(), await stores.connect()
    assert await claim(a, "a") == NEW
    assert await claim(b, "b") == RUNNING
    await answered(a, "a", b"\x00\xff the answer")
    assert [await claim(store, owner) for store, owner in ((a, "a"), (b, "b"))] == [done(b"\x00\xff the answer")] * 2


async def test_services_and_keys_are_apart(stores: StoreRig) -> None:
    store = await stores.connect()
    assert await claim(store, "a", "k1") == NEW
    assert await claim(store, "b", "k2") == NEW
    assert await store.once("billing", "k1", "d", "b", LONG) == NEW


async def test_a_claim_is_its_owners_to_renew(stores: StoreRig) -> None:
    store = await stores.connect()
    assert await claim(store, "a", lease=SHORT) == NEW
    assert await claim(store, "a", lease=LONG) == NEW
    await stores.advance(2 * SHORT)
    assert await claim(store, "b") == RUNNING


async def test_a_claim_whose_lease_ran_out_is_the_next_ones(stores: StoreRig) -> None:
    store = await stores.connect()
    assert await claim(store, "a", lease=SHORT) == NEW
    await stores.advance(2 * SHORT)
    assert await claim(store, "b") == NEW
    # Who had it before is late: it changes nothing.
    await answered(store, "a", b"late")
    await store.free("orders", "k", "a")
    assert await claim(store, "c") == RUNNING
    await answered(store, "b", b"in time")
    assert await claim(store, "c") == done(b"in time")


async def test_an_answer_without_a_claim_is_nothing(stores: StoreRig) -> None:
    store = await stores.connect()
    await answered(store, "a")
    await store.free("orders", "k", "a")
    assert await claim(store, "b") == NEW


async def test_the_first_answer_stays(stores: StoreRig) -> None:
    store = await stores.connect()
    await claim(store, "a")
    await answered(store, "a", b"first")
    await answered(store, "a", b"second")
    await store.free("orders", "k", "a")
    assert await claim(store, "a") == done(b"first")


async def test_what_was_freed_is_the_next_ones(stores: StoreRig) -> None:
    store = await stores.connect()
    await claim(store, "a")
    await store.free("orders", "k", "b")
    assert await claim(store, "b") == RUNNING
    await store.free("orders", "k", "a")
    assert await claim(store, "b", digest="another") == NEW


async def test_another_body_is_refused_while_it_runs_and_after(stores: StoreRig) -> None:
    store = await stores.connect()
    await claim(store, "a")
    assert await claim(store, "b", digest="e") == REUSED
    assert await claim(store, "a", digest="e") == REUSED
    await answered(store, "a")
    assert await claim(store, "b", digest="e") == REUSED
    assert await claim(store, "b") == done(b"yes")


async def test_after_its_window_a_key_is_new(stores: StoreRig) -> None:
    store = await stores.connect()
    await claim(store, "a", lease=SHORT)
    await answered(store, "a", window=2 * SHORT)
    await stores.advance(3 * SHORT)
    assert await claim(store, "b", digest="another") == NEW


@pytest.mark.parametrize("size", [0, MAX_ANSWER + MAX_FIELDS + 1])
async def test_of_an_answer_that_cannot_be_kept_the_status_is(stores: StoreRig, size: int) -> None:
    store = await stores.connect()
    await claim(store, "a")
    await store.done("orders", "k", "a", bytes(size), 201, LONG)
    assert await claim(store, "b") == not_kept(201)
    assert await claim(store, "b", digest="e") == REUSED


async def test_the_largest_answer_is_kept(stores: StoreRig) -> None:
    store = await stores.connect()
    largest = random.Random(1).randbytes(MAX_ANSWER + MAX_FIELDS)
    await claim(store, "a")
    await answered(store, "a", largest)
    assert await claim(store, "b") == done(largest)


async def test_without_room_only_the_status_is_kept(stores: StoreRig) -> None:
    stores.keeping = Keeping(room=1000)
    a, b = await stores.connect(), await stores.connect()
    for scope in ("k1", "k2", "k3"):
        await claim(a, "a", scope)
        await answered(a, "a", bytes(400), scope)
    seen = [await claim(b, "b", scope) for scope in ("k1", "k2", "k3")]
    assert seen == [done(bytes(400)), done(bytes(400)), not_kept(200)]
    await b.completed("shop", "r1", "orders", bytes(400), 200)
    assert await b.request("shop", "r1") == RequestRecord(None, "orders", status=200)
    await b.completed("shop", "r2", "orders", bytes(150), 200)
    assert await b.request("shop", "r2") == RequestRecord(bytes(150), "orders")


async def test_what_was_not_stored_takes_no_room(stores: StoreRig) -> None:
    stores.keeping = Keeping(room=1000)
    store = await stores.connect()
    for _ in range(5):
        await answered(store, "nobody", bytes(900))
        await store.completed("shop", "r", "orders", bytes(500), 200)
    await claim(store, "a")
    await answered(store, "a", bytes(500))
    assert await claim(store, "b") == done(bytes(500))


async def test_of_two_hundred_at_once_one_handles_it(stores: StoreRig) -> None:
    clients = [await stores.connect() for _ in range(4)]
    seen = await asyncio.gather(*(claim(clients[n % 4], f"owner-{n}") for n in range(200)))
    assert Counter(seen) == {NEW: 1, RUNNING: 199}


async def test_on_one_key_what_is_asked_at_once_happens_in_order(stores: StoreRig) -> None:
    store = await stores.connect()
    await claim(store, "a", "first")
    await store.free("orders", "first", "a")  # now Redis knows these scripts
    seen = await asyncio.gather(
        store.free("orders", "another", "a"),
        claim(store, "a"),
        store.free("orders", "k", "a"),
        claim(store, "b"),
    )
    assert seen == [None, NEW, None, NEW]


# --- durable calls ------------------------------------------------------------------------------------------------------------


async def test_a_call_is_known_from_when_it_is_accepted(stores: StoreRig) -> None:
    a, b = await stores.connect(), await stores.connect()
    await a.accepted("shop", "orders", ["r1", "r2"], LONG)
    await a.accepted("shop", "orders", [], LONG)
    assert await b.request("shop", "r1") == await b.request("shop", "r2") == RequestRecord(None, "orders")
    assert await b.request("shop", "r3") is None
    assert await b.request("other", "r1") is None, "only the caller's own service may see it"


async def test_a_call_without_a_result_is_forgotten_in_the_end(stores: StoreRig) -> None:
    store = await stores.connect()
    await store.accepted("shop", "orders", ["r1"], SHORT)
    await stores.advance(2 * SHORT)
    assert await store.request("shop", "r1") is None


async def test_a_result_is_there_for_every_instance_of_the_caller(stores: StoreRig) -> None:
    a, b = await stores.connect(), await stores.connect()
    await a.accepted("shop", "orders", ["r1"], SHORT)
    await a.completed("shop", "r1", "orders", b"\x00result", 200)
    await stores.advance(2 * SHORT)
    assert await b.request("shop", "r1") == RequestRecord(b"\x00result", "orders")
    assert await b.request("other", "r1") is None


async def test_a_result_may_be_quicker_than_the_mark_that_it_was_accepted(stores: StoreRig) -> None:
    store = await stores.connect()
    await store.completed("shop", "r1", "orders", b"result", 200)
    await store.accepted("shop", "orders", ["r1"], SHORT)
    await stores.advance(2 * SHORT)
    assert await store.request("shop", "r1") == RequestRecord(b"result", "orders")


async def test_the_first_result_stays(stores: StoreRig) -> None:
    store = await stores.connect()
    await store.completed("shop", "r1", "orders", b"first", 200)
    await store.completed("shop", "r1", "orders", b"second", 500)
    assert await store.request("shop", "r1") == RequestRecord(b"first", "orders")
    await store.completed("shop", "r2", "orders", b"", 204)
    await store.completed("shop", "r2", "orders", b"second", 500)
    assert await store.request("shop", "r2") == RequestRecord(None, "orders", status=204)


async def test_a_result_expires_and_that_there_was_one_later(stores: StoreRig) -> None:
    stores.keeping = Keeping(result=SHORT, tombstone=LONG)
    store = await stores.connect()
    await store.completed("shop", "r1", "orders", b"result", 200)
    await store.completed("shop", "r2", "orders", b"", 200)
    await stores.advance(2 * SHORT)
    gone = RequestRecord(None, "orders", expired=True)
    assert await store.request("shop", "r1") == await store.request("shop", "r2") == gone
    await store.completed("shop", "r1", "orders", b"again", 200)
    assert await store.request("shop", "r1") == gone


async def test_in_the_end_nothing_is_known_of_a_call(stores: StoreRig) -> None:
    stores.keeping = Keeping(result=SHORT, tombstone=SHORT)
    store = await stores.connect()
    await store.completed("shop", "r1", "orders", b"result", 200)
    await stores.advance(3 * SHORT)
    assert await store.request("shop", "r1") is None


async def test_beyond_the_bound_nothing_is_known_after_the_result(stores: StoreRig) -> None:
    stores.keeping = Keeping(result=SHORT, tombstone=LONG, tombstones=2)
    store = await stores.connect()
    for n in range(3):
        await store.completed("shop", f"r{n}", "orders", b"result", 200)
    await stores.advance(2 * SHORT)
    seen = [await store.request("shop", f"r{n}") for n in range(3)]
    assert seen == [RequestRecord(None, "orders", expired=True)] * 2 + [None]


async def test_the_largest_result_is_kept_and_of_a_larger_one_the_status(stores: StoreRig) -> None:
    store = await stores.connect()
    largest = random.Random(1).randbytes(MAX_RESULT + MAX_FIELDS)
    await store.completed("shop", "r1", "orders", largest, 200)
    await store.completed("shop", "r2", "orders", largest + b"x", 201)
    assert await store.request("shop", "r1") == RequestRecord(largest, "orders")
    assert await store.request("shop", "r2") == RequestRecord(None, "orders", status=201)


# --- started or cancelled -------------------------------------------------------------------------------------------------------


async def test_what_has_started_cannot_be_cancelled(stores: StoreRig) -> None:
    a, b = await stores.connect(), await stores.connect()
    assert await a.start("orders", ["r1", "r2"]) == [True, True]
    assert await b.cancel("orders", "r1") is False
    assert await b.start("orders", ["r1"]) == [True], "another attempt"


async def test_what_was_cancelled_does_not_start(stores: StoreRig) -> None:
    a, b = await stores.connect(), await stores.connect()
    assert await a.cancel("orders", "r2") is True
    assert await a.cancel("orders", "r2") is True
    assert await b.start("orders", ["r1", "r2", "r3"]) == [True, False, True]
    assert await b.start("orders", ["r2"]) == [False]
    assert await b.start("billing", ["r2"]) == [True]
    assert await b.start("orders", []) == []


async def test_either_it_starts_or_it_is_cancelled(stores: StoreRig) -> None:
    a, b = await stores.connect(), await stores.connect()
    ids = [f"r{n}" for n in range(200)]
    cancels = asyncio.gather(*(b.cancel("orders", ident) for ident in ids))
    starts = [started for at in range(0, 200, 20) for started in await a.start("orders", ids[at : at + 20])]
    assert starts == [not cancelled for cancelled in await cancels]


async def test_a_mark_of_a_start_ends_soon_after_the_result(stores: StoreRig) -> None:
    stores.keeping = Keeping(settled=SHORT)
    store = await stores.connect()
    await store.start("orders", ["r1", "r2"])
    await store.cancel("orders", "r3")
    for ident in ("r1", "r3"):
        await store.completed("shop", ident, "orders", b"result", 200)
    await stores.advance(2 * SHORT)
    assert await store.cancel("orders", "r1") is True, "whoever cancels looks for a result first"
    assert await store.cancel("orders", "r2") is False
    assert await store.start("orders", ["r3"]) == [False]


async def test_marks_end(stores: StoreRig) -> None:
    stores.keeping = Keeping(started=SHORT, cancelled=SHORT)
    store = await stores.connect()
    await store.start("orders", ["r1"])
    await store.cancel("orders", "r2")
    await stores.advance(2 * SHORT)
    assert await store.cancel("orders", "r1") is True
    assert await store.start("orders", ["r2"]) == [True]


# --- logs -------------------------------------------------------------------------------------------------------------------


async def test_one_leads_and_another_when_its_time_is_over(stores: StoreRig) -> None:
    a, b = await stores.connect(), await stores.connect()
    assert await a.lead("copy", "a", SHORT) is True
    assert await a.lead("copy", "a", LONG) is True
    assert await b.lead("other", "b", LONG) is True
    await stores.advance(2 * SHORT)
    assert await b.lead("copy", "b", LONG) is False
    assert await a.lead("copy", "a", SHORT) is True
    await stores.advance(2 * SHORT)
    assert await b.lead("copy", "b", LONG) is True
    assert await a.lead("copy", "a", LONG) is False


async def test_of_many_one_leads(stores: StoreRig) -> None:
    store = await stores.connect()
    assert sum(await asyncio.gather(*(store.lead("copy", f"o{n}", LONG) for n in range(50)))) == 1


async def test_an_offset_is_the_last_that_was_put(stores: StoreRig) -> None:
    a, b = await stores.connect(), await stores.connect()
    assert await a.offset("copy") is None
    for offset in (0, 2**62, -5, 7):
        await a.put_offset("copy", offset)
        assert await b.offset("copy") == offset
    assert await b.offset("other") is None


# --- against a model ----------------------------------------------------------------------------------------------------------


class Model:
    """What a store says while no time passes, in as few words as possible."""

    def __init__(self) -> None:
        self.keys: dict[str, list[object]] = {}  # digest, owner, what is known
        self.calls: dict[str, RequestRecord] = {}
        self.marks: dict[str, bool] = {}

    def once(self, scope: str, digest: str, owner: str) -> Once:
        known = self.keys.setdefault(scope, [digest, owner, NEW])
        if known[0] != digest:
            return REUSED
        if known[2] is NEW:
            return NEW if known[1] == owner else RUNNING
        assert isinstance(known[2], Once)
        return known[2]

    def done(self, scope: str, owner: str, answer: bytes) -> None:
        known = self.keys.get(scope)
        if known is not None and known[1:] == [owner, NEW]:
            known[2] = done(answer) if answer else not_kept(200)

    def free(self, scope: str, owner: str) -> None:
        known = self.keys.get(scope)
        if known is not None and known[1:] == [owner, NEW]:
            del self.keys[scope]

    def accepted(self, ident: str) -> None:
        self.calls.setdefault(ident, RequestRecord(None, "orders"))

    def completed(self, ident: str, result: bytes) -> None:
        known = self.calls.get(ident)
        if known is None or known == RequestRecord(None, "orders"):
            kept = RequestRecord(result, "orders") if result else RequestRecord(None, "orders", status=200)
            self.calls[ident] = kept

    def start(self, ident: str) -> bool:
        return self.marks.setdefault(ident, True)

    def cancel(self, ident: str) -> bool:
        return not self.marks.setdefault(ident, False)


@pytest.mark.parametrize("seed", range(3))
async def test_it_does_what_the_model_does(stores: StoreRig, seed: int) -> None:
    chance = random.Random(seed)
    clients = [await stores.connect() for _ in range(3)]
    model = Model()
    for step in range(400):
        store, scope, owner = chance.choice(clients), chance.choice("pqr"), chance.choice("ab")
        ident, content = f"r{chance.randrange(8)}", chance.choice([b"", b"%d" % step])
        action = chance.choice(["once"] * 3 + ["done", "free", "accepted", "completed", "request", "start", "cancel"])
        match action:
            case "once":
                digest = chance.choice("ddde")
                said: object = await claim(store, owner, scope, digest)
                expected: object = model.once(scope, digest, owner)
            case "done":
                said = await answered(store, owner, content, scope)
                expected = model.done(scope, owner, content)
            case "free":
                said, expected = await store.free("orders", scope, owner), model.free(scope, owner)
            case "accepted":
                said, expected = await store.accepted("shop", "orders", [ident], LONG), model.accepted(ident)
            case "completed":
                said = await store.completed("shop", ident, "orders", content, 200)
                expected = model.completed(ident, content)
            case "request":
                said, expected = await store.request("shop", ident), model.calls.get(ident)
            case "start":
                said, expected = await store.start("orders", [ident]), [model.start(ident)]
            case _:
                said, expected = await store.cancel("orders", ident), model.cancel(ident)
        assert said == expected, f"step {step}: {action} {scope} {owner} {ident}"
