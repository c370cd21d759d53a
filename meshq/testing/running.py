"""An async test without a plugin for async tests."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Decorate an async test function with it: it runs on an event loop of its own.

    Example:
        >>> @run
        ... async def test_that_one_and_one_make_two() -> int:
        ...     return 1 + 1
        >>> test_that_one_and_one_make_two()
        2
    """

    @wraps(test)
    def on_a_loop(*args: P.args, **kwargs: P.kwargs) -> T:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(test(*args, **kwargs))

    return on_a_loop
