"""Durations and sizes as people write them."""

import pytest

from meshq.core.durations import parse_duration_ms, parse_size


@pytest.mark.parametrize(
    ("text", "ms"),
    [("250ms", 250), ("2s", 2000), ("1m", 60_000), ("1h", 3_600_000), ("12d", 12 * 86_400_000), ("1.5s", 1500), ("0.25m", 15_000),
     ("1.999s", 1999), ("0s", 0), (" 2s ", 2000), ("1.5ms", 1), ("366d", 366 * 86_400_000)],
)  # fmt: skip
def test_durations(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    ["", "2", "s", "-1s", "1.s", ".5s", "1.0001s", "2 s", "2S", "1h30m", "1e3s", "inf", "٢s", "367d", "9" * 13 + "s"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|is longer than a year"):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("1B", 1),
        ("512KiB", 2**19),
        ("4MiB", 2**22),
        ("1 GiB", 2**30),
        ("1kB", 1000),
        ("2MB", 2_000_000),
        ("1GB", 10**9),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "4mib", "4M", "-1", "1.5MiB", "4  MiB", "4MiBx", "٤", "9" * 13])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
