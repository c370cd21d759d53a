"""Consuming begins and ends as often as the standing changes, and no more; the mesh is told what it does not know yet."""

from meshq.core.instances import State
from meshq.core.standing import Circumstances
from meshq_sidecar.duty import Duty


def make(first: Circumstances) -> tuple[Duty, list[object]]:
    did: list[object] = []
    return Duty(first, lambda: did.append("start"), lambda: did.append("stop"), did.append), did


def test_the_life_of_an_instance() -> None:
    duty, did = make(Circumstances(serves=True, waiting=True))
    assert (duty.told, duty.state, duty.consumes, did) == (State.STARTING, State.STARTING, False, [])
    steps: list[tuple[dict[str, bool], State, list[object]]] = [
        ({"well": True, "ever_well": True}, State.STARTING, []),
        ({"waiting": False}, State.READY, [State.READY, "start"]),
        ({"waiting": False}, State.READY, []),
        ({"paused": True}, State.PAUSED, ["stop"]),
        ({"ordered_pause": True}, State.PAUSED, []),
        ({"well": False}, State.PAUSED, [State.UNHEALTHY]),
        ({"paused": False}, State.PAUSED, []),
        ({"ordered_pause": False}, State.UNHEALTHY, []),
        ({"well": True}, State.READY, [State.READY, "start"]),
        ({"fenced": True}, State.READY, ["stop"]),
        ({"draining": True}, State.DRAINING, [State.DRAINING]),
    ]
    for changes, state, expected in steps:
        did.clear()
        duty.note(**changes)
        assert (duty.state, did) == (state, expected), changes


def test_one_that_only_calls_out_is_ready_and_consumes_nothing() -> None:
    duty, did = make(Circumstances(serves=False))
    assert (duty.state, duty.consumes) == (State.READY, False)
    duty.note(paused=True)
    duty.note(paused=False)
    assert did == []
