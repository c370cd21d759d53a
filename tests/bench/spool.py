"""The spool beside what it is made of: `python -m tests.bench.spool`.

`spool` is closed loops over meshq.adapters.spool: so many appends are under way, each that is acknowledged makes room for the
next. `raw` writes records of the same size with one write each and calls fsync after as many of them as the spool put into
one sync the last time, in a loop, in one thread: what a careful user of files writes, and no more. `joined` does the same with one write for the whole group, which
nobody can do to whom records come one at a time.

Rates mean something only beside the raw one of their own round: rounds are shuffled, medians are of ratios.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import uvloop

from meshq.adapters.clock import SystemClock
from meshq.adapters.spool import DiskSpool
from meshq.adapters.spool_format import MARKER, head_of, pack
from meshq.adapters.spool_writer import Outcome
from meshq.core.topology import CALLS
from meshq.ports import Publication, Spooled
from tests.bench.measure import BODY

RESULTS = Path(__file__).parent / "results"
AT_ONCE = (1, 8, 32, 100, 256)
WARM_UP = 0.2
LIMIT = 8 * 2**30
RECORDS = 50_000_000
PUBLICATION = Publication(CALLS, "orders.v1.work", BODY, "0123456789abcdef0123456789abcdef", "call", "shop.results")


@dataclass
class Sample:
    case: str
    at_once: int
    rate: float
    """Records a second."""
    group: float
    """Records a sync, the mean."""
    cpu_us: float
    """Microseconds of this process a record, both threads together."""
    round: int = 0


def spool(directory: Path, at_once: int, seconds: float) -> Sample:
    return uvloop.run(_spool(directory, at_once, seconds))


async def _spool(directory: Path, at_once: int, seconds: float) -> Sample:
    found = DiskSpool(directory, LIMIT, SystemClock(), max_records=RECORDS)
    loop = asyncio.get_running_loop()
    written, groups, running, going = 0, 0, 0, True
    over = asyncio.Event()

    def done(fate: Spooled) -> None:
        nonlocal written, running
        assert fate is Spooled.WRITTEN, fate
        written += 1
        if going:
            found.append(PUBLICATION, done)
        else:
            running -= 1
            if not running:
                over.set()

    def stop() -> None:
        nonlocal going
        going = False

    told = found._intake.told

    def counted(outcome: Outcome) -> None:
        nonlocal groups
        groups += 1
        told(outcome)

    found._intake.told = counted  # type: ignore[method-assign]
    try:
        for measured in (WARM_UP, seconds):
            over.clear()
            running, written, groups, going = at_once, 0, 0, True
            loop.call_later(measured, stop)
            begun, cpu = time.perf_counter(), time.process_time()
            for _ in range(at_once):
                found.append(PUBLICATION, done)
            await over.wait()
            took, used = time.perf_counter() - begun, time.process_time() - cpu
    finally:
        await found.close()
    return Sample("spool", at_once, written / took, written / groups, used * 1e6 / written)


def raw(directory: Path, group: int, seconds: float) -> Sample:
    return _raw("raw", directory, group, seconds, lambda fd, records: [os.write(fd, record) for record in records])


def joined(directory: Path, group: int, seconds: float) -> Sample:
    return _raw("joined", directory, group, seconds, lambda fd, records: os.write(fd, b"".join(records)))


def _raw(case: str, directory: Path, group: int, seconds: float, write: Callable[[int, list[bytes]], object]) -> Sample:
    payload = pack(PUBLICATION)
    records = [head_of(payload, bytes(MARKER), 1) + payload] * group
    fd = os.open(directory / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for measured in (WARM_UP, seconds):
            written = 0
            begun, cpu = time.perf_counter(), time.process_time()
            end = begun + measured
            while (now := time.perf_counter()) < end:
                write(fd, records)
                os.fsync(fd)
                written += group
            took, used = now - begun, time.process_time() - cpu
    finally:
        os.close(fd)
    return Sample(case, 0, written / took, group, used * 1e6 / written)


def rounds(number: int, seconds: float, folder: Path | None, seed: int = 7) -> list[Sample]:
    """Every case at every concurrency, in each round in another order; what is compared runs one right after the other. `folder`
    says which disk."""
    samples: list[Sample] = []
    groups = {at_once: at_once for at_once in AT_ONCE}
    for count in range(number):
        shuffle = random.Random(seed + count)
        pairs = [
            (case, at_once)
            for at_once in shuffle.sample(AT_ONCE, len(AT_ONCE))
            for case in shuffle.sample((spool, raw, joined), 3)
        ]
        for case, at_once in pairs:
            with tempfile.TemporaryDirectory(dir=folder) as directory:
                sample = case(Path(directory), at_once if case is spool else groups[at_once], seconds)
            if case is spool:
                groups[at_once] = round(sample.group)
            sample.at_once, sample.round = at_once, count
            samples.append(sample)
            print(
                f"round {count + 1}/{number}  {sample.case} at {at_once}: {sample.rate:,.0f}/s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return samples


def table(samples: list[Sample]) -> str:
    floors = {(s.case, s.round, s.at_once): s.rate for s in samples}
    rows = [
        "| at once | spool /s | × raw (range) | × joined | records a sync | raw /s | joined /s | CPU us: spool, raw |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for at_once in AT_ONCE:
        ours = [s for s in samples if (s.case, s.at_once) == ("spool", at_once)]
        ratios = [s.rate / floors["raw", s.round, at_once] for s in ours]
        joins = [s.rate / floors["joined", s.round, at_once] for s in ours]
        rates = {case: median(s.rate for s in samples if (s.case, s.at_once) == (case, at_once)) for case in CASES}
        cpu = {case: median(s.cpu_us for s in samples if (s.case, s.at_once) == (case, at_once)) for case in CASES}
        rows.append(
            f"| {at_once} | {rates['spool']:,.0f} | {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
            f"| {median(joins):.2f} | {median(s.group for s in ours):.0f} | {rates['raw']:,.0f} | {rates['joined']:,.0f} "
            f"| {cpu['spool']:.1f}, {cpu['raw']:.1f} |"
        )
    return "\n".join(rows)


CASES = ("spool", "raw", "joined")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.spool", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: where temporary files go")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    samples = rounds(arguments.rounds, arguments.seconds, arguments.folder, arguments.seed)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"spool-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps([asdict(sample) for sample in samples], indent=1))
    print(table(samples))
    print(f"\nwritten to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")


if __name__ == "__main__":
    main()
