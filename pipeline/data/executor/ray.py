"""Ray's processes: of a cluster that runs already, or of an instance started for this run.

Functions and small arguments travel, frames never do: all nodes see the project, and the footage,
at the same path. A process works in the folder that the run was started in. Imported only where
`engine.kind` asks for it.
"""

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import cv2
import ray
from ray import exceptions

from pipeline.data.executor.counting import Died, Stopped, report_to
from pipeline.data.executor.nodes import Home, reachable
from pipeline.data.executor.place import RESTARTS, Place
from pipeline.data.executor.pool import Pool
from pipeline.errors import UserError

OBJECT_STORE_BYTES = 100 * 10**6  # of an own instance: what travels are rows
GRACE_SECONDS = 10.0  # for tasks to remove what they have half-written
DEATHS = (
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
)


class RayPool(Pool):
    """Joins the Ray that this process is connected to, or connects, and leaves it at the end."""

    def __init__(self, place: Place) -> None:
        self.joined = ray.is_initialized()
        if not self.joined:
            _connect(place)
        self.home = Home.here(shared=bool(place.address))
        self.executor = RayExecutor(self.home)

    def done(self) -> int:
        return sum(self.executor.units)

    def close(self) -> None:
        try:
            self.executor.shutdown(cancel_futures=True)
        finally:
            self.home.leave()
            if not self.joined:
                ray.shutdown()


class RayExecutor(Executor):
    """Tasks as Ray's, each a processor; one whose process or child died is done again by Ray."""

    def __init__(self, home: Home) -> None:
        self.home, self.units, self.running = home, [], {}
        environment = {"env_vars": {"PYTHONPATH": home.python_path}}
        self.remote = ray.remote(_task).options(
            num_cpus=1, max_retries=RESTARTS, retry_exceptions=[Died], runtime_env=environment
        )

    def submit(self, work: Callable, /, *arguments: Any) -> Future:
        reference = self.remote.remote(self.home, work, *arguments)
        future = Future()
        future.set_running_or_notify_cancel()  # only Ray can cancel it
        self.running[reference] = future
        reference.future().add_done_callback(functools.partial(self._settle, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Unfinished tasks see a KeyboardInterrupt, and some time later the end."""
        left = [reference for reference, future in self.running.items() if not future.done()]
        for reference in left if cancel_futures else []:
            ray.cancel(reference)
        if left and wait:
            limit = GRACE_SECONDS if cancel_futures else None
            _, left = ray.wait(left, num_returns=len(left), timeout=limit)
        for reference in left if cancel_futures else []:
            ray.cancel(reference, force=True)

    def _settle(self, future: Future, answer: Future) -> None:
        """Ray's answer becomes ours; a thread of Ray's comes here."""
        error = answer.exception()
        if error is not None:
            future.set_exception(_plain(error))
            return
        result, units = answer.result()
        self.units.append(units)  # counted with the task: one that is done again counts once
        future.set_result(result)


def _task(home: Home, work: Callable, *arguments: Any) -> tuple[Any, int]:
    """In a worker: the result, and the units that were counted on the way."""
    _enter(home)
    units = []
    report_to(units.append)
    return work(*arguments), sum(units)


@functools.cache
def _enter(home: Home) -> None:
    """Once for a run in each worker."""
    home.enter()
    cv2.setNumThreads(1)  # a process a core is all the parallelism there is to have


def _plain(error: BaseException) -> BaseException:
    """The error that the task raised; Ray's story of it is kept as its cause."""
    if isinstance(error, exceptions.TaskCancelledError):
        return Stopped()
    if isinstance(error, DEATHS):
        return Died(str(error).partition("\n")[0])
    cause = getattr(error, "cause", None)
    if not isinstance(cause, Exception):
        return error
    cause.__cause__ = error
    return cause


def _connect(place: Place) -> None:
    """To the cluster at the address, or to an instance of this process' own."""
    own = {"num_cpus": place.workers, "object_store_memory": OBJECT_STORE_BYTES}
    own |= {"include_dashboard": False}
    with _named(place.address), _undisturbed():
        reachable(place.address)
        options = {} if place.address else own
        ray.init(place.address or "local", log_to_driver=False, logging_level="ERROR", **options)
    if ray.cluster_resources().get("CPU", 0) < 1:
        ray.shutdown()
        raise UserError(
            f"engine.address = {place.address}: this cluster has no processors for tasks; "
            "add a node with `ray start --address=...`"
        )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C is heard afterwards: Ray crashes at the end where its start was interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        ray.shutdown()
        raise KeyboardInterrupt


@contextlib.contextmanager
def _named(address: str) -> Iterator[None]:
    """What Ray says when it cannot connect, with the key and what to do."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if not address:
            raise
        raise UserError(
            f"engine.address = {address}: {str(error).partition('. ')[0]}; start a cluster with "
            '`ray start --head`, or set engine.address to "" for an instance on this machine'
        ) from None
