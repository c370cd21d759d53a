"""A picture of a trace: what came, what waited, and how many replicas each rule had."""

import io
import math
from collections.abc import Sequence

from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meshq.simulate.outcomes import Outcome
from meshq.simulate.traces import Trace

SIZE = (10.0, 7.5)
"""Inches, at DPI."""
DPI = 80
BINS = 180
"""Over which arrivals are counted."""
COLOURS = ("#0060c0", "#d04000", "#208040", "#8040a0", "#00a0b0", "#505050")
"""Of rules, in their order, from the first again where there are more."""


def png(trace: Trace, outcomes: Sequence[Outcome]) -> bytes:
    """The same for the same arguments and version of matplotlib, whatever somebody has set for their own pictures."""
    with rc_context(rcParamsDefault):
        return _png(trace, outcomes)


def _png(trace: Trace, outcomes: Sequence[Outcome]) -> bytes:
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    came, waited, replicas = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.3, 1.3))
    _arrivals(came, trace)
    for number, outcome in enumerate(outcomes):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "linewidth": 1.6 if number == 0 else 0.9,
            "zorder": 3.0 if number == 0 else 2.0,
        }
        times = [point.at for point in outcome.points]
        waited.plot(times, [point.waiting for point in outcome.points], **style)
        replicas.plot(
            times,
            [point.replicas for point in outcome.points],
            drawstyle="steps-post",
            label=outcome.controller,
            **style,
        )
    waited.set_ylabel("messages waiting")
    waited.set_yscale("symlog", linthresh=10)
    waited.set_ylim(bottom=0)
    replicas.set_ylabel("replicas")
    replicas.set_xlabel("seconds")
    figure.legend(loc="outside lower center", ncols=len(outcomes))
    figure.suptitle(
        f"{trace.name}: target {trace.policy.wait:g} s, {trace.service:.3g} s a message, {trace.slots} at once a replica"
    )
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def _arrivals(axes: Axes, trace: Trace) -> None:
    width = max(1.0, math.ceil(trace.lasts / BINS))
    counts = [0] * (int(trace.lasts // width) + 1)
    for at, _ in trace.arrivals:
        counts[int(at // width)] += 1
    axes.stairs(
        [count / width for count in counts],
        [number * width for number in range(len(counts) + 1)],
        fill=True,
        color="#808080",
    )
    axes.set_ylabel("messages/s")
    for disturbances, colour in ((trace.outages, "#d0a000"), (trace.slow, "#c06060"), (trace.failing, "#c06060")):
        for each in disturbances:
            axes.axvspan(each[0].begins, each[0].ends, color=colour, alpha=0.35)
