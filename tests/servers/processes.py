"""Starting a server's process, and waiting for what it promises."""

import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LOOPBACK = "127.0.0.1"


class NoServer(RuntimeError):
    """A server that the tests need cannot be had here; the message is one sentence on what to do."""


def wait_for(predicate: Callable[[], object], timeout: float, what: str, poll: float = 0.1) -> None:
    """Return once `predicate()` is true. Raises TimeoutError, naming `what` was waited for, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()  # never set: its wait is the poll interval
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        pause.wait(poll)


_given: set[int] = set()
"""Ports that `free_port` gave before: whoever has one may not listen on it yet."""


def free_port() -> int:
    """A free loopback port below the range that systems hand out for port 0 and outgoing connections (32768 and up), so
    that nobody is given it by chance while its server is down between a kill and a start."""
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        if port in _given:
            continue
        with socket.socket() as probe:
            # As servers do: an address in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise NoServer("there is no free port between 20000 and 32000 on the loopback address")


def listening(port: int, host: str = LOOPBACK) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


# With `setpriv` a server dies with the thread that started it, however that ends (pytest-timeout and an out-of-memory
# kill run no finalizer). This thread lives as long as the process; a test's own, asyncio's for instance, would not.
_launcher = ThreadPoolExecutor(1, thread_name_prefix="server-launcher")


class ServerProcess:
    """One server in its own process group, output to a file. It does not outlive this process."""

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        self.log = log
        self._command = [*_lifeline(), *command]
        self._folder = folder  # where it runs, and would leave a dump of itself
        self._env = dict(os.environ if env is None else env)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs and before it was started; negative: the signal that ended it."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise NoServer(f"{self._command[-1]} was not started")
        return self._process.pid

    def start(self) -> None:
        if not self.running:
            self._process = _launcher.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd=self._folder,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        if self.running:
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and gone when this returns; a stopped (paused) process too."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def stop(self, timeout: float = 30) -> None:
        """SIGTERM, and gone when this returns."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        if self._process is not None:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def said(self, text: str) -> bool:
        """Whether its output since the last start contains `text`."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return text.encode() in log.read()

    def tail(self, lines: int = 15) -> str:
        """The end of its output, for a failure's message."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def _lifeline() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
