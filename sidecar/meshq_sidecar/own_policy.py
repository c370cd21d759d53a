"""What the route policy of this service says to its own receiving side (INTERFACE part 6): who may call it, and how often it is
tried. It is asked for every message, so that a change of it counts from the next one on.

Who a caller is, the broker proves where every service has a broker user of its own name. There a caller that is not proved is
refused like one that is not allowed, because anybody could claim a name that is. Where nothing is proved, claims have to do.

An operator's tools are a caller like others: `meshq call` and the control API reach a service with an `allow` only if that names
`meshq-control`. What they bring back from the dead letters counts as its first sender's, as it did then (identity.py), so that a
replay does what its sender may do now, and an operator who wants more changes the policy. Events and results are no calls.
"""

from collections.abc import Callable

from meshq.core.errors import Code, Problem
from meshq.core.policy import Policy, Retry
from meshq_sidecar.identity import Sender


class OwnPolicy:
    """`policy` gives it as it is now, None where there is none; `retry` counts where it says nothing else. `proves`: callers can be
    proved here."""

    def __init__(self, policy: Callable[[], Policy | None], retry: Retry, *, proves: bool) -> None:
        self._policy = policy
        self._retry = retry
        self._proves = proves

    @property
    def retry(self) -> Retry:
        policy = self._policy()
        return self._retry if policy is None or policy.retry is None else policy.retry

    def refusal(self, sender: Sender) -> Problem | None:
        """Why a call of this sender is not taken."""
        policy = self._policy()
        if policy is None or policy.allow is None:
            return None
        name = sender.name or "a caller without a name"
        if self._proves and not sender.proved:
            return Problem(
                Code.DENIED,
                f"{policy.service} takes calls of some services only, and the broker does not prove that this one is of {name}: "
                "give the caller a broker user of its own name",
            )
        if sender.name in policy.allow:
            return None
        return Problem(Code.DENIED, f"{policy.service} takes no calls of {name}: its route policy does not allow it")
