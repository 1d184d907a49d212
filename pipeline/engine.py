"""Where work runs: processes of this machine, started, watched, stopped, and started again.

A task is a video, or a shard. A process that dies (killed for want of memory, say) takes its pool
with it. What was finished is on disk by then; `again` has the rest done by new processes.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import TypeVar

import cv2

from pipeline.errors import UserError
from pipeline.progress import bar

POLL_SECONDS = 0.2
RESTARTS = 2  # a task that kills its process three times would kill it for ever

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shared:
    """What the workers share with the main process."""

    done: Synchronized  # units of the bar, by all workers together
    stop: Event  # set when the run is over: by an error elsewhere, or by Ctrl-C


_shared: Shared | None = None  # set once in each worker


class Stopped(Exception):
    """Ends a worker's task when the run is over before it is done."""


class Died(Exception):
    """Raised by a task whose own child process was killed: it is not done, and nothing is wrong."""


class Pool:
    """Worker processes and what they share; use `opened`."""

    def __init__(self, workers: int, preload: str) -> None:
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            context.set_forkserver_preload([preload])  # one import for all workers
        self.shared = Shared(context.Value("q", 0), context.Event())
        self.executor = ProcessPoolExecutor(workers, context, _start_worker, (self.shared,))

    def watch(self, running: Iterable[Future], total: int, what: str, unit: str) -> None:
        """Moves the bar as workers `count`; raises the first error that a worker raises."""
        running = set(running)
        with bar(what=what, unit=unit, total=total or None) as progress:
            while running:
                done, running = wait(running, timeout=POLL_SECONDS)
                for future in done:
                    future.result()
                progress.update(self.shared.done.value - progress.n)
            progress.total = progress.n  # it may have been an estimate


@contextmanager
def opened(workers: int, preload: str):
    """A pool that is stopped at the end, also in the middle of a task. `preload`: a module."""
    pool = Pool(workers, preload)
    try:
        yield pool
    finally:
        pool.shared.stop.set()
        pool.executor.shutdown(cancel_futures=True)


def again(
    work: Callable[[], Result], workers: int, under_way: Callable[[], list[str]] = list
) -> Result:
    """`work()`, done again where a process died; a UserError if that happens too often.

    `under_way()` names the tasks that were at work at that moment.
    """
    for _ in range(RESTARTS):
        try:
            return work()
        except (BrokenProcessPool, Died):
            print("a working process was killed; going on with new ones", file=sys.stderr)
    try:
        return work()
    except (BrokenProcessPool, Died):
        names = under_way()
        at = f" (the last time at {', '.join(names)})" if names else ""
        raise UserError(
            f"working processes were killed {RESTARTS + 1} times{at}, most likely for want "
            f"of memory; free some, or set engine.workers = {workers} lower"
        ) from None


def count(units: int) -> None:
    """Reports progress from within a worker; raises Stopped when the run is over."""
    if _shared is None:
        return
    with _shared.done.get_lock():
        _shared.done.value += units
    if _shared.stop.is_set():
        raise Stopped


def _start_worker(shared: Shared) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    cv2.setNumThreads(1)  # a process a core is all the parallelism there is to have
    threading.Thread(target=_end_with_main, daemon=True).start()


def _end_with_main() -> None:
    """Ends a worker whose main process was killed.

    Left alone it would write the files that the next run writes, and then wait for ever.
    """
    multiprocessing.parent_process().join()
    os._exit(1)
