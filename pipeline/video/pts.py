"""Presentation times of decoded frames: as ffmpeg's filters print them, one line a frame.

The lines go through a file of their own, whose descriptor ffmpeg inherits: each is written before
its picture leaves the filters, so it is there when the picture is read.
"""

import os
import re
from fractions import Fraction

import numpy as np

LINE = re.compile(rb"pts:(\S+)")
MICROSECONDS = 1_000_000
PRINTS = os.name == "posix"  # elsewhere ffmpeg inherits no descriptor: times are frame / fps


def printing(descriptor: int) -> list[str]:
    """Filters that print the time of each passing frame, in microseconds."""
    if not PRINTS:
        return []
    to_print = f"metadata=mode=print:key=time:direct=1:file='pipe\\:{descriptor}'"
    return [f"settb=1/{MICROSECONDS}", "metadata=mode=add:key=time:value=0", to_print]


class Times:
    """Reads the printed times batch by batch, for frames at `fps` where they name no time."""

    def __init__(self, descriptor: int, fps: Fraction) -> None:
        self._descriptor, self._step = descriptor, float(1 / fps)
        self._at, self._rest = 0, b""
        self._printed: list[bytes] = []
        self._last: float | None = None

    def take(self, count: int) -> np.ndarray:
        """Times of the next `count` frames, float64 `B` in seconds, strictly increasing.

        A time that is missing or no later than the one before is put one frame after it.
        """
        if PRINTS:
            self._read()
        printed, self._printed = self._printed[:count], self._printed[count:]
        printed += [b"NOPTS"] * (count - len(printed))
        return np.array([self._follow(time) for time in printed], np.float64)

    def _follow(self, printed: bytes) -> float:
        try:
            time = int(printed) / MICROSECONDS
        except ValueError:
            time = None
        next_one = 0.0 if self._last is None else self._last + self._step
        absent = time is None or (self._last is not None and time <= self._last)
        self._last = next_one if absent else time
        return self._last

    def _read(self) -> None:
        """Takes in what was printed since; the descriptor's own position is ffmpeg's."""
        while got := os.pread(self._descriptor, 2**16, self._at):
            self._at += len(got)
            *lines, self._rest = (self._rest + got).split(b"\n")
            self._printed += [match[1] for match in map(LINE.search, lines) if match]
