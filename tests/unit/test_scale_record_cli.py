"""`meshq scale record` against a server of signals whose figures the test sets."""

import asyncio
import resource
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop
from typer.testing import CliRunner

from meshq.cli import reach, scale_record
from meshq.cli.main import app
from meshq.ports import Exchange
from meshq.signals.figures import Signal
from meshq.signals.http_api import HttpApi
from meshq.simulate import recording
from meshq.simulate.traces import Outage, Span, Trace, read
from tests.http_tools import serving
from tests.told_signals import NOW_MS, ToldSignals, never_counted, signal

SENTENCE = "trace.csv: 30 messages in 10 s, of 0.5 s of work each; `meshq scale simulate trace.csv` replays it"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def at(number: int, told: Signal) -> Signal:
    """The `number`-th look, five seconds after the one before; counted at once."""
    sample = replace(told.sample, at=100.0 + 5 * number, counted_at=told.sample.counted_at and 100.0 + 5 * number)
    return replace(told, sample=sample, at_ms=NOW_MS + 5000 * number)


def done(number: int, messages: int) -> Signal:
    """All came and took half a second each."""
    work = {"done": 1000.0 + messages, "handled": 1000.0 + messages, "busy": 50 + messages / 2}
    return at(number, signal(waiting=0, in_flight=0, busy_squares=3 + messages / 4, **work))


def record(
    looks: Sequence[Signal],
    *arguments: str,
    service: str = "orders",
    beside: Sequence[Signal] = (),
    away: Collection[int] = (),
    stopped: bool = True,
) -> Ran:
    """Each question is answered by one look more; then comes Ctrl-C, if it is `stopped`, else the last look again. Questions whose
    numbers are in `away` reach nobody. Without any look nothing is known."""
    told = ToldSignals(*beside)
    told.fault = "" if looks else "the broker is away"
    left = iter(looks)
    api = HttpApi(told, lambda: b"", "text/plain")
    asked, numbers = scale_record.ask, count()

    def handle(exchange: Exchange) -> None:
        if (look := next(left, None)) is not None:
            told.tell(look)
        api.handle(exchange)

    def ask(*question: Any) -> Any:
        number = next(numbers)
        if number in away:
            raise reach.Away("meshq signals cannot be reached: is it running?")
        if stopped and number >= len(away) + max(1, len(looks)):
            raise KeyboardInterrupt
        return asked(*question)

    async def scene() -> Ran:
        async with serving(handle) as (_, port):
            command = ["scale", "record", service, "--signals", f"http://127.0.0.1:{port}", *arguments]
            result = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Ran(result.exit_code, result.stdout.strip(), result.stderr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale_record, "ask", ask)
        return uvloop.run(scene())  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where it is recorded, at once. Whatever comes, nothing but a trace stays there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scale_record, "EVERY_SECONDS", 0.01)
    yield tmp_path
    assert not list(tmp_path.glob("**/*.part"))


def recorded() -> Trace:
    return read(Path("trace.csv"))


def test_what_comes_until_ctrl_c_is_recorded() -> None:
    ran = record([done(0, 0), done(1, 10), done(2, 30)])
    assert (ran.code, ran.out) == (0, SENTENCE)
    assert ran.err == "recording orders.v2 for 10m at most, until Ctrl-C: trace.csv\nended early\n"
    trace = recorded()
    assert (trace.name, len(trace.arrivals), trace.service) == ("orders.v2-20330518-033320", 30, 0.5)
    assert sum(came < 5 for came, _ in trace.arrivals) == 10


def test_what_comes_for_a_while_is_recorded() -> None:
    ran = record([done(0, 0), done(2, 30)], "--for", "50ms", stopped=False)
    assert (ran.code, ran.out) == (0, SENTENCE)
    assert "ended early" not in ran.err


def test_figures_that_are_missing_for_a_while_end_nothing() -> None:
    away = at(2, never_counted())
    ran = record([done(0, 0), done(1, 10), away, done(3, 20)])
    assert ran.code == 0
    assert ran.err.count("what comes is not known now: the broker does not say how many") == 1
    assert (recorded().outages, len(recorded().arrivals)) == ((Outage(Span(10, 15)),), 20)


def test_a_server_that_is_gone_for_a_while_ends_nothing() -> None:
    """Which is seen at about the time at which it was: right after the look before, as these are only called five seconds apart."""
    ran = record([done(0, 0), done(1, 10), done(2, 30)], away=[2, 3])
    assert (ran.code, ran.out) == (0, SENTENCE)
    assert ran.err.count("what comes is not known now: meshq signals cannot be reached: is it running?") == 1
    assert recorded().outages == (Outage(Span(5, 10)),)


def test_a_trace_that_is_full_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST", 20)
    ran = record([done(0, 0), done(1, 10), done(2, 30)], stopped=False)
    assert ran.code == 0
    assert "a trace holds no more messages: it ends here" in ran.err
    assert len(recorded().arrivals) == 20


def test_how_it_goes_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_record, "SAY_EVERY", 0.0)
    ran = record([done(0, 0), done(1, 10), at(2, never_counted()), done(3, 30)])
    assert "5.0s: 10 messages\n" in ran.err
    assert "15s: 30 messages, not known for 5.0s of it\n" in ran.err


@pytest.mark.parametrize(
    ("looks", "code", "says"),
    [
        ([done(0, 0)], 1, "nothing came to orders.v2 in 0.0s: there is nothing to replay, and nothing is written"),
        ([at(0, never_counted())], 1, "nobody could say how many messages came to orders.v2, and nothing is written: the"),
        (
            [at(0, signal(terms={})), at(1, signal(terms={}, waiting=9))], 1,
            "12 messages came to orders.v2, and nothing is written, as none was done and reported yet",
        ),
        ([], 69, "the broker is away"),
        ([signal("billing", 1)], 1, "orders: nothing is known of it"),
    ],
)  # fmt: skip
def test_where_there_is_nothing_to_replay_nothing_is_written(looks: list[Signal], code: int, says: str) -> None:
    ran = record(looks)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert not Path("trace.csv").exists()


def test_of_several_versions_one_is_to_be_named() -> None:
    first = signal("orders", 1)
    ran = record([done(0, 0)], beside=[first])
    assert ran.code == 2
    assert "orders has several versions: give one of orders@1, orders@2" in " ".join(ran.err.split())
    assert record([done(0, 0), done(1, 10)], service="orders@2", beside=[first]).code == 0
    ran = record([done(0, 0)], service="orders@3", beside=[first])
    assert (ran.code, "orders has no major '3': it has orders.v1, orders.v2" in ran.err) == (1, True)


def test_a_version_that_comes_meanwhile_changes_nothing() -> None:
    ran = record([done(0, 0), signal("orders", 3), done(2, 10)])
    assert (ran.code, len(recorded().arrivals)) == (0, 10)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--for", "0s"), "0s is not above 0 and at most 1d"),
        (("--for", "2d"), "2d is not above 0 and at most 1d"),
        (("--for", "soon"), "'soon' is not a duration"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], says: str) -> None:
    ran = record([done(0, 0)], *arguments)
    assert ran.code == 2
    assert says in ran.err


# --- where it is written --------------------------------------------------------------------------------------------------------


def test_a_trace_that_is_there_is_written_over_only_by_a_whole_one() -> None:
    Path("trace.csv").write_text("mine")
    assert record([done(0, 0)]).code == 1
    assert Path("trace.csv").read_text() == "mine"
    assert record([done(0, 0), done(1, 10)]).code == 0
    assert len(recorded().arrivals) == 10


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("none/trace.csv", "none/trace.csv cannot be written (No such file or directory)"),
        ("file/trace.csv", "file/trace.csv cannot be written (Not a directory)"),
        (f"{'a' * 300}.csv", "cannot be written (File name too long)"),
        (".", ". is no file that can be written over"),
        ("/dev/full", "/dev/full is no file that can be written over"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_recorded(out: str, says: str) -> None:
    Path("file").write_text("")
    ran = record([], "--out", out)
    assert (ran.code, ran.out) == (1, "")
    assert says in ran.err
    assert "give another" in ran.err


@contextmanager
def files_of(most: int) -> Iterator[None]:
    """The kernel lets no file have more bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [100, 2 * scale_record.ROOM])
def test_a_full_disk_is_said_and_costs_nobody_the_trace_that_was_there(room: int) -> None:
    """Before anything is recorded, and when it is to be written."""
    Path("trace.csv").write_text("mine")
    with files_of(room):
        ran = record([done(0, 0), done(1, 3000)])
    assert (ran.code, ran.out) == (1, "")
    assert "trace.csv cannot be written (File too large), so that there is no trace" in ran.err
    assert ("recording" in ran.err) is (room > scale_record.ROOM)
    assert Path("trace.csv").read_text() == "mine"
