"""Whether more replicas help: where they do not, something behind them is the bottleneck, and more would only queue there."""

import math
from dataclasses import replace

from meshq.core.scaling_effort import service_seconds
from meshq.core.scaling_memory import Growth, Memory
from meshq.core.scaling_values import EVERY, Sample

SMOOTHED = 2 * EVERY
LOOKS_AFTER = 4 * EVERY
"""Seconds after replicas were added, and at least two messages' time."""
HELPS = 0.25
"""The part of what added replicas should do that they do at least."""
MEANT_SOMETHING = 10.0
"""Messages that they should have done in that time at least, or it says nothing."""
SATURATED = 300.0
"""Seconds for which nothing is added then, unless the queue is empty before."""


def grown(memory: Memory, sample: Sample) -> Memory:
    """What is remembered of added replicas, with one more sample."""
    before = memory.last
    if before is None or sample.done is None or before.done is None or sample.at <= before.at:
        return memory
    seconds = sample.at - before.at
    rate = max(0.0, sample.done - before.done) / seconds
    part = 1 - math.exp(-seconds / SMOOTHED)
    settling = rate if memory.settling is None else memory.settling + part * (rate - memory.settling)
    memory = replace(memory, settling=settling)
    if not sample.waiting:
        return replace(memory, growth=None, saturated_until=0.0)
    ready, were = sample.ready or 0, before.ready or 0
    if memory.growth is None:
        return replace(memory, growth=Growth(sample.at, were, settling)) if ready > were > 0 else memory
    growth = replace(memory.growth, at=sample.at) if ready > were else memory.growth
    return _looked(replace(memory, growth=growth), growth, sample, settling, ready)


def _looked(memory: Memory, growth: Growth, sample: Sample, settling: float, ready: int) -> Memory:
    service = service_seconds(memory.effort, sample.at)
    if service is None or ready <= growth.ready:
        return replace(memory, growth=None)
    after = max(LOOKS_AFTER, 2 * service)
    if sample.at - growth.at < after:
        return memory
    promised = (ready - growth.ready) * max(1.0, sample.slots or 1.0) / service
    if promised * after < MEANT_SOMETHING:
        return replace(memory, growth=None)
    helped = settling - growth.settled >= HELPS * promised
    return replace(memory, growth=None, saturated_until=0.0 if helped else sample.at + SATURATED)


def is_saturated(memory: Memory, sample: Sample) -> bool:
    return sample.at < memory.saturated_until
