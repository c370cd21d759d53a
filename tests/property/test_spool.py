"""The spool on a disk that gives back other bytes than were written, and against a model."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.adapters.spool import DiskSpool
from meshq.adapters.spool_format import OVERHEAD, head_of, pack, payload_of, read_head, scan, unpack
from meshq.ports import Publication, Spooled, SpoolRecord
from tests.spools import appended, filled, ids, left, life, publication, segments, taken

MARKER = bytes(range(1, 9))


def seal(payload: bytes, marker: bytes, number: int) -> bytes:
    return head_of(payload, marker, number) + payload


RECORDS = 20


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Name and content of a segment of 20 records."""
    directory = tmp_path_factory.mktemp("healthy")
    life(directory, lambda spool: filled(spool, *range(RECORDS)))
    (file,) = segments(directory)
    return file.name, file.read_bytes()


def test_any_flipped_bit_in_any_byte_loses_that_record_alone_and_says_so(
    healthy: tuple[str, bytes], tmp_path: Path
) -> None:
    name, data = healthy
    marker, first = bytes.fromhex(name.split("-")[2][:16]), int(name.split("-")[1])
    whole = scan(data, marker, first, None)
    ends = [*whole.offsets[1:], len(data)]
    for at in range(len(data)):
        hit = next(n for n, end in enumerate(ends) if at < end)
        damaged = data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]
        found = scan(damaged, marker, first, None)
        assert [n for n, gone in enumerate(found.gone) if gone] == [hit], at
        assert [(d.first, d.last) for d in found.damages] == [(first + hit, first + hit)], at
        assert list(found.offsets[:hit]) == list(whole.offsets[:hit])
        assert found.size == len(data)


@given(data=st.data())
def test_a_flipped_byte_on_the_disk_loses_one_record_and_the_next_process_reports_it(
    healthy: tuple[str, bytes], data: st.DataObject
) -> None:
    name, content = healthy
    at = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(1, 255))

    async def story(spool: DiskSpool) -> None:
        (loss,) = spool.losses
        assert ids(taken(spool)) == [n for n in range(RECORDS) if n != loss.first - 1]
        assert loss.records == 1
        assert loss.message_id in ("", f"m{loss.first - 1}") or len(loss.message_id) <= 64
        assert await appended(spool, publication(99)) == [Spooled.WRITTEN]

    with TemporaryDirectory() as directory:
        file = Path(directory) / name
        file.write_bytes(content[:at] + bytes([content[at] ^ other]) + content[at + 1 :])
        life(Path(directory), story)
        assert len(list(Path(directory).glob("lost-*.json"))) == 1
        assert left(Path(directory))[-1] == 99


bodies = st.lists(st.binary(max_size=200), min_size=1, max_size=12)


def _file(contents: list[bytes]) -> tuple[bytes, list[int]]:
    records = [seal(pack(publication(n, body)), MARKER, n + 1) for n, body in enumerate(contents)]
    offsets = [sum(map(len, records[:n])) for n in range(len(records))]
    return b"".join(records), offsets


@given(bodies, st.data())
def test_what_is_there_after_any_damage_was_written(contents: list[bytes], data: st.DataObject) -> None:
    """Cut, overwritten and shuffled at will: what is found is a record that was written, with its own number and in order."""
    file, offsets = _file(contents)
    begin = data.draw(st.integers(0, len(file)))
    length = data.draw(st.integers(0, 100))
    instead = data.draw(st.binary(max_size=100) | st.just(file[:60]) | st.just(MARKER * 3))
    damaged = file[:begin] + instead + file[begin + length :]
    found = scan(damaged, MARKER, 1, None)
    records = [file[a:b] for a, b in zip(offsets, [*offsets[1:], len(file)], strict=True)]
    for number, (offset, gone) in enumerate(zip(found.offsets, found.gone, strict=True)):
        if not gone:
            assert damaged[offset:].startswith(records[number])
    before = sum(1 for record, offset in zip(records, offsets, strict=True) if offset + len(record) <= begin)
    assert list(found.gone[:before]) == [0] * before


@given(bodies, st.integers(0, 400))
def test_a_cut_loses_what_is_behind_it_and_is_no_damage(contents: list[bytes], cut: int) -> None:
    file, offsets = _file(contents)
    size = max(0, len(file) - cut)
    found = scan(file[:size], MARKER, 1, None)
    whole = [offset for offset, end in zip(offsets, [*offsets[1:], len(file)], strict=True) if end <= size]
    assert (list(found.offsets), found.damages) == (whole, [])
    assert not any(found.gone)


@given(bodies)
def test_a_segment_inside_a_message_is_not_taken_for_records(contents: list[bytes]) -> None:
    """Even if the record that carries it is damaged: the marker is another one."""
    inner = b"".join(seal(pack(publication(n)), bytes(8), n + 1) for n in range(20))
    carrier = seal(pack(publication(0, inner)), MARKER, 1)
    following = [seal(pack(publication(n + 1, body)), MARKER, n + 2) for n, body in enumerate(contents)]
    damaged = bytearray(carrier + b"".join(following))
    damaged[10] ^= 1
    found = scan(bytes(damaged), MARKER, 1, None)
    assert list(found.gone) == [1] + [0] * len(contents)
    assert found.offsets[1] == len(carrier)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5)),
        st.tuples(st.just("take"), st.integers(1, 5)),
        st.tuples(st.just("remove"), st.integers(0, 4)),
        st.tuples(st.just("rewind"), st.just(0)),
    ),
    max_size=30,
)


@given(st.lists(steps, min_size=1, max_size=3), st.sampled_from([20_000, 10**6]))
def test_it_is_a_list_whose_middle_can_be_taken_out(lives: list[list[tuple[str, int]]], limit: int) -> None:
    """Against a model, through restarts: nothing is lost, nothing doubled within a life, order holds."""
    model: list[int] = []
    """Waiting, in order."""
    number = 0

    async def story(spool: DiskSpool, actions: list[tuple[str, int]]) -> None:
        nonlocal number
        held: list[SpoolRecord] = []
        seen = 0  # how far into the model was taken
        assert spool.waiting == len(model)
        for action, count in actions:
            if action == "append":
                for _ in range(count):
                    fate = (await appended(spool, publication(number, bytes(300))))[0]
                    if fate is Spooled.WRITTEN:
                        model.append(number)
                    else:
                        assert fate is Spooled.FULL
                        assert spool.bytes > limit // 2
                    number += 1
            elif action == "take":
                for _ in range(count):
                    record = spool.take()
                    expected = model[seen] if seen < len(model) else None
                    assert (None if record is None else ids([record])[0]) == expected
                    if record is not None:
                        held.append(record)
                        seen += 1
            elif action == "remove" and count < len(held):
                record = held.pop(count)
                spool.remove(record)
                model.remove(ids([record])[0])
                seen -= 1
            elif action == "rewind":
                spool.rewind()
                held, seen = [], 0
            assert spool.waiting == len(model)

    with TemporaryDirectory() as directory:
        for actions in lives:
            life(Path(directory), lambda spool, actions=actions: story(spool, actions), limit)  # type: ignore[misc]
        assert left(Path(directory)) == model
        assert not list(Path(directory).glob("lost-*"))


@given(
    st.builds(
        Publication,
        *(st.text(max_size=20) for _ in range(2)),
        st.binary(max_size=300),
        *(st.text(max_size=20) for _ in range(3)),
        st.none() | st.integers(0, 2**53),
        st.none() | st.integers(0, 9),
    )
)
def test_every_publication_comes_back_as_it_was(given_one: Publication) -> None:
    record = b"before" + seal(pack(given_one), MARKER, 7) + b"behind"
    head = read_head(record, 6, MARKER)
    assert head is not None
    assert (head.number, head.length) == (7, len(record) - OVERHEAD - 12)
    assert unpack(payload_of(record, 6, head)) == given_one
