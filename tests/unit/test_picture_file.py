"""The picture of the mesh on disk: it comes back as it was, or not at all."""

import os
import stat
from pathlib import Path

import pytest

from meshq.adapters.picture_file import PictureFile, cache_folder
from meshq.core.instances import Instance, Load, Orders, Pause, Service, Snapshot, State
from meshq.core.names import parse_version
from meshq.core.picture_format import Kept, decode_picture, encode_picture
from meshq.core.policy_parsing import parse_policy

URL = "redis://:secret@h:6379/0"
ORDERS = Service(
    "orders",
    {1: parse_version("1.0.0"), 2: parse_version("2.0.0-rc.1")},
    (
        Instance(
            "orders", "o-1", parse_version("2.1.0"), (1, 2), State.PAUSED, "10.0.0.7:3600", {"zone": "a"}, Load(3, 16),
            1_700_000_000_000, 7, {"http": "10.0.0.7:80"}, 15_000, Pause("lunch", 1_700_000_000_500),
            Orders(Pause("incident"), drain=True),
        ),
        Instance("orders", "o-2", parse_version("1.0.0"), (1,), State.READY),
    ),
)  # fmt: skip
POLICY = parse_policy("orders", {"weights": {"1": 90, "2": 10}, "fallback": ["1"], "timeout": "10s"})
PICTURE = Snapshot(9, {"orders": ORDERS, "batch": Service("batch", {})}, policies={"orders": POLICY}, epoch="e")
OLD = Snapshot(9, PICTURE.services, stale=True, policies=PICTURE.policies, epoch="e")


@pytest.fixture
def file(tmp_path: Path) -> PictureFile:
    return PictureFile(tmp_path / "cache", URL, "default", private=True)


def path_of(file: PictureFile) -> Path:
    return file._path


def test_it_comes_back_marked_stale(file: PictureFile) -> None:
    assert file.load() is None
    file.save(PICTURE, 1234)
    assert file.load() == Kept(OLD, 1234)
    file.save(Snapshot(10, {}), 1235)
    kept = file.load()
    assert kept is not None
    assert kept.picture == Snapshot(10, {}, stale=True)


def test_nobody_else_can_read_or_guess_it(file: PictureFile) -> None:
    file.save(PICTURE, 1)
    path = path_of(file)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "nothing is left over"
    assert "secret" not in str(path)


def test_each_mesh_and_each_registry_has_its_own(tmp_path: Path) -> None:
    files = [PictureFile(tmp_path, url, mesh, private=True) for url in ("redis://a", "redis://b") for mesh in "xy"]
    assert len({path_of(file) for file in files}) == 4


@pytest.mark.parametrize("cut", [0, 1, 16, 40, 48, 60, -1])
def test_one_that_is_cut_off_is_not_used(file: PictureFile, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    file.save(PICTURE, 1)
    path_of(file).write_bytes(path_of(file).read_bytes()[:cut])
    assert file.load() is None
    assert "is not used" in caplog.text


def test_a_flipped_bit_anywhere_is_found() -> None:
    data = encode_picture(PICTURE, 1)
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"version|damaged"):
            decode_picture(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_what_somebody_else_may_have_written_is_not_used(file: PictureFile, tmp_path: Path) -> None:
    file.save(PICTURE, 1)
    path = path_of(file)
    path.chmod(0o666)
    assert file.load() is None
    path.chmod(0o600)
    assert file.load() is not None
    path.parent.chmod(0o777)
    assert file.load() is None
    path.parent.chmod(0o700)
    real = tmp_path / "elsewhere"
    path.rename(real)
    path.symlink_to(real)
    assert file.load() is None


def test_nothing_is_written_where_others_may_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    PictureFile(folder, URL, "default", private=True).save(PICTURE, 1)
    assert list(folder.iterdir()) == []
    assert "MESHQ_SPOOL_DIR" in caplog.text
    volume = PictureFile(folder, URL, "default", private=False)  # of a pod: open to every user of it
    volume.save(PICTURE, 1)
    assert volume.load() == Kept(OLD, 1)


def test_a_disk_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    file = PictureFile(tmp_path / "file" / "cache", URL, "default", private=True)
    for _ in range(3):
        file.save(PICTURE, 1)
    assert len(caplog.records) == 1


def test_one_that_is_too_large_is_not_written(
    file: PictureFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file.save(PICTURE, 1)
    monkeypatch.setattr("meshq.adapters.picture_file.MAX_BYTES", 100)
    file.save(PICTURE, 2)
    assert "is the most" in caplog.text
    assert file.load() is None, "nor read"


def test_what_a_killed_process_left_behind_is_no_obstacle(file: PictureFile) -> None:
    file.save(PICTURE, 1)
    path_of(file).with_name(f"{path_of(file).name}.{os.getpid()}.new").write_bytes(b"half")
    file.save(PICTURE, 2)
    assert file.load() == Kept(OLD, 2)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HOME": "/home/me"}, "/home/me/.cache/meshq"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "/var/cache"}, "/var/cache/meshq"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "here"}, "/home/me/.cache/meshq"),
        ({}, None),
    ],
)
def test_where_the_cache_of_a_user_is(environment: dict[str, str], folder: str | None) -> None:
    assert cache_folder(environment) == (None if folder is None else Path(folder))
