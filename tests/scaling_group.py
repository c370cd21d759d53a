"""A consumer group as it is sampled: what a test says happened since the last look, and what is decided by that."""

from dataclasses import replace
from typing import Any

from meshq.core.scaling import advance
from meshq.core.scaling_memory import START, Memory
from meshq.core.scaling_values import EVERY, Decision, Sample, ScalingPolicy

BEGIN = 1000.0
NOTHING = Sample(
    at=BEGIN, counted_at=BEGIN, waiting=0, in_flight=0, done=0.0, reported_at=BEGIN, replicas=1, ready=1, slots=1.0,
    busy=0.0, busy_squares=0.0, handled=0.0, failed=0.0,
)  # fmt: skip
"""One replica that has nothing to do and never had."""
NO_COUNTS: dict[str, Any] = {"counted_at": None, "waiting": None, "in_flight": None, "done": None}
NO_REPORTS: dict[str, Any] = {
    "reported_at": None, "slots": None, "busy": None, "busy_squares": None, "handled": None, "failed": None,
}  # fmt: skip
NO_REGISTRY: dict[str, Any] = {**NO_REPORTS, "replicas": None, "ready": None}


def replaced(sample: Sample, **changes: Any) -> Sample:
    return replace(sample, **changes)


class Group:
    """Its messages take `service` seconds each. Figures stay as they were told last; `policy` may be changed."""

    def __init__(self, policy: ScalingPolicy = ScalingPolicy(), service: float = 0.1, **first: Any) -> None:  # noqa: B008 - frozen
        self.policy = policy
        self.service = service
        self.memory: Memory = START
        self.sample = replace(NOTHING, **first)
        self.decision = self._decide(self.sample)

    @property
    def desired(self) -> int | None:
        return self.decision.desired

    def look(
        self, done: float = 0, fails: float = 0.0, after: float = EVERY, lacks: Any = None, **told: Any
    ) -> Decision:
        """`done` messages were worked off since the last look, `fails` of each failed. What the look `lacks` is told the next time."""
        last = self.sample
        at = last.at + after
        self.sample = replace(
            last,
            at=at,
            counted_at=at,
            reported_at=at,
            done=(last.done or 0) + done,
            handled=(last.handled or 0) + done,
            busy=(last.busy or 0) + done * self.service,
            busy_squares=(last.busy_squares or 0) + done * self.service**2,
            failed=(last.failed or 0) + done * fails,
        )
        self.sample = replace(self.sample, **told)
        return self._decide(replace(self.sample, **(lacks or {})))

    def pass_time(self, seconds: float, done: float = 0, follows: bool = False, **told: Any) -> Decision:
        """The same again, for so long. `follows`: there are as many replicas as were decided, at once."""
        for _ in range(round(seconds / EVERY)):
            if follows:
                told |= {"replicas": self.desired, "ready": self.desired}
            self.look(done, **told)
        return self.decision

    def _decide(self, sample: Sample) -> Decision:
        self.memory, self.decision = advance(self.memory, sample, self.policy)
        return self.decision
