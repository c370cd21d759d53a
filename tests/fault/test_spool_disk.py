"""The spool on a disk that takes no more: what is refused is said, and it goes on by itself."""

import asyncio
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from meshq.adapters import spool_writer
from meshq.adapters.spool import DiskSpool
from meshq.ports import Spooled
from tests.contract.broker_rigs import eventually
from tests.spools import appended, filled, ids, left, life, publication, segments, taken


class Disk:
    """A directory whose disk can be full."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def full(self, room: int = 0) -> Iterator[None]:
        """The kernel refuses every write beyond the size of the largest file, and `room` bytes."""
        largest = max((file.stat().st_size for file in self.path.iterdir()), default=0)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(largest + room, 1), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def make(self, writable: bool) -> None:
        self.path.chmod(0o700 if writable else 0o500)


class SmallDisk(Disk):
    """A file system of its own, of half a megabyte."""

    @contextmanager
    def full(self, room: int = 0) -> Iterator[None]:
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as file:
            with suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            file.truncate(max(file.tell() - room, 0))
        try:
            yield
        finally:
            filler.unlink()

    def make(self, writable: bool) -> None:
        subprocess.run(["mount", "-o", f"remount,{'rw' if writable else 'ro'}", self.path], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Only root mounts."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", path], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


DISKS = ["limited", "small"] if os.geteuid() == 0 else ["limited"]


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param == "small":
        found: SmallDisk = request.getfixturevalue("small_disk")
        return found
    (tmp_path / "spool").mkdir()
    return Disk(tmp_path / "spool")


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(disk: Disk) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, *range(5))
        with disk.full():
            large = [publication(n, bytes(20_000)) for n in range(10, 15)]
            assert await appended(spool, *large) == [Spooled.FAILED] * 5
            assert str(disk.path) in spool.fault
            assert "cannot be written" in spool.fault
            assert "free some space there" in spool.fault or "ulimit" in spool.fault
            assert await appended(spool, publication(15, bytes(20_000))) == [Spooled.FAILED]
            assert ids(taken(spool)) == [0, 1, 2, 3, 4], "what is there can be had"
        await filled(spool, 20, 21)
        assert spool.fault == ""
        assert ids(taken(spool)) == [20, 21]

    life(disk.path, story)
    assert left(disk.path) == [0, 1, 2, 3, 4, 20, 21]
    assert not list(disk.path.glob("lost-*"))


def test_a_disk_full_from_the_beginning(disk: Disk) -> None:
    async def story(spool: DiskSpool) -> None:
        with disk.full():
            assert await appended(spool, publication(1, bytes(5000))) == [Spooled.FAILED]
            assert spool.fault
        await filled(spool, 2)
        assert spool.fault == ""
        assert len(segments(disk.path)) == 1

    life(disk.path, story)
    assert left(disk.path) == [2]


def test_half_a_record_that_was_written_is_not_in_the_way_of_good_ones(disk: Disk) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, 0)
        with disk.full(room=9000):
            assert await appended(spool, publication(1, b"x" * 50_000)) == [Spooled.FAILED]
            assert await appended(spool, publication(2, b"y" * 1000)) == [Spooled.WRITTEN]
        await filled(spool, 3)
        assert ids(taken(spool)) == [0, 2, 3]

    life(disk.path, story)
    assert left(disk.path) == [0, 2, 3]
    assert not list(disk.path.glob("lost-*"))


def test_what_was_planned_behind_a_write_that_fails_fails_though_it_could_be_written(disk: Disk) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, 0)
        with disk.full(room=9000):
            large, small = publication(1, b"x" * 30_000), publication(2)
            assert await appended(spool, large, small, small) == [Spooled.FAILED] * 3
        await filled(spool, 3)
        assert ids(taken(spool)) == [0, 3]

    life(disk.path, story, limit=64 * 1024)  # a segment takes 8 KiB, so the small ones are in another
    assert left(disk.path) == [0, 3]
    assert not list(disk.path.glob("lost-*"))


def test_what_waits_behind_a_write_that_fails_fails_too_and_order_holds(disk: Disk) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, 0)
        good: list[int] = []
        with disk.full():
            refused = [appended(spool, publication(n, bytes(3000))) for n in range(1, 40)]
            for fates in await asyncio.gather(*refused):
                assert fates == [Spooled.FAILED]
        for number in range(100, 110):
            await filled(spool, number)
            good.append(number)
        assert ids(taken(spool)) == [0, *good]

    life(disk.path, story)
    assert left(disk.path) == [0, *range(100, 110)]


def test_the_fault_goes_by_itself_where_nobody_appends(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_writer, "PROBE_SECONDS", 0.01)

    async def story(spool: DiskSpool) -> None:
        with disk.full():
            assert await appended(spool, publication(1, bytes(100_000))) == [Spooled.FAILED]
            assert spool.fault

        async def well() -> bool:
            return not spool.fault

        await eventually(well)
        assert not (disk.path / "probe").exists()

    life(disk.path, story)


def test_a_process_starts_on_a_full_disk_and_gets_rid_of_what_is_there(disk: Disk) -> None:
    life(disk.path, lambda spool: filled(spool, 1, 2, 3))

    async def story(spool: DiskSpool) -> None:
        records = taken(spool)
        assert ids(records) == [1, 2, 3]
        for record in records:
            spool.remove(record)

    with disk.full():
        life(disk.path, story)
        assert segments(disk.path) == []


@pytest.mark.parametrize("disk", [DISKS[-1]], indirect=True)  # rights do not keep root from writing
def test_a_read_only_disk_can_be_emptied_and_written_again_when_it_can(disk: Disk) -> None:
    life(disk.path, lambda spool: filled(spool, 1, 2))
    disk.make(writable=False)

    async def story(spool: DiskSpool) -> None:
        records = taken(spool)
        assert ids(records) == [1, 2]
        spool.remove(records[0])
        assert await appended(spool, publication(3)) == [Spooled.FAILED]
        assert "mount it so that it can be written" in spool.fault or "give this process the right" in spool.fault
        disk.make(writable=True)
        await filled(spool, 4)
        assert spool.fault == ""

    life(disk.path, story)
    assert left(disk.path) == [2, 4]


def test_a_file_deleted_under_it_is_noticed(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, 1)
        segments(tmp_path)[0].unlink()
        assert await appended(spool, publication(2)) == [Spooled.FAILED]
        assert "was deleted" in spool.fault
        await filled(spool, 3)
        assert spool.fault == ""

    life(tmp_path, story)
    assert left(tmp_path) == [3]
