"""Splitting calls among versions by weight: at random, or so that the same value always goes the same way.

What sticks does so by weighted rendezvous hashing (Thaler and Ravishankar 1998 for the highest random weight; Schindelhauer and
Schomaker 2005 for -ln(u)/w): each version draws a number u of (0, 1) from the value and its own major, and the one with the
least -ln(u)/weight has it. A version with twice the weight wins twice as often, every sidecar comes to the same result without
asking another, and when the weight of a version grows values move only to it, when it shrinks only away from it.
"""

from bisect import bisect_right
from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate
from math import log

DRAWS = 2**32
"""How many different draws there are."""


class Shares:
    """`weights`: major -> its weight, above 0; at least one."""

    def __init__(self, weights: Mapping[int, int]) -> None:
        total = sum(weights.values())
        self._majors = tuple(weights)
        self._ends = tuple(end * DRAWS // total for end in accumulate(weights.values()))
        self._lots = tuple((major, major.to_bytes(8, "big"), -1 / weight) for major, weight in weights.items())

    def at(self, draw: int) -> int:
        """The major that has this draw, which is below DRAWS and as likely as any other."""
        return self._majors[bisect_right(self._ends, draw)]

    def of(self, value: bytes) -> int:
        """The major that this value sticks to."""
        best, least = self._majors[0], float("inf")
        for major, salt, slowness in self._lots:
            drawn = int.from_bytes(blake2b(value, digest_size=8, salt=salt).digest(), "big")
            score = log((drawn + 0.5) / 2**64) * slowness
            if score < least:
                best, least = major, score
        return best
