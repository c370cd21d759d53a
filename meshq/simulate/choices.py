"""Scaling rules by name, with the values that they were given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from meshq.core import scaling
from meshq.core.scaling_memory import START
from meshq.simulate.baselines import Aws, Keda, Usage
from meshq.simulate.ours import Ours, OursThroughHpa, Rule
from meshq.simulate.seen import Controller
from meshq.simulate.traces import Trace

OURS = "meshq"
OURS_THROUGH_HPA = "meshq-hpa"
AGAINST = ("keda-depth", "keda-rate", "aws", "hpa")

_RULE = Rule(START, scaling.advance, scaling.woken)
_KINDS: dict[str, Callable[..., Controller]] = {
    "keda-depth": Keda,
    "keda-rate": Keda,
    "aws": Aws,
    "hpa": Usage,
    OURS: partial(Ours, rule=_RULE),
    OURS_THROUGH_HPA: partial(OursThroughHpa, rule=_RULE),
}

Values = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A rule and its values, by the names of its constructor's arguments. `made` is a seen.Make."""

    name: str
    values: Values = ()

    def made(self, trace: Trace, random: Random) -> Controller:
        values: dict[str, Any] = dict(self.values)
        return _KINDS[self.name](trace, random, **values)

    @property
    def text(self) -> str:
        """`keda-rate depth=0.5 load=0.7 window=120`"""
        return " ".join((self.name, *(f"{key}={value:g}" for key, value in self.values)))


def choice(name: str, values: Mapping[str, float] | None = None) -> Choice:
    return Choice(name, tuple(sorted((values or {}).items())))
