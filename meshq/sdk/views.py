"""Who is there, as `Mesh.services` and `Mesh.watch` give it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshq.core.http import HttpResponse, header


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version of a service."""

    version: str
    topic: str | None
    """None where it takes no messages."""
    instances: int
    ready: int
    states: tuple[tuple[str, int], ...]
    """How many instances are in which state."""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service.

    Example:
        >>> orders = ServiceView("orders", (VersionView("2.0.0", "orders.v2", 2, 1, (("ready", 1), ("starting", 1))),), 7, False)
        >>> orders.ready
        1
    """

    name: str
    versions: tuple[VersionView, ...]
    index: int
    """Of the picture it was read from; it grows."""
    stale: bool
    """The registry is away, and this is what was last known."""

    @property
    def ready(self) -> int:
        """Instances that take messages now, of all versions."""
        return sum(version.ready for version in self.versions if version.topic is not None)


def view_of(said: Mapping[str, Any], response: HttpResponse) -> ServiceView:
    index = header(response.headers, b"meshq-index") or b"0"
    versions = tuple(
        VersionView(
            str(each["version"]),
            each["topic"],
            int(each["instances"]) if isinstance(each["instances"], int) else len(each["instances"]),
            int(each["ready"]),
            tuple(sorted(each["states"].items())),
        )
        for each in said["versions"]
    )
    return ServiceView(str(said["name"]), versions, int(index), header(response.headers, b"meshq-stale") == b"true")
