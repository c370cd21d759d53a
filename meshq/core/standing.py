"""Whether an instance consumes, and what it is: one decision from all that speaks for and against it.

Everything that can stop an instance from being given messages is a field of `Circumstances`, and nothing else decides: health of
its app, its own pause, an operator's pause, draining, services it waits for, another process under its id.
"""

from typing import NamedTuple

from meshq.core.instances import Service, State


class Circumstances(NamedTuple):
    serves: bool
    """It has an app that is given messages; one that only calls out has not."""
    well: bool = False
    """Its app answers the probe. Without an app this counts for nothing."""
    ever_well: bool = False
    paused: bool = False
    """By itself."""
    ordered_pause: bool = False
    """By an operator."""
    draining: bool = False
    """Does not end but with the process."""
    waiting: bool = False
    """For services of MESHQ_WAIT_FOR."""
    fenced: bool = False
    """Another process has its id."""


class Standing(NamedTuple):
    told: State
    """What the registry is told. It knows of pauses apart, because they have an end and somebody who made them."""
    state: State
    """What it is for readers (instances.visible_state)."""
    consumes: bool


def standing(here: Circumstances) -> Standing:
    told = _told(here)
    paused = here.paused or here.ordered_pause
    shown = State.PAUSED if paused and told is not State.DRAINING else told
    return Standing(told, shown, here.serves and shown is State.READY and not here.fenced)


def _told(here: Circumstances) -> State:
    if here.draining:
        return State.DRAINING
    if here.waiting or (here.serves and not here.ever_well):
        return State.STARTING
    return State.READY if here.well or not here.serves else State.UNHEALTHY


def panics(service: Service) -> bool:
    """Whether everybody who should serve it is unhealthy, those left out that go or went: rather the probes, or what they all depend
    on, than each of them. Then to fail every call would help nobody: calls wait in their queues whatever the route policy says; that
    is said, and nobody is given up."""
    states = {i.state for i in service.instances if i.majors} - {State.DOWN, State.DRAINING}
    return states == {State.UNHEALTHY}
