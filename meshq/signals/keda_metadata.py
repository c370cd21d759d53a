"""The metadata of a KEDA trigger of type `external` or `external-push`: which topic is meant, and what is wished of it."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from meshq.core.errors import Code, refuse
from meshq.core.names import check_service, parse_major
from meshq.core.policy_fields import BadPolicy
from meshq.core.scaling_policy import MOST_REPLICAS, read_policy
from meshq.core.scaling_values import ScalingPolicy
from meshq.core.selectors import parse_selector
from meshq.signals.figures import NO_WISHES, Wishes

KEYS = ("service", "version", *Wishes._fields)
ALIKE = 0.8
"""From so much likeness on (difflib) a key that is not ours is one of ours, misspelt."""
FROM_ENVIRONMENT = "FromEnv"
"""KEDA puts the variable's value in and leaves the key as it is."""
ANY_MAX = ScalingPolicy(max=MOST_REPLICAS)
"""For a `min` without a `max`: whether it is too much depends on the service's own policy."""

_ONE_MAJOR = re.compile(r"[=^~]?([0-9]+)(\..*)?", re.ASCII | re.DOTALL)

Faults = list[tuple[str, str]]
"""Key -> what is wrong with it."""


class Asked(NamedTuple):
    service: str
    major: int | None
    """None: the highest there is."""
    wishes: Wishes


def read(metadata: Mapping[str, str]) -> Asked:
    """KEDA's own keys are passed over. Raises Refused (bad-request) with all that is wrong."""
    given = {key.removesuffix(FROM_ENVIRONMENT): text for key, value in metadata.items() if (text := value.strip())}
    faults = [(key[:40], f"is no key here; {meant} is meant?") for key in metadata if (meant := _misspelt(key))]
    asked = Asked(_service(given, faults), _version(given, faults), _wishes(given, faults))
    if faults:
        said = "; ".join(f"{key}: {fault}" for key, fault in faults)
        raise refuse(Code.BAD_REQUEST, f"the trigger's metadata: {said}")
    return asked


def _misspelt(key: str) -> str:
    """The key of ours that was meant, "" for none."""
    key = key.removesuffix(FROM_ENVIRONMENT)
    return "" if key in KEYS else next(iter(get_close_matches(key.lower(), KEYS, n=1, cutoff=ALIKE)), "")


def _service(given: Mapping[str, str], faults: Faults) -> str:
    if "service" not in given:
        faults.append(("service", "is required: the name of a service, such as orders"))
        return ""
    try:
        return check_service(given["service"])
    except ValueError as error:
        faults.append(("service", str(error)))
        return ""


def _version(given: Mapping[str, str], faults: Faults) -> int | None:
    """The major of `2`, `2.1`, `2.1.0`, `^2`, `~2.1`: of what leaves no choice."""
    text = given.get("version")
    if text is None:
        return None
    one = _ONE_MAJOR.fullmatch(text)
    try:
        parse_selector(text)
        if one is not None:
            return parse_major(one[1])
        faults.append(("version", f"{text[:40]!r} does not say one major: give it as 2, ^2 or 2.1.0"))
    except ValueError as error:
        faults.append(("version", str(error)))
    return None


def _wishes(given: Mapping[str, str], faults: Faults) -> Wishes:
    wished = {key: given[key] for key in Wishes._fields if key in given}
    try:
        read = read_policy(wished, ANY_MAX)
    except BadPolicy as error:
        faults += error.faults
        return NO_WISHES
    return Wishes(**{key: getattr(read, key) for key in wished})
