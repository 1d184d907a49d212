"""Timing: holds, easing, arcs and keyframed tracks. Times are seconds, frames are numbers."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np


def held(frame: int, on: int) -> int:
    """The frame whose drawing is shown at `frame` when drawings are held `on` frames."""
    return frame - frame % on


def ease(t: float) -> float:
    """Slow in, slow out: 0 to 1 while t runs from 0 to 1, level at both ends."""
    t = min(max(t, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


def glide(t: float) -> float:
    """Even speed with short slow-in and slow-out (a sixth of the time each)."""
    t, soft = min(max(t, 0.0), 1.0), 1 / 6
    top = 1.0 / (1.0 - soft)  # speed between the two ramps
    if t < soft:
        return top * t * t / (2 * soft)
    if t > 1.0 - soft:
        return 1.0 - top * (1.0 - t) ** 2 / (2 * soft)
    return top * (t - soft / 2)


def arc(t: float) -> float:
    """A thrown body's height: 0 at t = 0 and 1, 1 in the middle, a parabola."""
    t = min(max(t, 0.0), 1.0)
    return 4.0 * t * (1.0 - t)


TURN = 0.6  # seconds that a head or an arm takes to move


@dataclass(frozen=True)
class Track:
    """Values at times; between two keys it eases from one to the next."""

    times: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, time: float) -> float:
        after = bisect_right(self.times, time)
        if after == 0:
            return self.values[0]
        if after == len(self.times):
            return self.values[-1]
        t0, t1 = self.times[after - 1 : after + 1]
        v0, v1 = self.values[after - 1 : after + 1]
        return v0 + (v1 - v0) * ease((time - t0) / (t1 - t0))


def steady(value: float) -> Track:
    """A track that never moves."""
    return Track((0.0,), (value,))


def moves(rng: np.random.Generator, seconds: float, values: list[float], every: float) -> Track:
    """A track that eases to the next of `values` about every `every` seconds and rests there."""
    times, track, now = [0.0], [values[0]], float(rng.uniform(0.1, 0.4))
    for value in values[1:]:
        if now + TURN > seconds:
            break
        times += [now, now + TURN]
        track += [track[-1], value]
        now += TURN + every * float(rng.uniform(0.7, 1.3))
    return Track(tuple(times), tuple(track))
