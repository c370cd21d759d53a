"""What the spool's disk lost: `lost-<time>.json` beside the segments, for whoever has to find out what was in it. Ids only,
never content."""

import json
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)


class Loss(NamedTuple):
    """Records that cannot be read any more, from number `first` to `last` of a segment. They had been acknowledged, unless the
    power went while they were being written."""

    segment: str
    first: int
    last: int
    message_id: str
    """Of the first of them, as far as it can be read; else ""."""
    why: str

    @property
    def records(self) -> int:
        return self.last - self.first + 1


def known(directory: Path) -> set[tuple[str, int]]:
    """(segment, first) of what reports there tell already: damage is found again at every start until its segment goes."""
    found = set[tuple[str, int]]()
    for file in directory.glob("lost-*.json"):
        try:
            found.update((loss["segment"], loss["first"]) for loss in json.loads(file.read_bytes())["lost"])
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning("%s is not a loss report that can be read", file)
    return found


def report(directory: Path, losses: Sequence[Loss], now_ms: int) -> None:
    """Write it beside the segments, and to the log, where it is also if the disk takes no more. `now_ms` is Unix
    milliseconds."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    file = _unused(directory, f"lost-{now:%Y%m%dT%H%M%S.%f}Z")
    content = {"at": now.isoformat(timespec="milliseconds"), "lost": [loss._asdict() for loss in losses]}
    where = f"reported in {file}"
    try:
        _write(file, json.dumps(content, indent=1).encode() + b"\n")
    except OSError as error:
        where = f"{file} cannot be written ({error}), so here they are: {content['lost']}"
    logger.error(
        "%d messages in the spool are damaged and lost: the disk under %s gives back other bytes than were written; %s",
        sum(loss.records for loss in losses), directory, where,
    )  # fmt: skip


def _unused(directory: Path, name: str) -> Path:
    candidates = (directory / f"{name}-{number}.json" for number in count(1))
    return next(file for file in candidates if not file.exists())


def _write(file: Path, content: bytes) -> None:
    new = file.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(fd)
    new.replace(file)
