"""Processes of this machine: they count in shared memory, and end with the main process."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

import cv2

from pipeline.data.executor.counting import Stopped, report_to
from pipeline.data.executor.pool import Pool


@dataclass(frozen=True)
class Shared:
    """What the workers share with the main process."""

    done: Synchronized  # units of the bar, by all workers together
    stop: Event  # set when the run is over: by an error elsewhere, or by Ctrl-C

    def count(self, units: int) -> None:
        with self.done.get_lock():
            self.done.value += units
        if self.stop.is_set():
            raise Stopped


class LocalPool(Pool):
    """`workers` processes; one that dies takes the pool with it. `preload`: a module."""

    def __init__(self, workers: int, preload: str) -> None:
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            context.set_forkserver_preload(["__main__", preload])  # one import for all workers
        self.shared = Shared(context.Value("q", 0), context.Event())
        self.executor = ProcessPoolExecutor(workers, context, _start_worker, (self.shared,))

    def done(self) -> int:
        return self.shared.done.value

    def close(self) -> None:
        self.shared.stop.set()
        self.executor.shutdown(cancel_futures=True)


def _start_worker(shared: Shared) -> None:
    report_to(shared.count)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    cv2.setNumThreads(1)  # a process a core is all the parallelism there is to have
    threading.Thread(target=_end_with_main, daemon=True).start()


def _end_with_main() -> None:
    """Ends a worker whose main process was killed.

    Left alone it would write the files that the next run writes, and then wait for ever.
    """
    multiprocessing.parent_process().join()
    os._exit(1)
