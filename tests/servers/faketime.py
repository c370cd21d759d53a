"""A wall clock that the test sets, for one process: by libfaketime, which stands between a program and its clock."""

from pathlib import Path

from tests.servers.processes import NoServer


def library() -> str | None:
    """The shared library; None where it is not installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return str(found[0]) if found else None


class SteppedClock:
    """The environment of a process whose wall clock can be stepped while it runs; its monotonic clock stays the machine's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.step(0)

    @property
    def environment(self) -> dict[str, str]:
        """Raises NoServer."""
        preload = library()
        if preload is None:
            raise NoServer("stepping a clock needs libfaketime (on Debian: apt-get install libfaketime)")
        return {
            "LD_PRELOAD": preload,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: int) -> None:
        """From now on the clock is so far from the machine's."""
        self._file.write_text(f"{seconds:+d}\n")
