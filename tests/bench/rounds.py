"""Rounds of cases, each round in another order, the floor of a group in every round in which one of its cases is."""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.bench.measure import Sample
from tests.bench.peers import Harness
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisServer


@dataclass(frozen=True)
class Bench:
    """What the cases run on."""

    cluster: Cluster
    registry: RedisServer
    url: str
    """Of the virtual host of durable.py; "" where none of its cases runs."""
    harness: Harness | None
    seconds: float
    """Measured by a closed loop."""
    count: int
    """Messages of a drain."""


class Case(NamedTuple):
    group: str
    name: str
    run: Callable[[Bench], Iterator[Sample]]

    def __str__(self) -> str:
        return f"{self.group}/{self.name}"


def chosen(cases: Sequence[Case], only: str) -> list[Case]:
    """Those that one of the words in `only`, separated by commas, is a part of (all without a word), and their floors."""
    words = [word.strip() for word in only.split(",")]
    found = [case for case in cases if any(word in str(case) for word in words)]
    groups = {case.group for case in found}
    return [case for case in cases if case in found or (case.group in groups and case.name == "floor")]


def play(cases: Sequence[Case], bench: Bench, rounds: int, seed: int) -> list[Sample]:
    samples: list[Sample] = []
    for number in range(rounds):
        order = list(cases)
        random.Random(seed + number).shuffle(order)
        for case in order:
            for sample in case.run(bench):
                sample.round = number
                samples.append(sample)
                print(f"round {number + 1}/{rounds}  {sample}", file=sys.stderr, flush=True)
    return samples
