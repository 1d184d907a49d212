"""The processes that decode, a video each: started, watched, stopped, and started again.

A process that dies (killed for want of memory, say) takes its pool with it. What was finished is
in the store by then; `again` does the rest with new processes.
"""

import multiprocessing
import os
import signal
import sys
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
RESTARTS = 2  # a video that kills its process three times would kill it for ever

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shared:
    """What the workers share with the main process."""

    decoded: Synchronized  # frames, by all workers together
    stop: Event  # set when the run is over: by an error elsewhere, or by Ctrl-C


_shared: Shared | None = None  # set once in each worker


class Stopped(Exception):
    """Ends a worker's video when the run is over before it is done."""


class Pool:
    """Worker processes and what they share; use `opened`."""

    def __init__(self, workers: int, preload: str) -> None:
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            context.set_forkserver_preload([preload])  # one import for all workers
        self.shared = Shared(context.Value("q", 0), context.Event())
        self.executor = ProcessPoolExecutor(workers, context, _start_worker, (self.shared,))

    def watch(self, running: Iterable[Future], total: int) -> None:
        """Moves the bar while workers decode; raises the first error that a worker raises."""
        running = set(running)
        with bar(what="decoding", unit="frame", total=total or None) as progress:
            while running:
                done, running = wait(running, timeout=POLL_SECONDS)
                for future in done:
                    future.result()
                progress.update(self.shared.decoded.value - progress.n)
            progress.total = progress.n  # the headers' durations were estimates


@contextmanager
def opened(workers: int, preload: str):
    """A pool that is stopped at the end, also in the middle of a video. `preload`: a module."""
    pool = Pool(workers, preload)
    try:
        yield pool
    finally:
        pool.shared.stop.set()
        pool.executor.shutdown(cancel_futures=True)


def again(work: Callable[[], Result], workers: int) -> Result:
    """`work()`, done again where a process died; a UserError if that happens too often."""
    for _ in range(RESTARTS):
        try:
            return work()
        except BrokenProcessPool:
            print("a process that decoded was killed; going on with new ones", file=sys.stderr)
    try:
        return work()
    except BrokenProcessPool:
        raise UserError(
            f"processes that decoded videos were killed {RESTARTS + 1} times, most likely for want "
            f"of memory; free some, or set engine.workers = {workers} lower"
        ) from None


def count(frames_done: int) -> None:
    """Reports progress from within a worker; raises Stopped when the run is over."""
    if _shared is None:
        return
    with _shared.decoded.get_lock():
        _shared.decoded.value += frames_done
    if _shared.stop.is_set():
        raise Stopped


def _start_worker(shared: Shared) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    cv2.setNumThreads(1)  # a process a core is all the parallelism there is to have
