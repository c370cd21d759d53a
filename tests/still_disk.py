"""The files of the embedded broker and store, and the spool's, without their threads: what is to be written is written when the
event loop has nothing else to do. So a test that turns the time has every write in the same place every time, and can stop a
process before it."""

import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshq.adapters import spool_writer, store
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.adapters.spool import DiskSpool

Guard = Callable[[str], bool]
"""Whether the process still lives when this is to be done."""


class _NoThread:
    """In the place of a thread."""

    def __init__(self, **_: Any) -> None: ...
    def start(self) -> None: ...
    def join(self) -> None: ...


class StillDisk:
    """Install it before anything is opened, and give `write` to the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        still = SimpleNamespace(Thread=_NoThread, Condition=threading.Condition)
        monkeypatch.setattr(store, "threading", still)
        monkeypatch.setattr(spool_writer, "threading", still)
        self._hubs: dict[EmbeddedHub, Guard] = {}
        self._spools: dict[DiskSpool, Guard] = {}

    def add_hub(self, hub: EmbeddedHub, guard: Guard) -> None:
        # What is tested is the end of processes, not of power.
        hub._store._db.execute("PRAGMA synchronous = OFF")
        self._hubs[hub] = guard

    def add_spool(self, spool: DiskSpool, guard: Guard) -> None:
        self._spools[spool] = guard

    def write(self) -> bool:
        """What waits to be written. False: nothing did."""
        wrote = [self._write_hub(hub, guard) for hub, guard in list(self._hubs.items())]
        wrote += [self._write_spool(spool, guard) for spool, guard in list(self._spools.items())]
        return any(wrote)

    def _write_hub(self, hub: EmbeddedHub, guard: Guard) -> bool:
        disk = hub._store
        if not disk.started or not disk._batch or not guard("commit"):
            return False
        batch = disk._next_batch()
        disk._commit(batch)
        if guard("committed"):
            disk._report(batch.waiting, True, "")
        return True

    def _write_spool(self, spool: DiskSpool, guard: Guard) -> bool:
        writer = spool._writer
        if writer is None or writer._queue.empty() or not guard("write the spool"):
            return False
        batches, chores, _ = writer._gather()
        for group in spool_writer._groups(batches):
            writer._write(group)
        for chore in chores:
            writer._do(chore)
        return True

    # --- the end of a process -------------------------------------------------------------------------------------------------

    def kill_hub(self, hub: EmbeddedHub) -> None:
        """What was not committed is lost, the file is somebody else's."""
        del self._hubs[hub]
        hub._turns.stop()
        disk = hub._store
        disk._reading.close()
        disk._db.close()
        os.close(disk._lock_fd)

    def kill_spool(self, spool: DiskSpool) -> None:
        del self._spools[spool]
        if spool._writer is not None:
            spool._writer._close_file()
            spool._writer._progress.close()
        spool._closed = True
        spool._reader.close()
        os.close(spool._lock)

    @staticmethod
    def kill_store(hub: EmbeddedStoreHub) -> None:
        file = hub._file
        file._db.close()
        os.close(file._lock_fd)
