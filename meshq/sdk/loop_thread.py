"""An event loop in a thread of its own, for code that blocks."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextvars import copy_context
from typing import Any, TypeVar
from weakref import WeakSet

from meshq.sdk import inherited
from meshq.sdk.problem import closed

T = TypeVar("T")

UNWIND = 5.0
"""Seconds for what is not waited for any more to let go of what it has."""


class LoopThread:
    """A daemon thread, from its first use. A forked process has the object but not the thread, and starts another."""

    def __init__(self) -> None:
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        """Held where something is given to the loop, and where the loop is taken away: nothing is given to one that has stopped."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._loop is not None

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine returns or raises. The context variables of the caller are its too, so a call from inside a handler
        inherits what that handles.

        Raises:
            RuntimeError: on the thread itself, which cannot wait for what it is to do.
            Problem: `unavailable`: it was stopped meanwhile.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("this blocks, and was called on its own event loop: there, use `SyncMesh.mesh`, a Mesh")
        context = copy_context()
        ended = threading.Event()

        async def within() -> T:
            try:
                return await asyncio.get_running_loop().create_task(make(), context=context)
            finally:
                ended.set()

        with self._lock:
            future = asyncio.run_coroutine_threadsafe(within(), self._started())
        try:
            return future.result()
        except CancelledError:
            raise closed() from None
        except BaseException:
            if not future.done():  # Ctrl-C: nobody waits for it any more
                future.cancel()
                ended.wait(UNWIND)
            raise

    def stop(self) -> None:
        """Whoever still waits for something gets Problem `unavailable`."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=loop.run_forever, name="meshq", daemon=True)
            self._thread.start()
        return self._loop

    def begin_anew(self) -> None:
        """In a forked process: the loop and whatever it has are the parent's. Also its tasks: one that is finalised runs its end."""
        if self._loop is not None:
            inherited.keep(self._loop, self._thread, asyncio.all_tasks(self._loop))
        self._begin()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


_all: WeakSet[LoopThread] = WeakSet()


def _begin_anew() -> None:
    """In a forked process, before any other thread is there that could be doing the same."""
    for each in _all:
        each.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)
