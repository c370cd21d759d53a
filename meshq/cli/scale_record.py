"""`meshq scale record`: what came to a live service, and how long it took, as a trace that `meshq scale simulate` replays."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshq.adapters.clock import SystemClock
from meshq.cli import reach, tables
from meshq.cli.asking import ask, request, segment
from meshq.cli.exits import FAILED, leave
from meshq.cli.scale_reach import SECONDS, SignalsUrl, signals_reached
from meshq.cli.show import ControlUrl
from meshq.core.durations import parse_duration_ms, show_duration_ms

if TYPE_CHECKING:
    from meshq.simulate.traces import Trace

EVERY_SECONDS = 1.0
"""Between two questions: an embedded mesh counts every second, others every five."""
SAY_EVERY = 60.0
LONGEST_MS = 86_400_000
ROOM = 4096
"""Bytes that must fit on the disk before anything is recorded."""


def _duration(text: str) -> str:
    try:
        if not 0 < parse_duration_ms(text) <= LONGEST_MS:
            raise ValueError(f"{text} is not above 0 and at most {show_duration_ms(LONGEST_MS)}")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


def record(
    service: Annotated[str, typer.Argument(metavar="SERVICE[@MAJOR]", help="orders, orders@2")],
    duration: Annotated[
        str, typer.Option("--for", metavar="D", help="30s, 10m, 1d at most.", callback=_duration)
    ] = "10m",
    out: Annotated[Path, typer.Option(metavar="FILE", help="The trace.")] = Path("trace.csv"),
    signals: SignalsUrl = None,
    control: ControlUrl = None,
) -> None:
    """Record what comes to a service and how long it takes, as a trace for `meshq scale simulate`.

    Ctrl-C ends it early; what was recorded until then is written. A message that fails and is tried again comes again. Of several
    replicas of `meshq signals`, which count each for itself, --signals must name one.
    """
    draft = _Draft(out)
    try:
        with signals_reached(signals, control) as way:
            recorder = _Recorder(way, service)
            recorder.begin()
            typer.echo(f"recording {recorder.topic} for {duration} at most, until Ctrl-C: {out}", err=True)
            try:
                recorder.go_on(parse_duration_ms(duration) / 1000)
            except KeyboardInterrupt:
                typer.echo("ended early", err=True)
        trace = recorder.trace()
        draft.write(trace)
    finally:
        draft.remove()
    typer.echo(
        f"{out}: {len(trace.arrivals)} messages in {trace.lasts:g} s, of {trace.service:.4g} s of work each; "
        f"`meshq scale simulate {out}` replays it"
    )


class _Recorder:
    """Asks about one topic, again and again."""

    def __init__(self, way: reach.Reach, service: str) -> None:
        from meshq.simulate.recording import Recording

        self._way = way
        self._service, _, self._major = service.partition("@")
        self._clock = SystemClock()
        self._recording = Recording()
        self._told_at = self._at = 0.0
        """When the last answer came that brought a look, by our clock and by the one of looks."""
        self._said = ""
        """What went wrong last."""

    @property
    def topic(self) -> str:
        return str(self._first["topic"])

    def begin(self) -> None:
        """The first look. Raises reach.Away, reach.Failed."""
        self._first = self._last = self._row()
        self._major = _major(self._first)
        self._take(self._first)

    def go_on(self, seconds: float) -> None:
        """For so long, or until a trace holds no more."""
        begun = said = self._clock.monotonic()
        while (now := self._clock.monotonic()) - begun < seconds:
            self._way.wait(min(EVERY_SECONDS, seconds - (now - begun)))
            self._look()
            if self._recording.is_full:
                typer.echo("a trace holds no more messages: it ends here", err=True)
                return
            if self._clock.monotonic() - said >= SAY_EVERY:
                said = self._clock.monotonic()
                typer.echo(self._progress(), err=True)

    def trace(self) -> "Trace":
        """Exits with 1 where there is nothing to replay."""
        from meshq.core.policy_fields import BadPolicy
        from meshq.simulate.recorded import recorded

        recording = self._recording
        if not recording.known:
            leave(
                FAILED, f"nobody could say how many messages came to {self.topic}, and nothing is written: {self._said}"
            )
        if not recording.messages:
            spent = tables.duration(recording.seconds)
            leave(
                FAILED, f"nothing came to {self.topic} in {spent}: there is nothing to replay, and nothing is written"
            )
        try:
            trace = recording.trace(recorded(self._first, self._last))
        except BadPolicy as error:
            leave(FAILED, f"the scaling policy of {self.topic} makes no sense here, and nothing is written: {error}")
        if trace is None:
            leave(
                FAILED,
                f"{recording.messages} messages came to {self.topic}, and nothing is written, as none was done and reported yet "
                "and nobody knows how long one takes: record until some are done",
            )
        return trace

    def _look(self) -> None:
        try:
            self._take(self._row())
        except (reach.Away, reach.Failed) as error:
            self._say(str(error))
            self._take_nothing()

    def _take(self, row: dict[str, Any]) -> None:
        from meshq.simulate.recorded import look_of

        try:
            look = look_of(row)
        except ValueError as error:
            raise reach.Failed(f"{self.topic}: {error}") from error
        if self._recording.take(look):
            self._told_at, self._at = self._clock.monotonic(), look.at
        if row["terms"].get("slots") is not None:
            self._last = row
        if look.counts is None:
            self._say(row["reason"])

    def _take_nothing(self) -> None:
        """Nobody answered, at what is about this time."""
        from meshq.simulate.recording import Look

        self._recording.take(Look(self._at + self._clock.monotonic() - self._told_at, None, None))

    def _row(self) -> dict[str, Any]:
        """Raises reach.Away, reach.Failed."""
        found = ask(self._way, request("GET", f"/v1/scale/{segment(self._service)}"), SECONDS)
        rows = {_major(row): row for row in found}
        if not self._major and len(rows) > 1:
            choices = ", ".join(f"{self._service}@{major}" for major in rows)
            raise typer.BadParameter(
                f"{self._service} has several versions: give one of {choices}", param_hint="SERVICE"
            )
        picked = rows.get(self._major) if self._major else next(iter(rows.values()), None)
        if picked is None:
            topics = ", ".join(row["topic"] for row in found)
            raise reach.Failed(f"{self._service} has no major {self._major[:40]!r}: it has {topics}")
        return dict(picked)

    def _say(self, sentence: str) -> None:
        """Once, until it is another."""
        if sentence != self._said:
            typer.echo(f"meshq: what comes is not known now: {sentence}", err=True)
        self._said = sentence

    def _progress(self) -> str:
        recording = self._recording
        unknown = recording.unknown_seconds
        gaps = f", not known for {tables.duration(unknown)} of it" if unknown else ""
        return f"{tables.duration(recording.seconds)}: {recording.messages} messages{gaps}"


def _major(row: dict[str, Any]) -> str:
    return str(row["topic"]).rpartition(".v")[2]


class _Draft:
    """The trace until it is whole, beside where it will be, so that a full disk costs nobody the file that was there. Exits with 1
    where nothing can be written."""

    def __init__(self, out: Path) -> None:
        self._shown = out
        self._file = Path(os.path.realpath(out))
        self._draft = self._file.with_name(f"{self._file.name}.{os.getpid()}.part")
        try:
            if self._file.exists():
                self._check_file()
            self._draft.write_bytes(b"\n" * ROOM)
        except OSError as error:
            self.remove()
            self._leave(error)

    def write(self, trace: "Trace") -> None:
        from meshq.simulate import traces

        try:
            traces.write(trace, self._draft)
            self._draft.replace(self._file)
        except OSError as error:
            self._leave(error)

    def remove(self) -> None:
        with suppress(OSError):  # the same that kept it from being made
            self._draft.unlink()

    def _check_file(self) -> None:
        """Raises OSError where it may not be written."""
        if not self._file.is_file():
            leave(FAILED, f"{self._shown} is no file that can be written over: give another with --out")
        self._file.open("ab").close()

    def _leave(self, error: OSError) -> None:
        leave(
            FAILED,
            f"{self._shown} cannot be written ({error.strerror}), so that there is no trace: give another file with --out",
        )
