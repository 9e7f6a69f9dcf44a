"""Work on many photos in all cores: one function over many tasks, in processes that end with their parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from s3e.utils import S3EError, cores

WORTH = 4  # tasks a process must have before starting it pays, where the number of processes is left open


def in_processes(
    function: Callable[[Any], Any], tasks: Sequence[Any], jobs: int = 0
) -> Iterator[Any]:
    """The results of `function` over `tasks`, in the order in which they are ready.

    `jobs` processes, 0 for one a core where the work is worth it; with one, the work is done right here. What the
    function raises is raised here, and tasks that have not begun are dropped.
    """
    if jobs < 0:
        raise S3EError(f"--jobs {jobs}: give a number of processes, or 0 for one a core.")
    jobs = min(jobs, len(tasks)) if jobs else min(cores(), len(tasks) // WORTH)
    if jobs <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context(
        "spawn"
    )  # a notebook's kernel has threads: it must not be forked
    with ProcessPoolExecutor(jobs, context, _begin) as pool:
        try:
            for future in as_completed([pool.submit(function, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool:
            raise S3EError(
                f"one of {jobs} processes was killed (for want of memory, or because a script began them outside of "
                "`if __name__ == '__main__'`): repeat with fewer (--jobs 1)."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In each process: leave Ctrl-C to the one that began it, compute on one core, and end when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
