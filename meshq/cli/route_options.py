"""The options of `meshq route set`, as parts of a policy. What they mean the policy's own parser checks; here is only their form."""

from collections.abc import Callable, Mapping
from typing import Any

import typer

from meshq.core.policy_parsing import KEYS


def merged(policy: Mapping[str, Any], given: Mapping[str, Any], unset: list[str]) -> dict[str, Any]:
    """`policy` with what the options say: each takes the place of its key. None: not given. Where the fallback list is changed and
    `whenAbsent` is not given, it follows the list again (policy_parsing), or the list would be without effect."""
    unknown = [key for key in unset if key not in KEYS[1:]]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(KEYS[1:])}", param_hint="--unset")
    if given.get("fallback") is not None or "fallback" in unset:
        unset = [*unset, "whenAbsent"]
    found = {key: value for key, value in policy.items() if key not in unset}
    for key, value in given.items():
        if value is not None:
            reader = _READERS.get(key)
            found[key] = value if reader is None else reader(value, found.get(key))
    return found


def _weights(said: list[str], _: Any) -> dict[str, int]:
    return dict(_weight(each) for each in said)


def _weight(text: str) -> tuple[str, int]:
    version, equals, share = text.partition("=")
    if not equals or not share.strip().isdecimal():
        raise typer.BadParameter(f"{text!r} is not a version and its share, such as 1=90", param_hint="--weight")
    return version.strip(), int(share)


def _sticky(said: str, _: Any) -> str:
    return said if ":" in said else f"header:{said}"


def _mirror(said: str, _: Any) -> dict[str, Any]:
    version, equals, percent = said.partition("=")
    try:
        if not equals:
            raise ValueError(said)
        return {"to": version.strip(), "percent": float(percent.strip().removesuffix("%"))}
    except ValueError as error:
        raise typer.BadParameter(
            f"{said!r} is not a version and a percentage, such as 3=5", param_hint="--mirror"
        ) from error


def _deprecated(said: list[str], present: Any) -> dict[str, Any]:
    """Others stay deprecated; --unset deprecated ends all."""
    found = dict(present or {})
    for each in said:
        version, _, sunset = each.partition("=")
        told = {key: value for key, value in found.get(version.strip(), {}).items() if key != "sunset" or not sunset}
        found[version.strip()] = {**told, **({"sunset": sunset.strip()} if sunset else {})}
    return found


_READERS: dict[str, Callable[[Any, Any], Any]] = {
    "weights": _weights,
    "sticky": _sticky,
    "mirror": _mirror,
    "deprecated": _deprecated,
}
