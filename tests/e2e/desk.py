"""The command line at one mesh, and waiting for what it says."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.dev_mesh import DEADLINE_SECONDS, meshq

AGAIN = 0.1
"""Seconds between two looks."""


def until(good: Callable[[], Any], seconds: float = 2 * DEADLINE_SECONDS) -> Any:
    """The first of what `good` returns that is true."""
    end = time.monotonic() + seconds
    never = threading.Event()
    while not (found := good()):
        assert time.monotonic() < end, f"{good} did not come true"
        never.wait(AGAIN)
    return found


class Desk:
    def __init__(self, folder: Path, **env: str) -> None:
        self._folder = folder
        self._env = env

    def run(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return meshq(*arguments, cwd=self._folder, stdin=stdin, **self._env)

    def good(self, *arguments: str, stdin: str = "") -> str:
        """What it prints, once it ended well."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.good(*arguments, "-o", "json"))

    def until(self, good: Callable[[Any], bool], *arguments: str) -> Any:
        """What a command says, once it is good."""
        said: list[Any] = []

        def look() -> bool:
            said.append(self.json(*arguments))
            return good(said[-1])

        until(look)
        return said[-1]
