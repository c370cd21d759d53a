"""Which Deployments the direct mode scales, and by which topic: `shop/orders-v2=orders.v2`, `shop/orders-v2=orders.v2:1-5`."""

import re
from typing import NamedTuple

from meshq.core.names import BadName, check_service, parse_topic

FORM = "<namespace>/<deployment>=<service>.v<major>[:<min>-<max>]"
_TARGET = re.compile(r"([^/=\s]+)/([^/=\s]+)=([^/=:\s]+)(?::(\d{1,5})-(\d{1,5}))?", re.ASCII)
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.ASCII)
"""Of a namespace or a Deployment."""


class Target(NamedTuple):
    namespace: str
    deployment: str
    topic: str
    min: int | None = None
    """None: as the service's scaling policy says..."""
    max: int | None = None

    @property
    def name(self) -> str:
        return f"{self.namespace}/{self.deployment}"


def parse_target(text: str) -> Target:
    """Raises ValueError, which says what is wrong and how it should look."""
    match = _TARGET.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:120]!r} is not a Deployment to scale: {FORM}")
    namespace, deployment, topic, least, most = match.groups()
    for name in (namespace, deployment):
        if len(name) > 253 or _NAME.fullmatch(name) is None:
            raise ValueError(f"{name[:80]!r} is not a name of a namespace or Deployment")
    try:
        check_service(parse_topic(topic)[0])
    except BadName as error:
        raise ValueError(f"{text[:120]!r}: {error}") from error
    if least is not None and int(least) > int(most):
        raise ValueError(f"{text[:120]!r}: the least replicas are more than the most")
    if least is not None and int(most) < 1:
        raise ValueError(f"{text[:120]!r}: at most 0 would let nothing run; give at least 1")
    return Target(namespace, deployment, topic, *((int(least), int(most)) if least is not None else ()))


def parse_targets(text: str) -> tuple[Target, ...]:
    """Comma-separated. Raises ValueError as `parse_target` does, and for a Deployment that is named twice."""
    targets = tuple(parse_target(part) for part in text.split(",") if part.strip())
    names = [target.name for target in targets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice: one topic decides on the replicas of a Deployment")
    return targets
