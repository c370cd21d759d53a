"""An answer that is more than its body."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler returns to choose the status or add fields; a plain value is a 200 with that body, None a 204.

    Example:
        return Reply(order, status=201, headers={"Location": f"/orders/{order.id}"})
    """

    body: Any = None
    """As of `Mesh.call`."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    """None: by the body."""
