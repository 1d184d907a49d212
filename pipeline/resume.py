"""Saved states: what was killed continues where it was, a failed training can be looked at.

The state of a running stage lives outside every output of DVC, in
`<DVC_ROOT>/.resume/<stage>/<key>.pt`. The key is a hash of parameters, inputs and code, so that a
state is never continued by anything else. It is on the disk before it takes the place of the one
before, which stays as `<key>.previous.pt`: where the newer one is damaged, that one continues. The
stage deletes both once its output is complete. `<key>/` is for results too large to be written
again at each save (`parts`).

`<key>.failed.pt` is the state before a step whose loss was not finite, in the same format. Nothing
continues it by itself; renamed to `<key>.pt` it makes the same command begin with that step. It is
deleted at the success of the same key; those of other experiments stay.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.config import Section
from pipeline.errors import OUT_OF_MEMORY, Terminated
from pipeline.io import atomic, locked, project_root, remove_stale, temporary

LIBRARY = Path(__file__).parent
MAX_SAVING_SHARE = 0.05  # of the time that may go into saving states
Item = TypeVar("Item")


class Resume:
    """The saved state of one run of a stage."""

    def __init__(self, stage: str, settings: dict[str, Any], inputs: list[Path]) -> None:
        """settings: sections of parameters, or values; inputs: files that the results depend on."""
        plain = {
            name: value.model_dump() if isinstance(value, Section) else value
            for name, value in settings.items()
        }
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
        for path in [*sorted(LIBRARY.rglob("*.py")), *inputs]:
            digest.update(path.name.encode())
            with path.open("rb") as file:  # tokens of a season take 20 GB
                while block := file.read(2**22):
                    digest.update(block)
        self.folder = project_root() / ".resume" / stage
        self.path = self.folder / f"{digest.hexdigest()[:16]}.pt"
        self.previous_path = self.path.with_suffix(".previous.pt")
        self.failed_path = self.path.with_suffix(".failed.pt")

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None where there is nothing to continue.

        A damaged one is set aside: an evening's job must not wait for somebody to delete it.
        """
        for path in (self.path, self.previous_path):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except FileNotFoundError:
                continue
            except Exception as error:  # a broken file makes PyTorch raise anything
                if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
                    raise
                if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                    raise  # of the disk; EINVAL: a place before the file's begin, read from it
                aside = path.with_suffix(".damaged")
                with contextlib.suppress(FileNotFoundError):  # another process of this training
                    path.replace(aside)
                    print(
                        f"{path} is a damaged saved state; it is set aside as {aside.name}, and "
                        "the one before continues, if there is one",
                        file=sys.stderr,
                    )
        return None

    @contextlib.contextmanager
    def parts(self, rank: int = 0) -> Iterator[Path]:
        """A folder for results too large to be written again at each save; removed at success.

        rank: of this process, each of which has its own. Where another run with the same key is at
        work, as in a queue, it is another one each time.
        """
        folder = self.path.with_name(f"{self.path.stem}{f'-{rank}' if rank else ''}")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = locked(folder)
        except OSError:
            with temporary(self.folder, Path.mkdir) as other:
                yield other
            return
        try:
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)

    def save(self, state: dict[str, Any]) -> None:
        self._write(state, self.path)

    def save_failed(self, state: dict[str, Any]) -> None:
        self._write(state, self.failed_path)

    def clear(self) -> None:
        """After success. States of other parameters stay: another experiment may be running."""
        for path in self.folder.glob(f"{self.path.stem}.*"):
            path.unlink(missing_ok=True)
        remove_stale(self.folder)
        with contextlib.suppress(OSError):  # not empty
            self.folder.rmdir()

    def _write(self, state: dict[str, Any], path: Path) -> None:
        with atomic(path) as partial:
            with partial.open("wb") as file:
                try:
                    torch.save(state, file)
                except RuntimeError as error:  # PyTorch ends its file even where the disk is full
                    if isinstance(error.__context__, OSError):
                        raise error.__context__ from None
                    raise
                file.flush()
                os.fsync(file.fileno())  # else a power cut could leave the name without the bytes
            if path == self.path:
                with contextlib.suppress(FileNotFoundError):  # there is none, or none any more
                    path.replace(self.previous_path)


class SaveClock:
    """Says when to save: every `interval` seconds, and for a twentieth of the time at most."""

    def __init__(self, interval: float) -> None:
        self.interval, self.saved_at, self.cost = interval, time.monotonic(), 0.0

    def due(self) -> bool:
        wait = max(self.interval, self.cost / MAX_SAVING_SHARE) if self.interval else 0.0
        return time.monotonic() - self.saved_at >= wait

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - started


def saved_between(
    items: Iterable[Item], save: Callable[[], None], interval: float
) -> Iterator[Item]:
    """The items; calls `save` between two of them where it is time to, or a signal ends the run."""
    clock = SaveClock(interval)
    with signals_noted() as signals:
        for item in items:
            yield item
            if signals or clock.due():
                with clock.saving():
                    save()
            if signals:
                raise stopped_by(signals[-1])


@contextlib.contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Ctrl-C, SIGTERM and SIGHUP come into the list instead of stopping anywhere in a step.

    A third one stops at once: torchrun repeats what its processes got from the terminal.
    """
    signals: list[int] = []

    def note(number: int, frame: object) -> None:
        signals.append(number)
        if len(signals) > 2:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as shells set for what runs in the background
            signal.signal(number, note)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_by(number: int) -> KeyboardInterrupt:
    """What a noted signal raises once the state is saved."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
