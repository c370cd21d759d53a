"""Route policies as people write them in YAML and JSON (INTERFACE part 6), read and shown.

Majors may be written as text or as numbers, dates as YAML's own or as text. A null is the same as nothing. What is shown is
read again as the same policy.
"""

from collections.abc import Collection
from types import MappingProxyType
from typing import Any

from meshq.core import names
from meshq.core.durations import show_duration_ms
from meshq.core.policy import Deprecation, Policy, WhenAbsent
from meshq.core.policy_fields import (
    BadPolicy,
    Reading,
    check_same_service,
    parse_retry,
    read_allow,
    read_backlog_limit,
    read_deprecated,
    read_fallback,
    read_mirror,
    read_sticky,
    read_timeout_ms,
    read_weights,
    read_when_absent,
    show_moment,
)
from meshq.core.scaling_policy import read_scaling, scaling_as_json

__all__ = ["BadPolicy", "doubts", "parse_policy", "parse_retry", "policy_as_json"]

KEYS = (
    "service",
    "weights",
    "sticky",
    "mirror",
    "fallback",
    "whenAbsent",
    "deprecated",
    "timeout",
    "retry",
    "backlogLimit",
    "allow",
    "scale",
)


def parse_policy(service: str, data: object, *, now_ms: int = 0, before: Policy | None = None) -> Policy:
    """The policy of `service` from JSON or YAML. A deprecation that does not say since when it is one has been told since `before`
    (the policy that is replaced) said so, else since `now_ms`, Unix milliseconds. Raises BadPolicy with every fault."""
    names.check_service(service)
    reading = Reading(data, KEYS, '{weights: {"1": 90, "2": 10}}')
    reading.take("service", lambda value: check_same_service(value, service), None)
    weights = reading.take("weights", read_weights, dict[int, int]())
    sticky = reading.take("sticky", read_sticky, "")
    mirror = reading.take("mirror", read_mirror, None)
    fallback = reading.take("fallback", read_fallback, tuple[int, ...]())
    when_absent = reading.take("whenAbsent", read_when_absent, _usual(fallback))
    since = {} if before is None else {major: told.since_ms for major, told in before.deprecated.items()}
    deprecated = reading.take(
        "deprecated", lambda value: read_deprecated(value, since, now_ms), dict[int, Deprecation]()
    )
    timeout_ms = reading.take("timeout", read_timeout_ms, None)
    retry = reading.take("retry", parse_retry, None)
    backlog_limit = reading.take("backlogLimit", read_backlog_limit, None)
    allow = reading.take("allow", read_allow, None)
    scale = reading.take("scale", read_scaling, None)
    if when_absent is WhenAbsent.FALLBACK and not fallback and reading.well("fallback"):
        reading.faults.append(("whenAbsent", 'fallback needs a list of versions, as in fallback: ["1"]'))
    if mirror is not None and [major for major, weight in weights.items() if weight] == [mirror.to]:
        reading.faults.append(
            ("mirror.to", f"every call goes to {mirror.to} already (weights), so there is nothing to copy")
        )
    reading.end()
    return Policy(
        service,
        MappingProxyType(weights),
        sticky,
        mirror,
        fallback,
        when_absent,
        MappingProxyType(deprecated),
        timeout_ms,
        retry,
        backlog_limit,
        allow,
        scale,
    )


def policy_as_json(policy: Policy) -> dict[str, Any]:
    """As INTERFACE part 6 writes it; what is not said is left out. `parse_policy` reads it as the same policy."""
    said: dict[str, Any] = {"service": policy.service}
    if policy.weights:
        said["weights"] = {str(major): weight for major, weight in sorted(policy.weights.items())}
    if policy.sticky:
        said["sticky"] = f"header:{policy.sticky}"
    if policy.mirror is not None:
        percent = policy.mirror.percent
        said["mirror"] = {"to": str(policy.mirror.to), "percent": int(percent) if percent == int(percent) else percent}
    if policy.fallback:
        said["fallback"] = [str(major) for major in policy.fallback]
    if policy.when_absent is not _usual(policy.fallback):
        said["whenAbsent"] = policy.when_absent.value
    if policy.deprecated:
        said["deprecated"] = {str(m): _deprecation_as_json(told) for m, told in sorted(policy.deprecated.items())}
    if policy.timeout_ms is not None:
        said["timeout"] = show_duration_ms(policy.timeout_ms)
    if policy.retry is not None:
        delays = [show_duration_ms(round(seconds * 1000)) for seconds in policy.retry.delays]
        said["retry"] = {"attempts": policy.retry.attempts, "delays": delays}
    if policy.backlog_limit is not None:
        said["backlogLimit"] = policy.backlog_limit
    if policy.allow is not None:
        said["allow"] = sorted(policy.allow)
    if policy.scale is not None:
        said["scale"] = scaling_as_json(policy.scale)
    return said


def doubts(policy: Policy, majors: Collection[int]) -> list[str]:
    """What an operator should be told of a policy that is well in itself: it names majors that the service (`majors`) never had,
    which get no calls until an instance of them has registered; or it has a part that is without effect."""
    named = [
        ("weights", [major for major, weight in policy.weights.items() if weight]),
        ("mirror.to", [policy.mirror.to] if policy.mirror is not None else []),
        ("fallback", policy.fallback),
        ("deprecated", policy.deprecated),
    ]
    there = ", ".join(f"v{major}" for major in sorted(majors)) or "no version yet"
    found = [
        f"{key}: no instance of {policy.service} ever served v{major}; it has {there}"
        for key, wanted in named
        for major in wanted
        if major not in majors
    ]
    if policy.fallback and policy.when_absent is not WhenAbsent.FALLBACK:
        found.append(f"fallback is not looked at with whenAbsent: {policy.when_absent.value}")
    return found


def _usual(fallback: Collection[int]) -> WhenAbsent:
    """What a policy with such a list means that does not say `whenAbsent`."""
    return WhenAbsent.FALLBACK if fallback else WhenAbsent.WAIT


def _deprecation_as_json(told: Deprecation) -> dict[str, str]:
    said = {"since": show_moment(told.since_ms)}
    if told.sunset_ms is not None:
        said["sunset"] = show_moment(told.sunset_ms)
    if told.link:
        said["link"] = told.link
    return said
