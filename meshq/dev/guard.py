"""Ends the apps when the runner was killed: a process that reads what it is told on its standard input (`+<group>` when a
group of processes started, `-<group>` when it ended) and, when the other end is gone, ends every group that is left.

A pipe closes however the runner dies, on every system, and groups reach children that PR_SET_PDEATHSIG does not. Run by
path, without this package, so that it is small and starts fast: standard library only.
"""

import contextlib
import os
import signal
import sys
import time

GRACE_SECONDS = 1.0
"""Between SIGTERM and SIGKILL."""


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    _tell(groups, signal.SIGTERM)
    if groups:
        time.sleep(GRACE_SECONDS)
    _tell(groups, signal.SIGKILL)


def _tell(groups: set[int], number: signal.Signals) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


if __name__ == "__main__":
    main()
