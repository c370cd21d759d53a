"""One terminal for all: each line begins with the name of who said it, in its colour.

    orders@1    │ what the app writes
    orders@1    ┆ what its sidecar and the runner say of it

Lines are written by a thread of their own: who stops reading the terminal stops nobody's calls. What does not fit into its
queue is left out, and counted.
"""

import asyncio
import contextlib
import contextvars
import json
import logging
import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import TextIO

WAITING = 10_000
"""Lines that may wait to be written."""
TAIL = 12
"""Last lines kept of each app, to be shown when it failed."""
MAX_LINE = 64 * 1024
"""Bytes after which a line is broken in two."""
FLUSH_SECONDS = 2.0
RUNNER = "meshq"

_COLOURS = ("36", "33", "35", "32", "34", "96", "93", "95", "92", "94")
_DIM, _RED, _BOLD, _RESET = "\033[2m", "\033[31m", "\033[1m", "\033[0m"

speaker: contextvars.ContextVar[str] = contextvars.ContextVar("speaker", default=RUNNER)
"""Whose sidecar logs: set for each sidecar that runs in this process."""


class Output:
    """`on_closed` is called, in another thread, when nobody reads any more."""

    def __init__(self, stream: TextIO, labels: Iterable[str], colour: bool, on_closed: Callable[[], None]) -> None:
        self._stream = stream
        self._colour = colour
        self._on_closed = on_closed
        names = [*labels, RUNNER]
        self._width = max(map(len, names))
        self._colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(names[:-1])}
        self._app_bar, self._mesh_bar = ("│", "┆") if _can_draw(stream) else ("|", ":")
        self._tails: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=TAIL))
        self._lines: queue.Queue[str | None] = queue.Queue(WAITING)
        self._left_out = 0
        self._writer = threading.Thread(target=self._write, name="terminal", daemon=True)
        self._writer.start()

    def app(self, label: str, line: str) -> None:
        """A line of the app's own."""
        self._tails[label].append(line)
        self._put(f"{self._prefix(label, self._app_bar)} {line}")

    def said(self, label: str, line: str, wrong: bool = False) -> None:
        """A line of the sidecar or the runner about `label` (RUNNER: about the whole)."""
        start, end = ((_RED if wrong else _DIM), _RESET) if self._colour else ("", "")
        self._put(f"{self._prefix(label, self._mesh_bar)} {start}{line}{end}")

    def plain(self, text: str = "") -> None:
        self._put(text)

    def bold(self, text: str) -> str:
        return f"{_BOLD}{text}{_RESET}" if self._colour else text

    def tail(self, label: str) -> list[str]:
        return list(self._tails[label])

    def close(self) -> None:
        """Write what waits, for a while."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=FLUSH_SECONDS)
            self._writer.join(FLUSH_SECONDS)

    def _prefix(self, label: str, bar: str) -> str:
        text = f"{label:{self._width}} {bar}"
        colour = self._colours.get(label, "1")
        return f"\033[{colour}m{text}{_RESET}" if self._colour else text

    def _put(self, line: str) -> None:
        try:
            if self._left_out:
                self._lines.put_nowait(f"({self._left_out} lines left out: the terminal did not take them)")
                self._left_out = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._left_out += 1

    def _write(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
        except (OSError, ValueError):  # nobody reads any more
            self._on_closed()
            while self._lines.get() is not None:
                pass


class ToOutput(logging.Handler):
    """Log records of the sidecars in this process, under the name of their app."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.said(
            speaker.get(), _worded(record.levelname, record.getMessage()), record.levelno >= logging.WARNING
        )
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).splitlines():
                self._output.said(speaker.get(), line, True)


def say_logged(output: Output, label: str, line: str) -> None:
    """A line that a sidecar process wrote: a record as JSON, or anything else as it is."""
    try:
        record = json.loads(line)
        level, message = str(record["level"]).upper(), str(record["message"])
    except (ValueError, KeyError, TypeError):
        output.said(label, line)
        return
    output.said(label, _worded(level, message), level in ("WARNING", "ERROR", "CRITICAL"))


def _worded(level: str, message: str) -> str:
    return message if level in ("INFO", "DEBUG") else f"{level.lower()}: {message}"


async def read_lines(reader: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    """Until the end; a line that is not ended by then, or is too long, counts as one."""
    rest = b""
    while piece := await reader.read(MAX_LINE):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            on_line(_readable(line))
        if len(rest) >= MAX_LINE:
            on_line(_readable(rest))
            rest = b""
    if rest:
        on_line(_readable(rest))


def _readable(line: bytes) -> str:
    """What overwrote itself on a terminal shows as it ended."""
    return line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]


def _can_draw(stream: TextIO) -> bool:
    try:
        "│┆".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
