"""Scaling policies as people write them, in YAML, JSON or as text alone: read and shown.

scale: {min: 1, max: 20, wait: 10s, quantile: 0.95, lead: 12s, idle: 2m, stabilization: 1m, versions: {"1": {max: 2}}}
"""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from meshq.core import names
from meshq.core.durations import parse_duration_ms, show_duration_ms
from meshq.core.policy_fields import BadPolicy, Reading
from meshq.core.scaling_values import Scaling, ScalingPolicy

MOST_REPLICAS = 10_000
LONGEST = 86_400.0
"""Seconds of anything in a scaling policy."""
EXAMPLE = "{min: 0, max: 20, wait: 10s}"
KEYS = tuple(each.name for each in fields(ScalingPolicy))
"""Those of one version."""


def read_scaling(value: object) -> Scaling:
    """Raises BadPolicy with every fault."""
    reading = Reading(value, (*KEYS, "versions"), EXAMPLE)
    given = {key: each for key, each in value.items() if key in KEYS} if isinstance(value, Mapping) else {}
    usual = reading.take_all(lambda: read_policy(given), ScalingPolicy())
    versions = reading.take("versions", lambda each: _versions(each, usual), dict[int, ScalingPolicy]())
    reading.end()
    return Scaling(usual, MappingProxyType(versions))


def _versions(value: object, usual: ScalingPolicy) -> dict[int, ScalingPolicy]:
    if not isinstance(value, Mapping):
        raise ValueError('give versions, as in {"1": {max: 2}}')  # noqa: TRY004 - as for wrong values
    found, faults = {}, []
    for major, own in value.items():
        try:
            found[names.parse_major(str(major))] = read_policy(own, usual)
        except BadPolicy as error:
            faults += [(f"{major}.{key}" if key else str(major), message) for key, message in error.faults]
        except ValueError as error:
            faults.append((str(major)[:40], str(error)))
    if faults:
        raise BadPolicy(faults)
    return dict(sorted(found.items()))


def read_policy(value: object, usual: ScalingPolicy = ScalingPolicy()) -> ScalingPolicy:  # noqa: B008 - frozen
    """Of one version; what is not said is as in `usual`. Numbers may be text. Raises BadPolicy with every fault."""
    reading = Reading(value, KEYS, EXAMPLE)
    policy = ScalingPolicy(
        wait=reading.take("wait", _seconds, usual.wait),
        quantile=reading.take("quantile", _quantile, usual.quantile),
        min=reading.take("min", _replicas, usual.min),
        max=reading.take("max", _replicas, usual.max),
        lead=reading.take("lead", _seconds, usual.lead),
        idle=reading.take("idle", _seconds, usual.idle),
        stabilization=reading.take("stabilization", _seconds, usual.stabilization),
    )
    if policy.wait <= 0:
        reading.faults.append(("wait", "0s cannot be met by any number of replicas: give a time such as 1s"))
    if policy.max < 1:
        reading.faults.append(("max", "0 would let nothing run: give at least 1"))
    elif policy.min > policy.max:
        reading.faults.append(("min", f"{policy.min} is above max, which is {policy.max}"))
    reading.end()
    return policy


def _seconds(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} has no unit: write 10s or 500ms")  # noqa: TRY004
    seconds = parse_duration_ms(value) / 1000
    if seconds > LONGEST:
        raise ValueError(f"{value[:40]!r} is longer than a day")
    return seconds


def _replicas(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or int(text) > MOST_REPLICAS:
        raise ValueError(f"{text[:40]!r} is not a number of replicas from 0 to {MOST_REPLICAS}")
    return int(text)


def _quantile(value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if isinstance(value, bool) or not 0 < number < 1:
        raise ValueError(f"{str(value)[:40]!r} is not a part of the messages above 0 and below 1, such as 0.95")
    return number


def scaling_as_json(scaling: Scaling) -> dict[str, Any]:
    """`read_scaling` reads it as the same."""
    said = _policy_as_json(scaling.usual, ScalingPolicy())
    if scaling.versions:
        said["versions"] = {
            str(major): _policy_as_json(own, scaling.usual) for major, own in sorted(scaling.versions.items())
        }
    return said


def policy_as_json(policy: ScalingPolicy) -> dict[str, Any]:
    """Of one version, whole; what is not set is left out."""
    return _policy_as_json(policy, None)


def _policy_as_json(policy: ScalingPolicy, usual: ScalingPolicy | None) -> dict[str, Any]:
    return {
        key: show_duration_ms(round(value * 1000)) if key in _DURATIONS else value
        for key in KEYS
        if (value := getattr(policy, key)) is not None and (usual is None or value != getattr(usual, key))
    }


_DURATIONS = ("wait", "lead", "idle", "stabilization")
