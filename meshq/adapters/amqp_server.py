"""What the server says of itself, and what follows from its version."""

from collections.abc import Mapping
from typing import NamedTuple

from meshq.ports import Priorities


class Server(NamedTuple):
    product: str
    """`RabbitMQ`, as a rule."""
    version: str
    """`3.10.8`; "" where the server does not say."""

    @property
    def priorities(self) -> Priorities:
        """Of quorum queues: strict from 4.3 on, two levels from 4.0 on, none before (RabbitMQ's guide on quorum queues, and
        the release notes of 4.0 and 4.3). An unknown version or product promises nothing."""
        if self.product != "RabbitMQ":
            return Priorities.IGNORED
        version = _numbers(self.version)
        if version >= (4, 3):
            return Priorities.STRICT
        return Priorities.TWO_LEVELS if version >= (4, 0) else Priorities.IGNORED


def read(properties: Mapping[str, object]) -> Server:
    """From the server properties of the connection's start."""
    return Server(_text(properties.get("product")), _text(properties.get("version")))


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _numbers(version: str) -> tuple[int, int]:
    """`4.3.0-rc.1` -> (4, 3); (0, 0) for what is no version."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)
