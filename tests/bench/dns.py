"""Mesh DNS beside a bare asyncio UDP echo of the same sizes, in one run: `python -m tests.bench.dns`.

Every server is a process of its own on uvloop, asked over one socket with so many questions under way. `echo` sends back as many
bytes as mesh DNS would and reads nothing. `a`, `txt`, `absent` ask for names again and again, as apps do; `cookie` with an EDNS
option that is new each time, as dig does; `new` spells each name as it never was, so that every answer is made anew.

Rates mean something only beside the echo of their own round: rounds are shuffled, medians are of ratios.
"""

import argparse
import asyncio
import itertools
import json
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import uvloop

from meshq.adapters.clock import SystemClock
from meshq.adapters.dns import DnsServer, Forwarder
from meshq.core.dns import Zone
from meshq.core.dns_wire import HEADER, RECURSION_DESIRED, Edns, bare
from meshq.core.instances import Snapshot
from meshq_sidecar.naming import Naming
from tests.dns_rig import LOOPBACK, instance, picture

RESULTS = Path(__file__).parent / "results"
GOAL = 0.5
SERVICES = 300
INSTANCES = 3
UNDER_WAY = 32
WARM_UP = 0.3
KINDS = {"a": 1, "txt": 16, "absent": 1, "cookie": 1, "new": 1}


@dataclass
class Sample:
    case: str
    rate: float
    """Answers a second."""
    cpu_us: float
    """Microseconds of the server's process an answer."""
    size: int
    """Bytes of an answer, the mean."""
    round: int = 0


# --- the servers --------------------------------------------------------------------------------------------------------------------


class Echo(asyncio.DatagramProtocol):
    def __init__(self, size: int) -> None:
        self._padding = bytes(size)
        self._size = size

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto((data + self._padding)[: self._size], addr)


async def serve(size: int) -> None:
    """`size` 0: mesh DNS; else an echo that answers with so many bytes. Prints its port, and at the end of its input its CPU time."""
    loop = asyncio.get_running_loop()
    if size:
        transport, _ = await loop.create_datagram_endpoint(lambda: Echo(size), local_addr=(LOOPBACK, 0))
        port = transport.get_extra_info("sockname")[1]
    else:
        seen = _mesh()
        naming = Naming(Zone("mesh", 3600, v6=False), lambda: seen)
        port = await DnsServer(naming.names, Forwarder([], SystemClock())).listen(LOOPBACK, 0)
    print(port, flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(time.process_time(), flush=True)


def _mesh() -> Snapshot:
    return picture(
        *(
            instance(f"service-{s}", f"service-{s}-{n}", http=f"10.{s // 250}.{s % 250}.{n}:80")
            for s in range(SERVICES)
            for n in range(INSTANCES)
        )
    )


class Server:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def cpu(self) -> float:
        """Seconds so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def server(size: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "tests.bench.dns", "--serve", str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


# --- the client ---------------------------------------------------------------------------------------------------------------------


def questions(case: str) -> Iterator[bytes]:
    """Without an end."""
    asked = [_question(case, number) for number in range(SERVICES)]
    if case not in ("cookie", "new"):
        return itertools.cycle(asked)
    alter = _with_cookie if case == "cookie" else _spelled
    return (alter(packet, number) for number, packet in enumerate(itertools.cycle(asked)))


def _question(case: str, number: int) -> bytes:
    service = f"nobody-{number}" if case == "absent" else f"service-{number}"
    name = b"".join(bytes([len(label)]) + label.encode() for label in (service, "mesh"))
    packed = name + b"\0" + KINDS[case].to_bytes(2, "big") + b"\0\1"
    return bare(RECURSION_DESIRED, packed, Edns(1232), number)


def _with_cookie(packet: bytes, number: int) -> bytes:
    """RFC 7873: its code is 10, it has eight bytes. It is the last record's, whose length is the message's end."""
    return packet[:-2] + b"\0\x0c\0\x0a\0\x08" + number.to_bytes(8, "big")


def _spelled(packet: bytes, number: int) -> bytes:
    """Letters in capitals where the round through the services has a one; 38,400 in all, then it begins again."""
    changed = bytearray(packet)
    for bit in range(len("service")):
        changed[HEADER.size + 1 + bit] ^= 0x20 * (number // SERVICES >> bit & 1)
    return bytes(changed)


def drive(port: int, asked: Iterator[bytes], seconds: float) -> tuple[int, float, int]:
    """Answers, seconds, bytes of all answers. A datagram that is lost is asked again after a second without any."""
    answers = size = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((LOOPBACK, port))
        for _ in range(UNDER_WAY):
            client.send(next(asked))
        begun = time.perf_counter()
        end = begun + seconds
        while (now := time.perf_counter()) < end:
            if not select.select([client], [], [], 1.0)[0]:
                client.send(next(asked))
            for _ in range(UNDER_WAY):
                try:
                    size += len(client.recv(65_535, socket.MSG_DONTWAIT))
                except BlockingIOError:
                    break
                answers += 1
                client.send(next(asked))
    return answers, now - begun, size


def measure(case: str, asked: str, size: int, seconds: float) -> Sample:
    with server(size) as found:
        packets = questions(asked)
        drive(found.port, packets, WARM_UP)
        before = found.cpu()
        answers, took, total = drive(found.port, packets, seconds)
        cpu = found.cpu() - before
    return Sample(case, answers / took, cpu * 1e6 / answers, round(total / answers))


# --- the run ------------------------------------------------------------------------------------------------------------------------


def rounds(number: int, seconds: float, seed: int) -> list[Sample]:
    """Each case next to the echo of its sizes, which of the two comes first by chance."""
    samples: list[Sample] = []
    sizes = {case: measure(case, case, 0, 0.1).size for case in KINDS}
    for count in range(number):
        shuffle = random.Random(seed + count)
        for case in shuffle.sample(tuple(KINDS), len(KINDS)):
            for size in shuffle.sample((0, sizes[case]), 2):
                sample = measure(f"echo of {case}" if size else case, case, size, seconds)
                sample.round = count
                samples.append(sample)
                print(f"round {count + 1}/{number}  {sample.case}: {sample.rate:,.0f}/s", file=sys.stderr, flush=True)
    return samples


def table(samples: Sequence[Sample]) -> str:
    by_place = {(s.case, s.round): s for s in samples}
    rows = [
        "| asked | answers /s | × echo (range) | echo /s | bytes | CPU us an answer: ours, echo |",
        "|---|---|---|---|---|---|",
    ]
    for case in KINDS:
        ours = [s for s in samples if s.case == case]
        echoes = [by_place[f"echo of {case}", s.round] for s in ours]
        ratios = [s.rate / echo.rate for s, echo in zip(ours, echoes, strict=True)]
        rows.append(
            f"| {case} | {median(s.rate for s in ours):,.0f} | {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
            f"| {median(s.rate for s in echoes):,.0f} | {ours[0].size} "
            f"| {median(s.cpu_us for s in ours):.1f}, {median(s.cpu_us for s in echoes):.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dns", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        uvloop.run(serve(arguments.serve))
        return
    samples = rounds(arguments.rounds, arguments.seconds, arguments.seed)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"dns-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps([asdict(sample) for sample in samples], indent=1))
    print(f"### Mesh DNS beside a bare UDP echo of the same sizes (goal {GOAL} of it)\n\n{table(samples)}")
    print(f"\nwritten to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")


if __name__ == "__main__":
    main()
