"""Connections that a forked process has from its parent: they are the parent's, and not a byte of ours may go there."""

import os
from asyncio import AbstractEventLoop
from collections.abc import Mapping
from typing import Any

_kept: list[Any] = []
"""Never finalised: their destructors would take the descriptors out of an event loop's epoll, which is the parent's too."""


def forget(transports: Mapping[AbstractEventLoop, Any]) -> None:
    """Let go of them without a word to the other end. What they hold is replaced by /dev/null, so that the other end notices when
    the parent closes; the objects stay."""
    for loop, transport in list(transports.items()):
        _kept.append((loop, transport))
        for descriptor in _descriptors(transport):
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, descriptor)
            os.close(null)


def _descriptors(transport: Any) -> list[int]:
    way = getattr(transport, "way", None)
    return list(way.descriptors) if way is not None else []
