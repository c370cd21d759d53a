"""What the embedded registry keeps in a file, so that versions without an instance and route policies are still known after a
restart: `{"majors": {service: {major: version}}, "policies": {service: policy}}`. Instances are not kept, because they register
again."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from meshq.core.names import Version, check_service, parse_major, parse_version
from meshq.core.policy import Policy
from meshq.core.policy_parsing import parse_policy, policy_as_json

log = logging.getLogger(__name__)


class Kept(NamedTuple):
    majors: Mapping[str, Mapping[int, Version]]
    policies: Mapping[str, Policy]


class RegistryFile:
    """At `path`; None keeps nothing. A convenience, not a record: what is not ours is not used, and what cannot be written is not
    kept; both are logged."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written: dict[str, Any] = {}

    def read(self) -> Kept:
        if self._path is None or not self._path.exists():
            return Kept({}, {})
        try:
            content = json.loads(self._path.read_text("utf-8"))
            kept = Kept(
                {check_service(name): _majors(majors) for name, majors in content["majors"].items()},
                {name: parse_policy(name, policy) for name, policy in content["policies"].items()},
            )
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            log.warning("%s is not used: %s", self._path, error)
            return Kept({}, {})
        self._written = content
        return kept

    def write(self, kept: Kept) -> None:
        if self._path is None:
            return
        content = {
            "majors": {name: {str(m): str(v) for m, v in majors.items()} for name, majors in kept.majors.items()},
            "policies": {name: policy_as_json(policy) for name, policy in kept.policies.items()},
        }
        if content == self._written:
            return
        new = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(content, indent=1), "utf-8")
            new.replace(self._path)
        except OSError as error:
            log.warning("versions and routes are not kept for the next start: %s", error)
            return
        self._written = content


def _majors(majors: Mapping[str, str]) -> dict[int, Version]:
    return {parse_major(major): parse_version(version) for major, version in majors.items()}
