"""Many runs, spread over processes; their results come in the order of the tasks, so that reports are the same for any number."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

WORTH_PROCESSES = 4
"""Fewer tasks are done before a process has started."""


def each(work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
    """`work` is a function of a module, and tasks and results can be pickled."""
    workers = min(os.cpu_count() or 1, len(tasks))
    if workers == 1 or len(tasks) < WORTH_PROCESSES:
        yield from map(work, tasks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, tasks)
