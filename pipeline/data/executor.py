"""Runs jobs in processes of this machine, or in Ray's, which may be those of a cluster.

A job is a video to decode, or a shard to write. Functions and small arguments travel, frames never
do: a job writes files where every process sees them, so the bytes are the same wherever it runs.

    with executor.open_pool(settings.engine) as pool:
        rows = pool.run(decode_video, jobs, what="decoding", unit="frame", total=n_frames)
"""

import contextlib
import importlib.util
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from pipeline import config, io
from pipeline.errors import UserError
from pipeline.progress import bar

RESTARTS = 2  # a job that kills its process three times would kill it for ever
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0  # for Ray's jobs to remove what they have half-written
# Read when Ray is imported, so set before. Without a limit Ray tries again for ever where memory
# runs out; the variable about accelerators silences a warning on machines with a GPU.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": str(RESTARTS),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
CHECK_SECONDS, HEAD_SECONDS = 5.0, 20.0  # the head of a cluster may be silent for so long
RAY_OF_CLUSTER = {  # attempts of up to 40 seconds to reach it, by default 20
    "RAY_gcs_server_port_wait_time_s": "1"
}
NO_RAY = (
    "engine.kind = ray: Ray is not installed; run `pip install -r requirements-ray.txt`, or set "
    "engine.kind to local"
)

_report: Callable[[int], object] | None = None  # in a worker: what `count` calls


class Stopped(Exception):
    """Ends a job when the run is over before it is done."""


class Died(Exception):
    """A process, or a child of it, was killed: nothing is wrong with what the job works on."""


def count(units: int) -> None:
    """Reports progress from within a job; raises Stopped when the run is over."""
    if _report is not None:
        _report(units)


class Pool:
    """What both kinds have in common: jobs go in, a bar is shown, the first error comes out."""

    remedy = "free some memory, or set engine.workers lower"

    def run(
        self,
        function: Callable,
        jobs: Sequence[tuple],
        *,
        what: str,
        unit: str,
        total: int | None = None,
        in_progress: Callable[[], list[str]] = list,
    ) -> list:
        """Results of `function(*job)` in the order of the jobs.

        `total`: units that the jobs `count`; None: each job is one. The first error of a job ends
        the others and is raised. A job whose process died is done again; a UserError where that
        happens too often, with what `in_progress()` names.
        """
        results: dict[int, Any] = {}
        with bar(what=what, unit=unit, total=len(jobs) if total is None else total) as progress:
            try:
                self._run(function, jobs, results, progress, counted=total is not None)
            except Died:
                names = ", ".join(in_progress())
                raise UserError(
                    f"worker processes were killed {RESTARTS + 1} times"
                    f"{f' (the last time at {names})' if names else ''}, most likely for want of "
                    f"memory; {self.remedy}"
                ) from None
            progress.total = progress.n  # it may have been an estimate
        return [results[number] for number in range(len(jobs))]

    def _run(self, function, jobs, results: dict, progress, counted: bool) -> None:
        """Fills `results` by job number; raises Died where processes die again and again."""
        raise NotImplementedError


class LocalPool(Pool):
    """`workers` processes of this machine; they end with the main process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def _run(self, function, jobs, results: dict, progress, counted: bool) -> None:
        for attempt in range(RESTARTS + 1):
            try:
                return self._run_missing(function, jobs, results, progress, counted)
            except (BrokenProcessPool, Died):
                if attempt == RESTARTS:
                    raise Died from None
                print("a worker process was killed; going on with new ones", file=sys.stderr)

    def _run_missing(self, function, jobs, results: dict, progress, counted: bool) -> None:
        """Runs the jobs that have no result yet, in new processes."""
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":  # one import for all workers
            context.set_forkserver_preload(["__main__", function.__module__])
        units, stop = context.Value("q", 0), context.Event()
        missing = [number for number in range(len(jobs)) if number not in results]
        workers = max(1, min(self.workers, len(missing)))
        executor = ProcessPoolExecutor(workers, context, _start_worker, (units, stop))
        try:
            futures = {executor.submit(function, *jobs[number]): number for number in missing}
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=POLL_SECONDS)
                for future in sorted(finished, key=lambda future: future.exception() is not None):
                    results[futures[future]] = future.result()
                progress.update((units.value if counted else len(results)) - progress.n)
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)


def _start_worker(units, stop) -> None:
    import cv2

    def report(number: int) -> None:
        with units.get_lock():
            units.value += number
        if stop.is_set():
            raise Stopped

    def end_with_main() -> None:
        # left alone it would write the files that the next run writes, and then wait for ever
        multiprocessing.parent_process().join()
        os._exit(1)

    global _report
    _report = report
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    cv2.setNumThreads(1)  # a process a core is all the parallelism there is to have
    threading.Thread(target=end_with_main, daemon=True).start()


class RayPool(Pool):
    """Ray's processes: of the cluster at RAY_ADDRESS, or of an instance of our own with `workers`.

    They change into the folder that the run was started in, which all nodes have to see at the same
    path. Ray itself does a job again whose process died. The bar moves when a job is done.
    """

    def __init__(self, workers: int) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError(NO_RAY)
        address = os.environ.get("RAY_ADDRESS", "")
        for name, value in (RAY_ENVIRONMENT | (RAY_OF_CLUSTER if address else {})).items():
            os.environ.setdefault(name, value)
        import ray

        if address:
            self.remedy = "see `ray status`, and start nodes with fewer processes (--num-cpus)"
        try:
            # Ray itself waits for minutes where nobody listens
            if host := re.fullmatch(r"(?:ray://)?(\[[^\]]+\]|[^:/\[]+):(\d+)", address):
                socket.create_connection((host[1].strip("[]"), int(host[2])), timeout=5.0).close()
            own = {"num_cpus": workers, "object_store_memory": 100 * 10**6}  # what travels are rows
            options = {} if address else own | {"include_dashboard": False}
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = " ".join(str(error).partition(". ")[0].split())
            raise UserError(
                f"RAY_ADDRESS = {address}: {reason}; expected a cluster of the same version of "
                "Ray with the token of this machine (docs/cluster.md); start it with `ray start "
                "--head`, or unset the variable for an instance on this machine"
            ) from None
        self.head = None
        if address and not address.startswith("ray://"):  # whose client notices by itself
            host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
            self.head = host.strip("[]"), int(port)

    def _run(self, function, jobs, results: dict, progress, counted: bool) -> None:
        import ray

        code = str(Path(__file__).parents[2])  # `import pipeline` is this run's, none installed
        path = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
        remote = ray.remote(_run_on_node).options(
            num_cpus=1, max_retries=RESTARTS, retry_exceptions=[Died],
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )  # fmt: skip
        self.heard = time.monotonic()
        io.remove_stale(Path(".store"))  # of a run that was killed
        with io.temporary(Path(".store").absolute()) as mark:
            numbers = {remote.remote(mark, function, job): at for at, job in enumerate(jobs)}
            pending = list(numbers)
            try:
                while pending:
                    finished, pending = ray.wait(pending, timeout=POLL_SECONDS)
                    self._require_head()
                    for reference in finished:
                        results[numbers[reference]], units = ray.get(reference)
                        progress.update(units if counted else 1)
            except ray.exceptions.RayError as error:  # of a job, with what it raised, or a process
                cause = getattr(error, "cause", None)
                raise (cause if isinstance(cause, Exception) else Died()) from None
            finally:
                for reference in pending:
                    ray.cancel(reference)  # the job sees a KeyboardInterrupt
                if pending:
                    ray.wait(pending, num_returns=len(pending), timeout=GRACE_SECONDS)

    def _require_head(self) -> None:
        """UserError where the cluster's head is gone: Ray itself would end this process later."""
        if self.head is None or time.monotonic() - self.heard < CHECK_SECONDS:
            return
        with contextlib.suppress(OSError):
            socket.create_connection(self.head, timeout=CHECK_SECONDS).close()
            self.heard = time.monotonic()
        if time.monotonic() - self.heard > HEAD_SECONDS:
            raise UserError(
                f"RAY_ADDRESS = {os.environ['RAY_ADDRESS']}: the head of the cluster at "
                f"{self.head[0]} no longer answers; start it again, then the same command: what is "
                "done is kept"
            )

    def close(self) -> None:
        import ray

        ray.shutdown()


def _run_on_node(mark: Path, function: Callable, job: tuple) -> tuple[Any, int]:
    """In one of Ray's workers: the result, and the units that were counted on the way.

    `mark`: a file that lies below the run's folder while the run lasts.
    """
    import cv2

    global _report
    folder = mark.parents[1]
    if not mark.exists():
        raise UserError(
            f"{folder} on node {socket.gethostname()} is not the folder of this run, expected "
            "the same on all nodes; mount it there at that path, or leave that node out"
        )
    os.chdir(folder)  # relative paths mean there what they mean here
    cv2.setNumThreads(1)
    units = []
    _report = units.append
    return function(*job), sum(units)


@contextlib.contextmanager
def open_pool(engine: config.Engine) -> Iterator[Pool]:
    """The pool that the section `engine` of params.yaml asks for."""
    if engine.kind == "local":
        yield LocalPool(engine.workers)
        return
    pool = RayPool(engine.workers)
    try:
        yield pool
    finally:
        pool.close()
