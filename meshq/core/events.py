"""What events are called: `payments.settled@1`, and the topic of one, `payments.settled.v1`."""

from typing import NamedTuple

from meshq.core import names


class EventAddress(NamedTuple):
    """`payments.settled@1`"""

    name: str
    major: int = 1

    @property
    def topic(self) -> str:
        """`payments.settled.v1`"""
        return names.topic(self.name, self.major)

    def __str__(self) -> str:
        return f"{self.name}@{self.major}"


def parse_event(text: str) -> EventAddress:
    """`<event>[@<major>]`; without a major it means @1. Raises BadName."""
    name, at, major = text.partition("@")
    return EventAddress(names.check_event(name), names.parse_major(major) if at else 1)
