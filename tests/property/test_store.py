"""The embedded store against a model in which time passes; over the others the contract suite has one without."""

from collections.abc import Coroutine
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.core.keeping import Keeping
from meshq.ports import Once, OnceState, RequestRecord

KEEPING = Keeping(room=10, result=4.0, tombstone=6.0, tombstones=2, started=5.0, settled=2.0, cancelled=8.0)
LEASE, WINDOW, ACCEPTED, LEAD = 3.0, 7.0, 9.0, 2.0


class Kept(NamedTuple):
    """A value in the model, until a time. `size` counts against the room, `tombstone` against their number."""

    value: Any
    until: float
    size: int = 0
    tombstone: bool = False


class Model:
    """Everything in one dictionary; what has ended is looked for everywhere, every time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.kept: dict[tuple[str, str], Kept] = {}

    def get(self, kind: str, name: str) -> Any:
        self.kept = {k: kept for k, kept in self.kept.items() if kept.until > self.now}
        return self.kept[kind, name].value if (kind, name) in self.kept else None

    def put(self, kind: str, name: str, value: Any, seconds: float, size: int = 0, tombstone: bool = False) -> None:
        self.kept[kind, name] = Kept(value, self.now + seconds, size, tombstone)

    def fits(self, content: bytes) -> bool:
        return bool(content) and sum(kept.size for kept in self.kept.values()) + len(content) <= KEEPING.room

    def once(self, scope: str, digest: str, owner: str) -> Once:
        known = self.get("once", scope)
        if known is None or known == (digest, owner, None):
            self.put("once", scope, (digest, owner, None), LEASE)
            return Once(OnceState.NEW)
        if known[0] != digest:
            return Once(OnceState.REUSED)
        answer: Once | None = known[2]
        return answer or Once(OnceState.RUNNING)

    def done(self, scope: str, owner: str, content: bytes) -> None:
        known = self.get("once", scope)
        if known is not None and known[1:] == (owner, None):
            fits = self.fits(content)
            answer = Once(OnceState.DONE, content) if fits else Once(OnceState.NOT_KEPT, status=200)
            self.put("once", scope, (known[0], "", answer), WINDOW, len(content) * fits)

    def free(self, scope: str, owner: str) -> None:
        known = self.get("once", scope)
        if known is not None and known[1:] == (owner, None):
            del self.kept["once", scope]

    def accepted(self, ident: str) -> None:
        if self.get("call", ident) is None:
            self.put("call", ident, RequestRecord(None, "o"), ACCEPTED)

    def completed(self, ident: str, content: bytes) -> None:
        known = self.get("call", ident)
        if known is None or known == RequestRecord(None, "o"):
            if self.fits(content):
                self.put("result", ident, content, KEEPING.result, len(content))
            self.put("over", ident, True, KEEPING.result)
            more = sum(kept.tombstone for kept in self.kept.values()) < KEEPING.tombstones
            seconds = KEEPING.result + KEEPING.tombstone * more
            self.put("call", ident, "completed", seconds, tombstone=more)
        if self.get("mark", ident) == "started":
            self.put("mark", ident, "started", KEEPING.settled)

    def request(self, ident: str) -> RequestRecord | None:
        known: Any = self.get("call", ident)
        if known != "completed":
            return known
        if not self.get("over", ident):
            return RequestRecord(None, "o", expired=True)
        result = self.get("result", ident)
        return RequestRecord(result, "o", status=None if result else 200)

    def start(self, ident: str) -> list[bool]:
        if self.get("mark", ident) == "cancelled":
            return [False]
        self.put("mark", ident, "started", KEEPING.started)
        return [True]

    def cancel(self, ident: str) -> bool:
        if self.get("mark", ident) is None:
            self.put("mark", ident, "cancelled", KEEPING.cancelled)
        return bool(self.get("mark", ident) == "cancelled")

    def lead(self, owner: str) -> bool:
        if self.get("lead", "x") not in (None, owner):
            return False
        self.put("lead", "x", owner, LEAD)
        return True


def said(answer: Coroutine[Any, Any, Any]) -> Any:
    """In memory nothing waits."""
    try:
        answer.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


names, owners, contents = st.sampled_from("pqr"), st.sampled_from("ab"), st.sampled_from([b"", b"abc", b"defgh"])
steps = st.one_of(
    st.tuples(st.just("once"), names, st.sampled_from("dde"), owners),
    st.tuples(st.just("done"), names, owners, contents),
    st.tuples(st.just("free"), names, owners),
    st.tuples(st.just("accepted"), names),
    st.tuples(st.just("completed"), names, contents),
    st.tuples(st.just("request"), names),
    st.tuples(st.just("start"), names),
    st.tuples(st.just("cancel"), names),
    st.tuples(st.just("lead"), owners),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 2.0, 4.0])),
)


@given(st.lists(steps, max_size=80))
def test_it_does_what_the_model_does_as_time_passes(actions: list[Any]) -> None:
    clock = ManualClock()
    model, store = Model(), EmbeddedStoreHub(clock, keeping=KEEPING).connect()
    for name, *args in actions:
        seen: Coroutine[Any, Any, Any]
        match name:
            case "once":
                seen = store.once("o", *args, LEASE)
            case "done":
                scope, owner, content = args
                seen = store.done("o", scope, owner, content, 200, WINDOW)
            case "free":
                seen = store.free("o", *args)
            case "accepted":
                seen = store.accepted("c", "o", args, ACCEPTED)
            case "completed":
                ident, content = args
                seen = store.completed("c", ident, "o", content, 200)
            case "request":
                seen = store.request("c", *args)
            case "start":
                seen = store.start("o", args)
            case "cancel":
                seen = store.cancel("o", *args)
            case "lead":
                seen = store.lead("x", *args, LEAD)
            case "wait":
                clock.advance(*args)
                model.now += args[0]
                continue
        assert said(seen) == getattr(model, name)(*args), (name, args)
