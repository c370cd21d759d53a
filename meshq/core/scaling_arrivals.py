"""How many messages come in, and how old the oldest is, from counts alone: no publisher and no broker says either of a quorum queue.

Conservation: what was settled and what is there now must have come in. First in, first out: the oldest of n waiting messages is the
one that came in as the n-th last.
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import replace

from meshq.core.scaling_memory import REMEMBERED, Arrivals
from meshq.core.scaling_values import Sample

SMOOTHED = 60.0
"""Seconds over which a rate is smoothed..."""
SMOOTHED_MESSAGES = 20.0
"""...or the time of this many messages, if that is more: a rate of one a minute is no rate of one in five seconds."""
WINDOW = 10.0
WINDOW_MESSAGES = 8.0
"""The same of the window that is held against the smoothed rate."""
WINDOW_OF_WAIT = 0.5
SURPRISE = 3.0
"""Standard deviations of a Poisson process beyond which the smoothed rate is not believed any more."""
KNOWN = 1.2
"""So many times an earlier burst is still no larger than that."""
LONG_WAIT = 2.0
"""Times the lead: replicas that are ordered when a burst is there come in time."""
MAY_STAND = 0.5
"""The part of the wait for which a burst may stand in the queue, so that something is left for chance."""
TREND = 120.0
"""Seconds of which two are compared to see whether a rate grows."""
MOST_AHEAD = 1.5
"""A growing rate is extrapolated to at most this times itself."""


def counted(arrivals: Arrivals, sample: Sample) -> Arrivals:
    """With one more sample, whose counts are known. Where `done` is not, the next that knows it tells of both intervals. One in which
    the counter began anew says nothing: what was expected came."""
    if sample.done is None:
        return arrivals
    now = sample.at if sample.counted_at is None else sample.counted_at
    there = (sample.waiting or 0) + (sample.in_flight or 0)
    if not arrivals.times:
        return Arrivals((now,), (0.0,), done=sample.done, there=there)
    seconds = now - arrivals.times[-1]
    if seconds <= 0:
        return arrivals
    left = sample.done - arrivals.done
    if left < 0:
        left, net = 0.0, (arrivals.slow or 0.0) * seconds
    else:
        net = left + there - arrivals.there - arrivals.owed
    first = bisect_left(arrivals.times, now - REMEMBERED)
    return Arrivals(
        (*arrivals.times[first:], now),
        (*arrivals.totals[first:], arrivals.totals[-1] + max(0.0, net)),
        # Only what left just before can have been counted twice. Where more is missing, messages expired or were deleted.
        min(max(0.0, -net), max(arrivals.owed, arrivals.left + left)),
        _smoothed(arrivals.slow, max(0.0, net) / seconds, seconds),
        sample.done,
        there,
        left,
    )


def _smoothed(slow: float | None, rate: float, seconds: float) -> float:
    if slow is None:
        return rate
    time = max(SMOOTHED, SMOOTHED_MESSAGES / slow if slow > 0 else math.inf)
    if math.isinf(time):
        time = SMOOTHED
    return slow + (1 - math.exp(-seconds / time)) * (rate - slow)


def total_at(arrivals: Arrivals, time: float) -> float:
    """Messages that had come in by then, between two samples in proportion."""
    times, totals = arrivals.times, arrivals.totals
    right = bisect_right(times, time)
    if right == 0:
        return totals[0]
    if right == len(times):
        return totals[-1]
    part = (time - times[right - 1]) / (times[right] - times[right - 1])
    return totals[right - 1] + part * (totals[right] - totals[right - 1])


def expected_rate(arrivals: Arrivals, ahead: float, wait: float) -> float | None:
    """Messages a second in `ahead` seconds; None before two samples.

    The smoothed rate, or where it grows what it grows to, unless the last seconds contradict it by more than chance (SURPRISE): then
    theirs, and, of a growing one, on along its slope. What comes and goes within a part of the `wait` that messages have is no rate: it
    may stand in the queue. That holds for all of it where the wait is long enough for replicas that come late, and for bursts no larger
    than earlier ones, which are known to end.
    """
    slow = arrivals.slow
    if slow is None or len(arrivals.times) < 2:
        return None
    now = arrivals.times[-1]
    window = max(WINDOW, wait * WINDOW_OF_WAIT, WINDOW_MESSAGES / slow if slow > 0 else WINDOW)
    window = min(window, now - arrivals.times[0])
    if window <= 0:
        return slow
    recent = _rate(arrivals, now, window)
    surprise = _surprise(recent, slow, window)
    if surprise < -SURPRISE:
        return max(recent, slow / 2)
    if surprise <= SURPRISE:
        return max(slow, growing_rate(arrivals, now, ahead) or 0.0)
    latest = _rate(arrivals, now, min(WINDOW, window))
    if _surprise(latest, recent, min(WINDOW, window)) < -SURPRISE:
        return max(latest, slow)  # a burst that is over: it stands in the queue
    if wait >= LONG_WAIT * ahead or _is_known(arrivals, now, window):
        return max(slow, recent * (window + ahead) / (window + ahead + wait * MAY_STAND))
    if surprise < 2 * SURPRISE:
        return recent
    slope = (recent - _rate(arrivals, now - window, window)) / window
    return min(recent + max(0.0, slope) * ahead, MOST_AHEAD * recent)


def growing_rate(arrivals: Arrivals, now: float, ahead: float) -> float | None:
    """Messages a second in `ahead` seconds from `now`, along the trend of the last minutes, also where nothing was counted since; None
    where it did not grow by more than chance, or does not any more."""
    if not arrivals.times or arrivals.times[-1] - arrivals.times[0] < 2 * TREND:
        return None
    last = arrivals.times[-1]
    rate, before = _rate(arrivals, last, TREND), _rate(arrivals, last - TREND, TREND)
    if _surprise(rate, before, TREND) < SURPRISE or _surprise(_rate(arrivals, last, WINDOW), rate, WINDOW) < -SURPRISE:
        return None
    return rate + (rate - before) / TREND * (TREND / 2 + now - last + ahead)


def _is_known(arrivals: Arrivals, now: float, window: float) -> bool:
    """Whether as much came before as came in the last `window` seconds, and in so many times them, lest something that goes on is taken
    for a burst like its own beginning."""
    reach = (now - arrivals.times[0]) / 2
    spans = [seconds for seconds in (window, 2 * window, 4 * window, 8 * window) if seconds < reach]
    return bool(spans) and all(
        _rate(arrivals, now, seconds) * seconds <= KNOWN * _most_before(arrivals, now - seconds, seconds)
        for seconds in spans
    )


def _most_before(arrivals: Arrivals, until: float, seconds: float) -> float:
    last = bisect_right(arrivals.times, until)
    return most_within(replace(arrivals, times=arrivals.times[:last], totals=arrivals.totals[:last]), seconds)


def _rate(arrivals: Arrivals, until: float, seconds: float) -> float:
    return (total_at(arrivals, until) - total_at(arrivals, until - seconds)) / seconds


def _surprise(rate: float, expected: float, seconds: float) -> float:
    """Standard deviations of a Poisson process of the expected rate."""
    return (rate - expected) * seconds / math.sqrt(max(1.0, expected * seconds))


def oldest_age(arrivals: Arrivals, waiting: int, now: float) -> float | None:
    """Seconds that the head of the queues has waited, 0 where nothing does. None where it came in before anything is remembered."""
    if waiting <= 0:
        return 0.0
    if not arrivals.times:
        return None
    wanted = arrivals.totals[-1] - waiting
    if wanted < arrivals.totals[0]:
        return None
    # The first moment at which more than those before it had come in: the head is the next.
    right = bisect_right(arrivals.totals, wanted)
    if right >= len(arrivals.totals):
        return max(0.0, now - arrivals.times[-1])
    low, high = arrivals.totals[right - 1], arrivals.totals[right]
    start = arrivals.times[right - 1]
    return max(0.0, now - (start + (wanted - low) / (high - low) * (arrivals.times[right] - start)))


def most_within(arrivals: Arrivals, seconds: float) -> float:
    """The most messages that came in within any `seconds` that are remembered."""
    times, totals = arrivals.times, arrivals.totals
    most, start = 0.0, 0
    for end in range(1, len(times)):
        while times[end] - times[start] > seconds and start < end - 1:
            start += 1
        span = times[end] - times[start]
        came = totals[end] - totals[start]
        most = max(most, came if span <= seconds else came * seconds / span)
    return most
