"""What is drawn where only sums are known: when messages came, and how long each took. The same random numbers give the same."""

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

CLOSE = 1e-9
"""Of the squared coefficient of variation, in proportion."""
MOST_HALVINGS = 60
MOST_UNEVEN = 0.99
"""Of the largest variation that so many values can have: there, one of them would be all and the others 0."""


class Takes(NamedTuple):
    """How long messages take."""

    mean: float
    """Seconds."""
    variation: float = 0.0
    """Squared coefficient of variation."""


def times(random: Random, count: int, begins: float, ends: float) -> list[float]:
    """As those of a Poisson process in which so many came: evenly spread, in order."""
    return sorted(random.uniform(begins, ends) for _ in range(count))


def services(random: Random, count: int, takes: Takes) -> list[float]:
    """Seconds of each message: lognormal, and so that together they have this mean and, as far as so many values can, this variation."""
    wanted = min(takes.variation, (count - 1) * MOST_UNEVEN)
    if wanted <= 0:
        return [takes.mean] * count
    normal = [random.gauss(0.0, 1.0) for _ in range(count)]
    values = _spread(normal, _deviation(normal, wanted))
    factor = takes.mean / _mean(values)
    return [factor * value for value in values]


def _deviation(normal: Sequence[float], wanted: float) -> float:
    """The standard deviation of the logarithms with which they vary as wanted: more makes them vary more."""
    low, high = 0.0, 2 * math.sqrt(math.log1p(wanted))
    while _variation(_spread(normal, high)) < wanted:
        low, high = high, 2 * high
    for _ in range(MOST_HALVINGS):
        middle = (low + high) / 2
        found = _variation(_spread(normal, middle))
        if abs(found - wanted) <= CLOSE * wanted:
            return middle
        low, high = (middle, high) if found < wanted else (low, middle)
    return high


def _spread(normal: Sequence[float], deviation: float) -> list[float]:
    """The largest is 1: none is ever too large for a float."""
    most = max(normal)
    return [math.exp(deviation * (each - most)) for each in normal]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variation(values: Sequence[float]) -> float:
    return math.fsum(value * value for value in values) / len(values) / _mean(values) ** 2 - 1
