"""What a forked process has from its parent: connections are the parent's, and not a byte of ours may go there; event loops too."""

import os
from asyncio import AbstractEventLoop
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshq.sdk.transport import Transport

_kept: list[object] = []
"""Never finalised: their destructors would take descriptors out of an event loop's epoll, which is the parent's too."""


def keep(*things: object) -> None:
    """Let go of them without finalising them."""
    _kept.append(things)


def forget(transports: "Mapping[AbstractEventLoop, Transport]") -> None:
    """Let go of them without a word to the other end. Their sockets are replaced by /dev/null, so that the other end notices when the
    parent closes; the objects stay."""
    for loop, transport in list(transports.items()):
        keep(loop, transport)
        for descriptor in transport.descriptors:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, descriptor)
            os.close(null)
