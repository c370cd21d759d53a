"""Durations and sizes as people write them: `250ms`, `2s`, `1m`, `4MiB`."""

import re

_DURATION = re.compile(r"(\d{1,12})(?:\.(\d{1,3}))?(ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(r"(\d{1,12})\s?(B|KiB|MiB|GiB|kB|MB|GB)?", re.ASCII)
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNIT_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_duration_ms(text: str) -> int:
    """`1.5s` -> 1500. Raises ValueError, which names the units."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a duration such as 250ms, 2s, 1m or 1h")
    whole, fraction, unit = match.groups()
    milliseconds = (
        int(whole) * _UNIT_MS[unit] + (int(fraction) * _UNIT_MS[unit]) // 10 ** len(fraction or "")
        if fraction
        else int(whole) * _UNIT_MS[unit]
    )
    if milliseconds > 366 * _UNIT_MS["d"]:
        raise ValueError(f"{text[:40]!r} is longer than a year")
    return milliseconds


def show_duration_ms(milliseconds: int) -> str:
    """In the largest unit that gives a whole number: 120000 -> `2m`, 1500 -> `1500ms`."""
    if not milliseconds:
        return "0s"
    unit = next(unit for unit, size in reversed(_UNIT_MS.items()) if milliseconds % size == 0)
    return f"{milliseconds // _UNIT_MS[unit]}{unit}"


def parse_size(text: str) -> int:
    """`4MiB` -> 4194304; a bare number is bytes. Raises ValueError, which names the units."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a size such as 65536, 512KiB or 4MiB")
    return int(match[1]) * _UNIT_BYTES[match[2] or "B"]
