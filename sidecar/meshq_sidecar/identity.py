"""Who this sidecar is, and who sent it a message."""

from typing import NamedTuple

from meshq.core.message import Request
from meshq.core.names import OPERATOR, Version


class Identity(NamedTuple):
    """Who we are, as others see it."""

    service: str
    version: Version
    instance: str

    def __str__(self) -> str:
        return f"{self.service}/{self.version}/{self.instance}"


class Sender(NamedTuple):
    name: str
    proved: bool

    @property
    def scope(self) -> str:
        """Whose idempotency keys it may use: nobody gets the answers of another by claiming its name."""
        return self.name if self.proved else f"?{self.name}"


def sender_of(request: Request, user: str, own_service: str, proves: bool) -> Sender:
    """By the broker's word for who published the message (`user`), or, in one that our own service gave back or retried, by what
    it had found; so also where an operator brought back what our own service had buried (core/dead_replay.py). `proves`: every
    service has a broker user of its own name."""
    if user and user == request.caller:
        return Sender(user, True)
    if request.proved_caller and proves and user in (own_service, OPERATOR):
        return Sender(request.proved_caller, True)
    return Sender(request.caller, False)
