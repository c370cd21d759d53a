"""Traces that are made: kinds of load, each with parameters drawn from a seed. The same kind and seed give the same trace."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

from meshq.core.scaling_values import ScalingPolicy
from meshq.simulate.traces import Failing, Outage, Slow, Span, Trace

MAX = 60
HOUR = 3600.0

Rate = Callable[[float], float]
"""Messages a second at a second of the trace."""


def made(kind: str, seed: int) -> Trace:
    """Raises KeyError for a kind that is not in KINDS."""
    return KINDS[kind](f"{kind}-{seed}", Random(f"{kind}:{seed}"))


def arrivals(random: Random, rate: Rate, lasts: float) -> list[float]:
    """A Poisson process whose rate is looked at once a second."""
    found: list[float] = []
    for second in range(math.ceil(lasts)):
        now = rate(second + 0.5)
        if now <= 0:
            continue
        at = second + random.expovariate(now)
        while at < min(second + 1, lasts):
            found.append(at)
            at += random.expovariate(now)
    return found


def _trace(
    name: str,
    random: Random,
    times: list[float],
    *,
    service: float,
    spread: float,
    slots: int,
    wait: float,
    **other: Any,
) -> Trace:
    """`spread`: the services' standard deviation over their mean; they are lognormal."""
    variance = math.log(1 + spread**2)
    location, deviation = math.log(service) - variance / 2, math.sqrt(variance)
    messages = tuple((round(at, 4), round(random.lognormvariate(location, deviation), 5)) for at in times)
    return Trace(name, messages, slots=slots, policy=ScalingPolicy(wait=wait, max=MAX), **other)


def _for(rate: float, service: float, slots: int) -> int:
    """Replicas that were there before, for a steady load."""
    return math.ceil(rate * service / slots / 0.75)


def _usual(random: Random) -> dict[str, Any]:
    return {
        "service": random.uniform(0.4, 1.6),
        "spread": random.choice((0.3, 0.6, 1.0)),
        "slots": random.choice((2, 4)),
        "wait": random.choice((5.0, 10.0, 15.0)),
    }


def _steady(name: str, random: Random) -> Trace:
    usual, rate, lasts = _usual(random), random.uniform(4, 10), 0.75 * HOUR
    times = arrivals(random, lambda _: rate, lasts)
    return _trace(name, random, times, lasts=lasts, replicas=_for(rate, usual["service"], usual["slots"]), **usual)


def _sine(name: str, random: Random) -> Trace:
    """A day's curve, 50 to 300 messages a second, in small."""
    usual, scale, period = _usual(random), random.uniform(0.03, 0.055), random.uniform(1500, 2700)
    phase = random.uniform(0, 2 * math.pi)

    def rate(at: float) -> float:
        return scale * (175 + 125 * math.sin(2 * math.pi * at / period + phase))

    times = arrivals(random, rate, HOUR)
    return _trace(name, random, times, lasts=HOUR, replicas=_for(rate(0), usual["service"], usual["slots"]), **usual)


def _step(name: str, random: Random) -> Trace:
    """Ten times as much from one moment to another."""
    low, begins, lasts = random.uniform(4, 7), random.uniform(500, 700), random.uniform(240, 400)
    service, slots, wait = random.uniform(0.3, 0.8), random.choice((2, 4)), random.choice((2.0, 5.0, 10.0))

    def rate(at: float) -> float:
        return low * (10 if begins <= at < begins + lasts else 1)

    return _trace(
        name, random, arrivals(random, rate, 1800), service=service, spread=0.5, slots=slots, wait=wait,
        lasts=1800.0, replicas=_for(low, service, slots), steps=(math.floor(begins),),
    )  # fmt: skip


def _bursts(name: str, random: Random) -> Trace:
    """Of 20 s, every four minutes."""
    return _bursty(name, random, every=240.0, lasts=20.0, wait=10.0, high=random.uniform(30, 60))


def _spaced_bursts(name: str, random: Random) -> Trace:
    """A little further apart than the five minutes that an HPA remembers."""
    every, lasts = random.uniform(330, 450), random.uniform(25, 50)
    return _bursty(name, random, every=every, lasts=lasts, wait=5.0, high=random.uniform(25, 50))


def _short_bursts(name: str, random: Random) -> Trace:
    every, lasts = random.uniform(25, 70), random.uniform(2, 5)
    return _bursty(
        name, random, every=every, lasts=lasts, wait=random.choice((3.0, 5.0, 10.0)), high=random.uniform(40, 80)
    )


def _bursty(name: str, random: Random, *, every: float, lasts: float, wait: float, high: float) -> Trace:
    low, phase = random.uniform(0.2, 2), random.uniform(0, every)
    service, slots = random.uniform(0.3, 0.7), random.choice((2, 4))

    def rate(at: float) -> float:
        return high if (at + phase) % every < lasts else low

    return _trace(
        name, random, arrivals(random, rate, HOUR), service=service, spread=0.5, slots=slots, wait=wait,
        lasts=HOUR, replicas=_for(low, service, slots),
    )  # fmt: skip


def _batch(name: str, random: Random) -> Trace:
    """Up to 20,000 messages at once, and half an hour later again."""
    size = random.randrange(12_000, 20_000)
    service, slots, wait = random.uniform(0.2, 0.5), random.choice((4, 8)), random.choice((60.0, 120.0, 300.0))
    times = [begins + part / size * 10 for begins in (120.0, 1920.0) for part in range(size)]
    return _trace(name, random, times, service=service, spread=0.5, slots=slots, wait=wait, lasts=HOUR)


def _long(name: str, random: Random) -> Trace:
    """Jobs of a minute, one at a time, and for a while three times as many of them."""
    low, begins = random.uniform(0.05, 0.12), random.uniform(1200, 1800)
    service, lasts = random.uniform(50, 70), random.uniform(900, 1500)

    def rate(at: float) -> float:
        return low * (3 if begins <= at < begins + lasts else 1)

    return _trace(
        name, random, arrivals(random, rate, 5400), service=service, spread=0.3, slots=1, wait=60.0, lasts=5400.0,
        replicas=_for(low, service, 1), grace=random.choice((30.0, 120.0)), steps=(math.floor(begins),),
    )  # fmt: skip


def _slow_downstream(name: str, random: Random) -> Trace:
    """What the app calls takes four times as long for five minutes."""
    begins = random.uniform(600, 1200)
    return _disturbed(name, random, slow=(Slow(Span(math.floor(begins), math.floor(begins) + 300.0), 4.0),))


def _errors(name: str, random: Random) -> Trace:
    """Most messages fail for five minutes, and come back."""
    begins, part = math.floor(random.uniform(600, 1200)), round(random.uniform(0.5, 0.9), 2)
    return _disturbed(name, random, failing=(Failing(Span(begins, begins + 300.0), part),))


def _disturbed(name: str, random: Random, **other: Any) -> Trace:
    usual, rate = _usual(random), random.uniform(3, 8)
    times = arrivals(random, lambda _: rate, 2400)
    return _trace(
        name, random, times, lasts=2400.0, replicas=_for(rate, usual["service"], usual["slots"]), **usual, **other
    )


def _sparse(name: str, random: Random) -> Trace:
    """One message in ten minutes."""
    times = arrivals(random, lambda _: 1 / 600, 4 * HOUR)
    service, wait = random.choice((0.2, 1.0, 5.0)), random.choice((10.0, 30.0))
    return _trace(name, random, times, service=service, spread=0.3, slots=2, wait=wait, lasts=4 * HOUR)


def _outage(name: str, random: Random) -> Trace:
    """The broker's statistics are away for a minute, three times, while load goes up and down."""
    usual, low = _usual(random), random.uniform(2, 4)
    missing, period = random.random() < 0.5, random.uniform(600, 1200)

    def rate(at: float) -> float:
        return low * (2 - math.cos(2 * math.pi * at / period))

    times = arrivals(random, rate, 2400)
    outages = tuple(Outage(Span(at, at + 60.0), missing) for at in (500.0, 1100.0, 1700.0))
    replicas = _for(rate(0), usual["service"], usual["slots"])
    return _trace(name, random, times, lasts=2400.0, replicas=replicas, outages=outages, **usual)


def _ramp(name: str, random: Random) -> Trace:
    """Evenly up for half an hour, and down faster."""
    usual, low, high = _usual(random), random.uniform(0.5, 1.5), random.uniform(12, 18)
    down = random.uniform(300, 900)

    def rate(at: float) -> float:
        if at < 1800:
            return low + (high - low) * at / 1800
        return max(low, high - (high - low) * (at - 1800) / down)

    times = arrivals(random, rate, 3000)
    return _trace(name, random, times, lasts=3000.0, replicas=_for(low, usual["service"], usual["slots"]), **usual)


KINDS: dict[str, Callable[[str, Random], Trace]] = {
    "batch": _batch,
    "bursts": _bursts,
    "errors": _errors,
    "long-jobs": _long,
    "outage": _outage,
    "ramp": _ramp,
    "short-bursts": _short_bursts,
    "sine": _sine,
    "slow-downstream": _slow_downstream,
    "spaced-bursts": _spaced_bursts,
    "sparse": _sparse,
    "steady": _steady,
    "step": _step,
}

TRAINING_SEEDS = (1, 2)
HELD_OUT_SEEDS = (3, 4)
RULE = "of each kind, seeds 1 and 2 are for training, and seeds 3 and 4 are held out"


def training() -> list[Trace]:
    return [made(kind, seed) for kind in KINDS for seed in TRAINING_SEEDS]


def held_out() -> list[Trace]:
    return [made(kind, seed) for kind in KINDS for seed in HELD_OUT_SEEDS]
