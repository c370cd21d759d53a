"""Asking several servers the same thing at once, so that those that are gone cost no time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from meshq.adapters.redis_faults import FAILURES

T = TypeVar("T")


async def ask_all(asks: Sequence[Callable[[], Awaitable[T]]], grace: float) -> list[T]:
    """What was answered within `grace` seconds of the first answer, at least one. Raises what the last one failed with when all
    did."""
    running = {asyncio.ensure_future(ask()) for ask in asks}
    answers: list[T] = []
    failure: BaseException = ConnectionError("there is nobody to ask")
    left: float | None = None
    try:
        while running:
            done, running = await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for ask in done:
                error = ask.exception()
                if error is None:
                    answers.append(ask.result())
                elif isinstance(error, FAILURES):
                    failure = error
                else:
                    raise error
            if answers:
                left = grace
    finally:
        for ask in running:
            ask.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if not answers:
        raise failure
    return answers
