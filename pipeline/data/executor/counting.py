"""What a task calls from within a worker, and how it ends before it is done."""

from collections.abc import Callable

_report: Callable[[int], object] | None = None  # set in each worker


class Stopped(Exception):
    """Ends a worker's task when the run is over before it is done."""


class Died(Exception):
    """Raised where a task's process, or a child of it, was killed: it is not done, and nothing is
    wrong with what it works on."""


def count(units: int) -> None:
    """Reports progress from within a worker; raises Stopped when the run is over."""
    if _report is not None:
        _report(units)


def report_to(report: Callable[[int], object]) -> None:
    """From now on `count` of this process calls that."""
    global _report
    _report = report
