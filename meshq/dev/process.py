"""One program that is kept running: started, restarted with backoff when it exits, ended with everything it started."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from meshq.dev import guard
from meshq.dev.output import read_lines
from meshq.ports import Clock
from meshq.tasks import Tasks

FIRST_DELAY = 0.5
LONGEST_DELAY = 10.0
STEADY_SECONDS = 30.0
"""A program that lived this long is well again: the next restart waits FIRST_DELAY."""
LEFTOVER_SECONDS = 1.0
"""How long the output of a program that has exited is still read: a child of its own may hold the pipe."""
GROUP_SECONDS = 10.0
"""How long the children of a program that ended as it was told may take to do the same."""
ENDED_BY_US = frozenset({0, -signal.SIGTERM, 128 + signal.SIGTERM})
"""Exit codes of a program that did as SIGTERM told."""


class Backoff:
    """How long to wait before the next start."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY

    def after(self, lived: float) -> float:
        """`lived`: seconds from the start to the exit."""
        if lived >= STEADY_SECONDS:
            self._delay = FIRST_DELAY
        delay, self._delay = self._delay, min(LONGEST_DELAY, self._delay * 2)
        return delay


class Command(NamedTuple):
    arguments: Sequence[str]
    directory: Path
    environment: Mapping[str, str]


class Guard:
    """Ends what runs if this process is killed; see guard.py."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        # -I -S: nothing of the environment, no site packages; it needs the standard library only.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(Path(guard.__file__)), stdin=asyncio.subprocess.PIPE, start_new_session=True
        )

    def started(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def ended(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(line.encode())

    async def close(self) -> None:
        """Everything has ended: it finds nothing to do."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()


class Kept:
    """A command kept running from `start` until `terminate` or `kill`. `on_line` gets its output, `say` what happened to it
    (`wrong`: other than wished)."""

    def __init__(
        self,
        command: Command,
        on_line: Callable[[str], None],
        say: Callable[[str, bool], None],
        guard: Guard,
        clock: Clock,
    ) -> None:
        # Process:
        self.starts = 0
        self.started = asyncio.Event()
        """Set at each start; whoever waits for the next one clears it."""
        self.exit_code: int | None = None
        """Of the last time that it exited; None while it never did."""
        self._command = command
        self._on_line = on_line
        self._say = say
        self._guard = guard
        self._clock = clock
        self._tasks = Tasks()
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        # One start:
        self.pid: int | None = None
        """None while it does not run."""
        self._started_at = 0.0

    @property
    def uptime(self) -> float:
        """Seconds since the last start; 0 while it does not run."""
        return 0.0 if self.pid is None else self._clock.monotonic() - self._started_at

    def start(self) -> None:
        self._tasks.start(self._keep(), "keep a program running")

    async def terminate(self) -> None:
        """SIGTERM, then wait until it has ended, which is for the caller to limit."""
        self._stop(signal.SIGTERM)
        await self._ended.wait()

    async def kill(self) -> None:
        self._stop(signal.SIGKILL)
        await self._ended.wait()

    async def close(self) -> None:
        await self._tasks.close()

    def _stop(self, number: signal.Signals) -> None:
        self._stopping.set()
        if self.starts == 0:
            self._ended.set()
        if self.pid is not None:
            _signal_group(self.pid, number)

    async def _keep(self) -> None:
        backoff = Backoff()
        try:
            while not self._stopping.is_set():
                lived = await self._run()
                if self._stopping.is_set():
                    return
                delay = backoff.after(lived)
                self._say(f"exited {_how(self.exit_code)} after {lived:.1f} s; starting again in {delay:g} s", True)
                await _within(delay, self._stopping)
        finally:
            self._ended.set()

    async def _run(self) -> float:
        """Once, to its end. Returns the seconds that it lived."""
        self.starts += 1
        self._started_at = self._clock.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command.arguments,
                cwd=self._command.directory,
                env=dict(self._command.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # a group of its own, and out of reach of the terminal's Ctrl-C
            )
        except OSError as error:
            self._say(f"cannot be started: {error}", True)
            self.exit_code = 127
            return 0.0
        self._guard.started(process.pid)
        self.pid = process.pid
        self.started.set()
        if self._stopping.is_set():  # it was told to end while it was being started
            _signal_group(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        reading = Tasks()
        read = asyncio.Event()
        reading.start(self._read(process.stdout, read), "read a program's output")
        try:
            self.exit_code = await process.wait()
        finally:
            # Told to end, a shell may go before the program it runs: what still holds the pipe has its time too.
            if self._stopping.is_set():
                await _within(GROUP_SECONDS, read)
            _signal_group(process.pid, signal.SIGKILL)  # whoever it left behind
            self.pid = None
            self._guard.ended(process.pid)
            await _within(LEFTOVER_SECONDS, read)
            await reading.close()
        return self._clock.monotonic() - self._started_at

    async def _read(self, reader: asyncio.StreamReader, done: asyncio.Event) -> None:
        try:
            await read_lines(reader, self._on_line)
        finally:
            done.set()


async def _within(seconds: float, event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"by {signal.Signals(-code).name}"
    return f"with code {code}"
