"""Work that is done again where a process dies."""

import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from pipeline.data import executor
from pipeline.errors import UserError


class Work:
    """Fails so many times in that way before it is done."""

    def __init__(self, failures, error=BrokenProcessPool):
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"


@pytest.mark.parametrize("error", [BrokenProcessPool, executor.Died])
@pytest.mark.parametrize("failures", [0, 1, 2])
def test_two_deaths_are_survived(failures, error):
    work = Work(failures, error)
    assert executor.again(work, workers=2) == "done" and work.calls == failures + 1


def test_a_third_death_names_what_was_at_work():
    with pytest.raises(UserError, match=r"killed 3 times.*at a\.mp4, b\.mp4.*engine\.workers = 2"):
        executor.again(Work(3), workers=2, under_way=lambda: ["a.mp4", "b.mp4"])


def test_other_errors_are_not_tried_again():
    work = Work(1, KeyError)
    with pytest.raises(KeyError):
        executor.again(work, workers=2)
    assert work.calls == 1


def counted(units):
    executor.count(units)
    return units


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_tasks_are_counted_across_processes():
    with executor.opened(2, "pipeline.data.executor") as pool:
        futures = [pool.executor.submit(counted, units) for units in (1, 2, 3)]
        pool.watch(futures, 6, what="tests", unit="task")
        assert [future.result() for future in futures] == [1, 2, 3]
        assert pool.done() == 6


def test_a_dead_process_is_noticed():
    with executor.opened(1, "pipeline.data.executor") as pool, pytest.raises(BrokenProcessPool):
        pool.watch([pool.executor.submit(killed, 0)], 1, what="tests", unit="task")


def test_a_task_outside_a_pool_counts_nothing():
    executor.count(3)
