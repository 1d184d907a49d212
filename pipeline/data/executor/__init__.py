"""Where work runs: processes of this machine, or Ray's, which may be those of a cluster.

A task is a video, or a shard. Its function is sent by name, its files are written where every
process sees them, so the bytes are the same wherever it runs. A process that dies (killed for want
of memory, say) loses its task only: what was finished is on disk by then, and the rest is done by
new processes.

    with engine.opened(place, __name__) as pool:
        futures = [pool.executor.submit(work, item) for item in items]
        pool.watch(futures, total, what="decoding", unit="frame")
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from pipeline.data.executor.counting import Died, Stopped, count
from pipeline.data.executor.local import LocalPool
from pipeline.data.executor.place import RESTARTS, Place
from pipeline.data.executor.pool import Pool
from pipeline.errors import UserError

__all__ = ["Died", "Place", "Pool", "Stopped", "again", "count", "opened", "without_ray"]

Result = TypeVar("Result")

# Read when Ray is imported, so set before. Without a limit Ray tries again for ever where memory
# runs out; the variable about accelerators silences a warning on machines with a GPU.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": str(RESTARTS),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def opened(where: int | Place, preload: str) -> Iterator[Pool]:
    """A pool that is stopped at the end, also in the middle of a task.

    `where`: a place, or a number of processes here. `preload`: the module of the tasks.
    """
    place = Place.of(where)
    pool = _ray_pool(place) if place.kind == "ray" else LocalPool(place.workers, preload)
    try:
        yield pool
    finally:
        pool.close()


def again(
    work: Callable[[], Result], workers: int | Place, under_way: Callable[[], list[str]] = list
) -> Result:
    """`work()`, done again where a process died; a UserError if that happens too often.

    Ray has done a task again by itself before it says that a process died. `under_way()` names the
    tasks that were at work at that moment.
    """
    place = Place.of(workers)
    for _ in range(RESTARTS if place.kind == "local" else 0):
        try:
            return work()
        except (BrokenProcessPool, Died):
            print("a working process was killed; going on with new ones", file=sys.stderr)
    try:
        return work()
    except (BrokenProcessPool, Died):
        names = under_way()
        at = f" (the last time at {', '.join(names)})" if names else ""
        raise UserError(_told(place, at)) from None


def without_ray(kind: str) -> str:
    """What is wrong where `engine.kind` asks for Ray and it is not there; "" if nothing is."""
    if kind != "ray" or importlib.util.find_spec("ray") is not None:
        return ""
    return (
        "engine.kind = ray: Ray is not installed; run `pip install -r requirements-ray.txt`, or "
        "set engine.kind to local"
    )


def _ray_pool(place: Place) -> Pool:
    if fault := without_ray(place.kind):
        raise UserError(fault)
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from pipeline.data.executor.ray import RayPool

    return RayPool(place)


def _told(place: Place, at: str) -> str:
    """What happened, and what to do; a cluster's nodes may also have gone."""
    if place.address:
        return (
            f"working processes were killed, or their node went{at}; see `ray status` for the "
            "nodes, and where memory ran out start them with fewer processes (`ray start "
            "--num-cpus`)"
        )
    return (
        f"working processes were killed {RESTARTS + 1} times{at}, most likely for want of "
        f"memory; free some, or set engine.workers = {place.workers} lower"
    )
