"""kill -9 of a process that writes its spool, again and again: what it acknowledged is there for the next one."""

import random
import subprocess
import sys
from pathlib import Path

from meshq.adapters.spool import DiskSpool
from tests.spools import ids, life, taken

SEED = 1
KILLS = 8


def _run_and_kill(directory: Path, first: int, lines: int) -> tuple[set[int], set[int]]:
    """(acknowledged, removed) by a process that was killed after it had written so many lines, or a few more."""
    command = [sys.executable, "-m", "tests.fault.spool_process", str(directory), str(first)]
    added, removed = set[int](), set[int]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as running:
        assert running.stdout is not None
        for count, line in enumerate(running.stdout):
            if count == lines:
                running.kill()
            if not line.endswith(b"\n"):
                break  # its last word was cut off
            (added if line.startswith(b"+") else removed).add(int(line[1:]))
    return added, removed


def test_what_was_acknowledged_survives_every_kill(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    waiting: list[int] = []
    """What the last look found, in order."""
    first = 0
    for kill in range(KILLS):
        added, removed = _run_and_kill(tmp_path, first, draw.randint(1, 1500))
        assert added or removed, "it was killed before it had done anything"
        place = f"kill {kill} of seed {SEED}"

        async def look(spool: DiskSpool) -> list[int]:
            assert spool.losses == []
            return ids(taken(spool))

        found = life(tmp_path, look)
        assert found == sorted(set(found)), place
        missing = (set(waiting) | added) - removed - set(found)
        assert not missing, f"{place}: {sorted(missing)[:10]} were acknowledged and are gone"
        # What was being written may be there; what was removed last may come again; nothing else.
        unexpected = [n for n in found if n not in added and n not in waiting and n < first]
        assert not unexpected, f"{place}: {unexpected[:10]} were never appended or were gone"
        again = [n for n in found if n in removed]
        assert again == sorted(removed)[len(removed) - len(again) :], f"{place}: only the last may come again"
        waiting = found
        first = max([first, *added, *removed, *found]) + 1
