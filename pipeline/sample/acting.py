"""What an actor does: a pose for every moment, from cycles, arcs and head turns.

Angles are radians; an arm or a leg at 0 hangs straight down, positive angles go to the right of
the picture. Distances are world units (a picture is 288 units high at zoom 1), times seconds.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

STRIDE = {"walk": 84.0, "run": 150.0}  # units that one cycle of two steps covers
TURN = 0.6  # seconds that a head or an arm takes to move

Track = tuple[tuple[float, float], ...]  # moves: when each begins, and the value it ends at


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


def moves(rng: np.random.Generator, seconds: float, values: list[float], every: float) -> Track:
    """A track that eases to the next of `values` about every `every` seconds and rests there."""
    track, now = [(-TURN, values[0])], float(rng.uniform(0.1, 0.4))
    for value in values[1:]:
        if now + TURN > seconds:
            break
        track.append((now, value))
        now += TURN + every * float(rng.uniform(0.7, 1.3))
    return tuple(track)


def value_at(track: Track, time: float) -> float:
    """The value of `track`, which is 0 before its first move."""
    value = 0.0
    for start, end in track:
        if start <= time:
            value += (end - value) * ease((time - start) / TURN)
    return value


@dataclass(frozen=True)
class Pose:
    """One drawing of a character, standing at (x, y)."""

    x: float
    y: float
    lift: float = 0.0  # height of the feet above the ground
    squash: float = 1.0  # height factor; the width makes up for it
    lean: float = 0.0
    side: float = 0.0  # -1 profile to the left, 0 front, 1 profile to the right
    turn: float = 0.0  # of the head, as `side`
    tilt: float = 0.0
    eyes: float = 1.0  # 0 closed
    mouth: int = 0  # 0 closed, 1 half, 2 open
    arms: tuple[float, ...] = (-0.28, 0.12, 0.28, -0.12)  # left, elbow, right, elbow
    legs: tuple[float, ...] = (-0.06, 0.0, 0.06, 0.0)  # left, knee, right, knee


@dataclass(frozen=True)
class Actor:
    """A character in a scene: where it starts, what it does, and on how many frames it is drawn."""

    name: str
    action: str  # stand | talk | wave | walk | run | jump
    x: float
    y: float
    on: int
    travel: float = 0.0  # units covered by the end of the scene, negative to the left
    hops: int = 0
    turn: Track = ()
    gesture: Track = ()  # 0 arms down, 1 right arm raised
    blinks: tuple[int, ...] = ()  # drawings at which the eyes begin to close
    flaps: tuple[int, ...] = ()  # mouths, one a drawing, repeated
    phase: float = 0.0

    def pose(self, frame: int, frames: int, fps: float) -> Pose:
        """The drawing shown at `frame` of a scene of `frames` frames."""
        drawing = frame - frame % self.on
        step = max(self.on, round(fps / 8))  # frames that lids stay closed and a mouth is shown
        shut = any(start <= drawing < start + step for start in self.blinks)
        mouth = self.flaps[drawing // step % len(self.flaps)] if self.flaps else 0
        face = {"eyes": 0.0 if shut else 1.0, "mouth": mouth}
        share = drawing / max(frames - 1, 1)
        if self.action in STRIDE:
            return self._stride(share, face)
        if self.action == "jump":
            return self._jump(share, face)
        return self._stand(drawing / fps, face)

    def _stand(self, time: float, face: dict) -> Pose:
        raised, turn = value_at(self.gesture, time), value_at(self.turn, time)
        wave = 0.45 * sin(time * 2 * pi * 1.6) if self.action == "wave" else 0.0
        arms = (-0.28 - 0.15 * raised, 0.12, 0.28 + 1.75 * raised, -0.12 + (0.95 + wave) * raised)
        return Pose(
            self.x, self.y, side=0.35 * turn, turn=turn, tilt=0.06 * turn + 0.07 * raised,
            arms=arms, lean=0.05 * raised, **face,
        )  # fmt: skip

    def _stride(self, share: float, face: dict) -> Pose:
        way = 1.0 if self.travel >= 0 else -1.0
        running = self.action == "run"
        done = self.travel * glide(share)
        p = self.phase + 2 * pi * abs(done) / STRIDE[self.action]
        swing, knee, pump = (0.85, 1.25, 1.0) if running else (0.55, 0.8, 0.6)
        legs = []
        for q in (p, p + pi):
            legs += [way * swing * sin(q), -way * (0.12 + knee * max(0.0, cos(q)))]
        bend = way * (1.3 if running else 0.35)
        if running:
            face["mouth"] = 2
        return Pose(
            self.x + done, self.y, lift=(9.0 if running else 3.5) * abs(cos(p)),
            lean=way * (0.16 if running else 0.05), side=way, turn=way * 0.75,
            tilt=way * 0.03 * sin(2 * p), legs=tuple(legs),
            arms=(-way * pump * sin(p), bend, way * pump * sin(p), bend), **face,
        )  # fmt: skip

    def _jump(self, share: float, face: dict) -> Pose:
        """Hops along parabolas; a fifth of each hop is the crouch before and after."""
        hop, t = divmod(min(share, 1 - 1e-9) * self.hops, 1.0)
        air = (t - 0.12) / 0.76
        flown = min(max(air, 0.0), 1.0)
        up = 4.0 * flown * (1.0 - flown)  # a parabola, 1 in the middle
        crouch = max(0.0, 1.0 - abs(air) / 0.16, 1.0 - abs(air - 1) / 0.16)
        along = (hop + ease(air) * 0.4 + flown * 0.6) / self.hops
        way = 0.0 if abs(self.travel) < 1 else (1.0 if self.travel > 0 else -1.0)
        reach, spread = ease(up * 1.6), 0.1 + 0.45 * up
        if up > 0.3:
            face["mouth"] = 2
        return Pose(
            self.x + self.travel * along, self.y, lift=82.0 * up, squash=1.0 - 0.2 * ease(crouch),
            side=0.4 * way, turn=0.5 * way, legs=(-spread, 0.5 * up, spread, -0.5 * up),
            arms=(-0.35 - 1.9 * reach, 0.2 - 0.4 * reach, 0.35 + 1.9 * reach, -0.2 + 0.4 * reach),
            **face,
        )  # fmt: skip
