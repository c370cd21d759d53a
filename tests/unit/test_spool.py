"""The spool on disk: what is acknowledged is there for the next process, in order, within its bounds."""

import asyncio
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from meshq.adapters import spool as spool_module
from meshq.adapters.clock import ManualClock
from meshq.adapters.spool import DiskSpool, SpoolUnusable
from meshq.adapters.spool_progress import MOST, SLOT
from meshq.ports import Publication, Spool, Spooled
from tests.contract.broker_rigs import Recorder, eventually
from tests.spools import appended, filled, ids, left, life, publication, segments, taken


def test_it_keeps_publications_as_they_are_and_in_order(tmp_path: Path) -> None:
    full = Publication("x", "k\ud800", b"\0\xff" * 40_000, "m1", "call", "shop.results", 5000, 7)
    bare = Publication("", "", b"", "", "")

    async def story(spool: DiskSpool) -> None:
        port: Spool = spool
        assert await appended(spool, full, bare) == [Spooled.WRITTEN] * 2
        assert port.waiting == 2
        assert port.bytes == sum(file.stat().st_size for file in segments(tmp_path))
        records = taken(spool)
        assert [record.publication for record in records] == [full, bare]
        assert records[0].number < records[1].number
        assert port.take() is None

    life(tmp_path, story)


def test_it_is_there_after_a_restart_and_goes_on_behind(tmp_path: Path) -> None:
    life(tmp_path, lambda spool: filled(spool, 1, 2, 3))
    life(tmp_path, lambda spool: filled(spool, 4, 5))
    assert left(tmp_path) == [1, 2, 3, 4, 5]
    assert left(tmp_path) == [1, 2, 3, 4, 5], "taking is not removing"


def test_what_is_removed_is_gone_and_what_is_not_comes_again(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, *range(6))
        records = taken(spool)
        for number in (0, 1, 3):
            spool.remove(records[number])
        spool.remove(records[3])
        assert spool.waiting == 3
        spool.rewind()
        assert ids(taken(spool)) == [2, 4, 5]

    life(tmp_path, story)
    assert left(tmp_path) == [2, 4, 5]
    assert left(tmp_path) == [2, 4, 5], "a start changes nothing"


def test_removed_ones_are_skipped_after_a_kill_too(tmp_path: Path) -> None:
    async def story() -> None:
        spool = DiskSpool(tmp_path, 2**20, ManualClock())
        await filled(spool, *range(100))
        for record in taken(spool)[:60]:
            spool.remove(record)
        noted = tmp_path / "progress"
        async with asyncio.timeout(20):
            while not noted.exists() or not noted.stat().st_size:
                await asyncio.to_thread(os.stat, tmp_path)
        os.close(spool._lock)  # as the end of the process does

    asyncio.run(story())
    assert left(tmp_path) == list(range(60, 100))


def test_an_empty_spool_leaves_no_segment(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, *range(10))
        for record in taken(spool):
            spool.remove(record)
        assert (spool.waiting, spool.fault) == (0, "")

    life(tmp_path, story)
    assert segments(tmp_path) == []
    life(tmp_path, lambda spool: filled(spool, 11))
    assert left(tmp_path) == [11], "old progress means nothing to a new segment"


def test_segments_go_when_everything_in_them_is_removed_whatever_lies_before(tmp_path: Path) -> None:
    body = bytes(1000)

    async def story(spool: DiskSpool) -> None:
        assert await appended(spool, *(publication(n, body) for n in range(40))) == [Spooled.WRITTEN] * 40
        assert len(segments(tmp_path)) > 5
        for record in taken(spool)[1:]:
            spool.remove(record)
        await filled(spool, 40)
        await eventually(lambda: _segments_are(tmp_path, 2))

    life(tmp_path, story, limit=64 * 1024)
    assert left(tmp_path) == [0, 40]
    assert left(tmp_path) == [0, 40]
    assert not list(tmp_path.glob("lost-*")), "what was removed is not missing"


def _open_files() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one of listing them
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


async def _segments_are(directory: Path, number: int) -> bool:
    return len(segments(directory)) == number


def test_a_segment_with_records_on_their_way_is_not_deleted(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        for number in range(0, 300, 3):
            fates = Recorder[Spooled]()
            await filled(spool, number)
            spool.append(publication(number + 1, bytes(500)), fates)
            spool.append(publication(number + 2, bytes(500)), fates)
            record = spool.take()
            assert record is not None
            spool.remove(record)  # the only one that is on the disk; more are behind it
            await fates.count(2)
            rest = taken(spool)
            assert ids(rest) == [number + 1, number + 2]
            for record in rest:
                spool.remove(record)

    life(tmp_path, story, limit=64 * 1024)


def test_records_on_their_way_to_a_segment_that_grows_no_more_hold_it(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, 0)
        (record,) = taken(spool)
        spool.remove(record)
        assert await appended(
            spool, publication(1), publication(2, bytes(8000)), publication(3, bytes(100_000)), publication(4)
        ) == [Spooled.WRITTEN, Spooled.WRITTEN, Spooled.FULL, Spooled.WRITTEN]  # FULL: it looks for what can be deleted
        assert ids(taken(spool)) == [1, 2, 4]

    life(tmp_path, story, limit=64 * 1024)
    assert left(tmp_path) == [1, 2, 4]


def test_a_segment_in_which_nothing_is_left_yet_goes_on_growing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "PROGRESS_SECONDS", 0)

    async def story(spool: DiskSpool) -> None:
        for number in range(20):
            await filled(spool, number)
            (record,) = taken(spool)
            assert ids([record]) == [number]
            spool.remove(record)
            await asyncio.to_thread(os.stat, tmp_path)  # the loop turns: it is noted
        await filled(spool, 20)
        assert len(segments(tmp_path)) == 1, "a file for every message would be slow"

    life(tmp_path, story)
    assert left(tmp_path) == [20]


def test_what_was_removed_long_ago_stays_removed(tmp_path: Path) -> None:
    async def remove(spool: DiskSpool, *which: int) -> None:
        for record in taken(spool):
            if ids([record])[0] in which:
                spool.remove(record)

    life(tmp_path, lambda spool: filled(spool, *range(100)))
    life(tmp_path, lambda spool: remove(spool, *(n for n in range(100) if n not in (5, 50))))
    life(tmp_path, lambda spool: remove(spool, 5))
    assert left(tmp_path) == [50]


def test_numbers_never_go_back(tmp_path: Path) -> None:
    async def keep(spool: DiskSpool, count: int) -> None:
        for record in taken(spool)[count:]:
            spool.remove(record)

    async def number_of_the_next(spool: DiskSpool) -> int:
        await filled(spool, 7)
        return max(record.number for record in taken(spool))

    for _ in range(3):
        life(tmp_path, lambda spool: filled(spool, 1, 2, 3))
    life(tmp_path, lambda spool: keep(spool, 2))
    life(tmp_path, lambda spool: keep(spool, 1))
    assert life(tmp_path, number_of_the_next) > 9
    life(tmp_path, lambda spool: keep(spool, 0))
    assert life(tmp_path, number_of_the_next) > 10


def test_files_that_are_deleted_are_not_held_open(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, 3)
        records = taken(spool)
        spool.rewind()
        assert spool.take() == records[0]  # its file is open for reading now
        spool.remove(records[0])
        await eventually(lambda: _segments_are(tmp_path, 3))
        assert not [name for name in _open_files() if name.startswith(str(tmp_path)) and name.endswith("(deleted)")]

    for number in range(3):
        life(tmp_path, lambda spool, number=number: filled(spool, number))  # type: ignore[misc]
    life(tmp_path, story)


def test_it_is_full_at_its_limit_and_takes_more_when_something_went(tmp_path: Path) -> None:
    body = bytes(1000)

    async def story(spool: DiskSpool) -> None:
        fates = await appended(spool, *(publication(n, body) for n in range(100)))
        written = fates.count(Spooled.WRITTEN)
        assert 50 <= written <= 64
        assert set(fates[written:]) == {Spooled.FULL}
        assert spool.fault == "", "full is not broken"
        used = sum(file.stat().st_size for file in segments(tmp_path))
        assert used == spool.bytes <= 64 * 1024
        for record in taken(spool)[:10]:
            spool.remove(record)
        assert await appended(spool, publication(100, body)) == [Spooled.WRITTEN]
        assert ids(taken(spool)) == [100]

    life(tmp_path, story, limit=64 * 1024)
    assert left(tmp_path)[-1] == 100


def test_a_message_larger_than_the_limit_is_refused_and_one_larger_than_a_segment_is_not(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        large, larger = publication(1, bytes(40_000)), publication(2, bytes(70_000))
        assert await appended(spool, publication(0), large, larger) == [Spooled.WRITTEN] * 2 + [Spooled.FULL]
        assert [len(record.publication.body) for record in taken(spool)] == [6, 40_000]

    life(tmp_path, story, limit=64 * 1024)


def test_it_is_full_at_its_number_of_records(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        fates = await appended(spool, *map(publication, range(12)))
        assert fates == [Spooled.WRITTEN] * 10 + [Spooled.FULL] * 2

    life(tmp_path, story, records=10)


def test_appends_of_one_turn_share_a_sync_and_are_told_in_order(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        told: list[int] = []
        last = Recorder[Spooled]()
        for number in range(500):
            spool.append(publication(number), lambda _, number=number: told.append(number))  # type: ignore[misc]
        spool.append(publication(500), last)
        assert not told, "never before the sync"
        await last.count(1)
        assert told == list(range(500))

    life(tmp_path, story)


def test_closing_waits_for_what_was_appended(tmp_path: Path) -> None:
    fates: list[Spooled] = []

    async def story(spool: DiskSpool) -> None:
        for number in range(50):
            spool.append(publication(number), fates.append)

    life(tmp_path, story)
    assert fates == [Spooled.WRITTEN] * 50
    assert left(tmp_path) == list(range(50))


def test_what_comes_after_closing_fails(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, 1)
        (record,) = taken(spool)
        await spool.close()
        assert await appended(spool, publication(2)) == [Spooled.FAILED]
        spool.remove(record)  # a confirm that came late
        assert spool.take() is None

    life(tmp_path, story)


def test_a_callback_that_raises_harms_nobody_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(spool: DiskSpool) -> None:
        def bad(_: Spooled) -> None:
            raise RuntimeError("from the test")

        fates = Recorder[Spooled]()
        spool.append(publication(1), bad)
        spool.append(publication(2), fates)
        assert await fates.count(1) == [Spooled.WRITTEN]
        assert ids(taken(spool)) == [1, 2]

    life(tmp_path, story)
    assert "the callback of an append failed" in caplog.text


# --- the directory ----------------------------------------------------------------------------------------------------------


def test_nobody_else_may_look_into_it(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "spool"
    life(directory, lambda spool: filled(spool, 1))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}


def test_no_word_of_a_message_is_in_a_file_name(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        await appended(spool, Publication("../x", "../../etc", b"x", "../../../evil", "call"))

    directory = tmp_path / "spool"
    life(directory, story)
    assert [entry.name for entry in tmp_path.iterdir()] == ["spool"]
    assert all("evil" not in file.name for file in directory.iterdir())


def test_a_link_instead_of_a_segment_is_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    life(directory, lambda spool: filled(spool, 1))
    (file,) = segments(directory)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolUnusable, match=r"cannot be read .* move the file away"):
        left(directory)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    life(tmp_path, lambda spool: filled(spool, 1))
    for name in ("notes.txt", "1-2-3.v1", "x.v2"):
        (tmp_path / name).write_bytes(b"mine")
    assert left(tmp_path) == [1]
    assert (tmp_path / "notes.txt").read_bytes() == b"mine"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        # A second descriptor is as good as a second process here: the lock is on the open file.
        message = f"the spool's directory {tmp_path} is in use by process {os.getpid()}: stop that one"
        with pytest.raises(SpoolUnusable, match=message):
            DiskSpool(tmp_path, 2**20, ManualClock())

    life(tmp_path, story)
    life(tmp_path, lambda spool: filled(spool, 1))


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolUnusable, match=r"file/spool cannot be made: .*Not a directory"):
        DiskSpool(tmp_path / "file" / "spool", 2**20, ManualClock())


# --- what an interrupted write leaves ---------------------------------------------------------------------------------------


def _written(tmp_path: Path, count: int) -> Path:
    life(tmp_path, lambda spool: filled(spool, *range(count)))
    (file,) = segments(tmp_path)
    return file


def test_a_tail_torn_at_any_byte_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = _written(tmp_path, 3)
    whole = file.read_bytes()
    begin = len(whole) * 2 // 3
    assert len(whole) % 3 == 0
    for size in range(begin, len(whole)):
        file.write_bytes(whole[:size])
        assert left(tmp_path) == [0, 1], size
        assert file.stat().st_size == begin, size
    assert not list(tmp_path.glob("lost-*"))
    assert "cut off" in caplog.text or not caplog.text


def test_zeros_where_the_file_system_had_made_room_are_cut_off(tmp_path: Path) -> None:
    file = _written(tmp_path, 3)
    whole = file.read_bytes()
    file.write_bytes(whole + bytes(5000))
    assert left(tmp_path) == [0, 1, 2]
    assert file.read_bytes() == whole
    assert not list(tmp_path.glob("lost-*"))


def test_after_a_torn_tail_numbers_go_on_without_a_gap(tmp_path: Path) -> None:
    file = _written(tmp_path, 3)
    file.write_bytes(file.read_bytes()[:-1])
    life(tmp_path, lambda spool: filled(spool, 12))
    assert left(tmp_path) == [0, 1, 12]
    assert not list(tmp_path.glob("lost-*"))


def test_a_torn_tail_that_could_not_be_cut_is_no_loss_later(tmp_path: Path) -> None:
    file = _written(tmp_path, 3)
    torn = file.read_bytes()[:-1]
    file.write_bytes(torn)
    life(tmp_path, lambda spool: filled(spool, 12))
    file.write_bytes(torn)
    assert left(tmp_path) == [0, 1, 12]
    assert not list(tmp_path.glob("lost-*"))


def test_records_of_a_failed_write_that_stayed_are_not_taken_for_what_came_after(tmp_path: Path) -> None:
    file = _written(tmp_path, 3)
    failed = file.read_bytes()
    file.write_bytes(failed[: len(failed) * 2 // 3])
    life(tmp_path, lambda spool: filled(spool, 12))
    file.write_bytes(failed)  # the cut had not reached the disk when the power went
    assert left(tmp_path) == [0, 1, 12]
    assert not list(tmp_path.glob("lost-*"))


# --- damage -----------------------------------------------------------------------------------------------------------------


def _reports(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_bytes()) for file in sorted(directory.glob("lost-*.json"))]


def _flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x55
    file.write_bytes(data)


def test_a_damaged_record_is_skipped_and_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = _written(tmp_path, 5)
    size = file.stat().st_size // 5
    _flip(file, 3 * size - 1)

    async def story(spool: DiskSpool) -> None:
        assert ids(taken(spool)) == [0, 1, 3, 4]
        (loss,) = spool.losses
        assert (loss.segment, loss.first, loss.last, loss.message_id) == (file.name, 3, 3, "m2")

    life(tmp_path, story)
    assert (tmp_path / "lost-20260921T141320.000000Z-1.json").exists()
    (report,) = _reports(tmp_path)
    assert report["at"] == "2026-09-21T14:13:20.000+00:00"
    assert report["lost"] == [
        {"segment": file.name, "first": 3, "last": 3, "message_id": "m2", "why": "its checksum is wrong"}
    ]
    assert "1 messages in the spool are damaged and lost" in caplog.text
    assert b"body" not in next(tmp_path.glob("lost-*")).read_bytes()

    async def again(spool: DiskSpool) -> None:
        assert ids(taken(spool)) == [0, 1, 3, 4]
        assert spool.losses == []

    life(tmp_path, again)
    assert len(_reports(tmp_path)) == 1


def test_damage_to_what_was_removed_is_no_loss(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, *range(5))
        for record in taken(spool)[:3]:
            spool.remove(record)

    life(tmp_path, story)
    (file,) = segments(tmp_path)
    _flip(file, 40)
    assert left(tmp_path) == [3, 4]
    assert _reports(tmp_path) == []


def test_damage_that_takes_a_whole_segment_is_reported_once_too(tmp_path: Path) -> None:
    for number in range(3):
        life(tmp_path, lambda spool, number=number: filled(spool, number))  # type: ignore[misc]
    _flip(segments(tmp_path)[1], 40)
    for _ in range(3):
        assert left(tmp_path) == [0, 2]
    assert [len(report["lost"]) for report in _reports(tmp_path)] == [1]


def test_what_is_missing_between_segments_is_reported(tmp_path: Path) -> None:
    for number in range(4):
        life(tmp_path, lambda spool, number=number: filled(spool, number))  # type: ignore[misc]
    segments(tmp_path)[1].unlink()
    segments(tmp_path)[1].write_bytes(b"")
    assert left(tmp_path) == [0, 3]
    (report,) = _reports(tmp_path)
    assert [(loss["first"], loss["last"]) for loss in report["lost"]] == [(2, 2), (3, 3)]


def test_what_is_missing_before_and_behind_everything_is_reported_where_progress_knows(tmp_path: Path) -> None:
    async def remove_even(spool: DiskSpool) -> None:
        await filled(spool, 5)
        for record in taken(spool):
            if ids([record])[0] % 2 == 0:
                spool.remove(record)

    for number in range(5):
        life(tmp_path, lambda spool, number=number: filled(spool, number))  # type: ignore[misc]
    life(tmp_path, remove_even)
    assert left(tmp_path) == [1, 3, 5]
    segments(tmp_path)[0].unlink()
    assert left(tmp_path) == [3, 5]
    (report,) = _reports(tmp_path)
    assert [(loss["first"], loss["last"]) for loss in report["lost"]] == [(2, 2)]
    for file in segments(tmp_path):
        file.unlink()
    assert left(tmp_path) == []
    assert [(loss["first"], loss["segment"]) for loss in _reports(tmp_path)[-1]["lost"]] == [(2, ""), (4, "")]


def test_what_is_damaged_while_it_waits_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "REPORT_SECONDS", 0)

    async def story(spool: DiskSpool) -> None:
        await filled(spool, *range(5))
        (file,) = segments(tmp_path)
        _flip(file, file.stat().st_size // 5 + 30)
        assert ids(taken(spool)) == [0, 2, 3, 4]
        assert [(loss.first, loss.why) for loss in spool.losses] == [(2, "its checksum is wrong")]
        assert spool.waiting == 4

    life(tmp_path, story)
    assert left(tmp_path) == [0, 2, 3, 4]
    assert len(_reports(tmp_path)) == 1, "the next process knew of it"


def test_a_segment_that_vanished_is_a_loss_not_an_end(tmp_path: Path) -> None:
    async def story(spool: DiskSpool) -> None:
        segments(tmp_path)[0].unlink()
        assert ids(taken(spool)) == [2]
        assert (len(spool.losses), spool.lost) == (2, 2)
        assert "No such file" in spool.losses[0].why

    life(tmp_path, lambda spool: filled(spool, 0, 1))
    life(tmp_path, lambda spool: filled(spool, 2))
    life(tmp_path, story)


def test_a_report_that_cannot_be_read_is_said_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = _written(tmp_path, 2)
    _flip(file, 30)
    (tmp_path / "lost-old.json").write_text("{")
    assert left(tmp_path) == [1]
    assert "lost-old.json is not a loss report" in caplog.text


@pytest.mark.parametrize("content", [b"", b"short", bytes(20), b"\xff" * 20, bytes(1000)])
def test_progress_that_cannot_be_read_repeats_and_loses_nothing(tmp_path: Path, content: bytes) -> None:
    async def story(spool: DiskSpool) -> None:
        await filled(spool, *range(5))
        for record in taken(spool)[:3]:
            spool.remove(record)

    life(tmp_path, story)
    (tmp_path / "progress").write_bytes(content)
    life(tmp_path, lambda spool: filled(spool, 5))
    assert left(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_progress_that_was_damaged_and_is_well_again_skips_nothing(tmp_path: Path) -> None:
    async def remove_all(spool: DiskSpool) -> None:
        for record in taken(spool):
            spool.remove(record)

    life(tmp_path, lambda spool: filled(spool, *range(100)))
    life(tmp_path, remove_all)
    progress = (tmp_path / "progress").read_bytes()
    (tmp_path / "progress").write_bytes(b"damaged")
    life(tmp_path, lambda spool: filled(spool, 1, 2, 3))
    (tmp_path / "progress").write_bytes(progress)
    assert left(tmp_path) == [1, 2, 3]


def test_progress_torn_at_any_byte_is_the_one_before(tmp_path: Path) -> None:
    async def remove_one(spool: DiskSpool) -> None:
        record = spool.take()
        assert record is not None
        spool.remove(record)

    life(tmp_path, lambda spool: filled(spool, *range(5)))
    file = tmp_path / "progress"
    for expected in range(2):
        before = file.read_bytes() if expected else b""
        life(tmp_path, remove_one)
        after = file.read_bytes()
        slot = SLOT * ((expected + 1) % 2)
        for at in range(slot, slot + 60):
            file.write_bytes(after[:at] + before[at:])
            assert left(tmp_path) in ([*range(expected, 5)], [*range(expected + 1, 5)])
        file.write_bytes(after)


def test_more_left_behind_than_progress_can_tell_repeats_and_loses_nothing(tmp_path: Path) -> None:
    """Of the first ones every other is removed, of the last ones all."""
    count = 2 * MOST + 2000
    kept = [*range(0, 2 * MOST + 100, 2)]

    async def remove(spool: DiskSpool) -> None:
        for record in taken(spool):
            if ids([record])[0] not in kept:
                spool.remove(record)

    async def fill(spool: DiskSpool) -> None:
        await filled(spool, *range(count))

    life(tmp_path, fill, limit=2**20)
    life(tmp_path, remove, limit=2**20)
    found = left(tmp_path)
    assert found[:MOST] == kept[:MOST]
    assert found[MOST:] == [*range(2 * MOST, count)]
    assert not list(tmp_path.glob("lost-*"))
