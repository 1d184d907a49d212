"""What all pools have in common: tasks go in, a bar is shown, the first error comes out."""

from collections.abc import Iterable
from concurrent.futures import Executor, Future, wait

from pipeline.progress import bar

POLL_SECONDS = 0.2


class Pool:
    """Workers; use `engine.opened`."""

    executor: Executor

    def done(self) -> int:
        """Units that the tasks counted so far."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the workers, also in the middle of a task."""
        raise NotImplementedError

    def watch(self, running: Iterable[Future], total: int, what: str, unit: str) -> None:
        """Moves the bar as workers `count`; raises the first error that a worker raises."""
        running = set(running)
        with bar(what=what, unit=unit, total=total or None) as progress:
            while running:
                done, running = wait(running, timeout=POLL_SECONDS)
                for future in done:
                    future.result()
                progress.update(self.done() - progress.n)
            progress.total = progress.n  # it may have been an estimate
