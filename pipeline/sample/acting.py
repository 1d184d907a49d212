"""What an actor does: a pose for every moment, from cycles, arcs and keyframed tracks.

Angles are radians; an arm or a leg at 0 hangs straight down, positive angles go to the right of
the picture. Distances are world units (a picture is 288 units high at zoom 1).
"""

from dataclasses import dataclass, field
from math import cos, pi, sin

from pipeline.sample.timing import Track, arc, ease, glide, held, steady

STRIDE = {"walk": 84.0, "run": 150.0}  # units that one cycle of two steps covers


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
    arms: tuple[float, float, float, float] = (
        -0.28,
        0.12,
        0.28,
        -0.12,
    )  # left, elbow, right, elbow
    legs: tuple[float, float, float, float] = (-0.06, 0.0, 0.06, 0.0)  # left, knee, right, knee


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
    turn: Track = field(default_factory=lambda: steady(0.0))
    gesture: Track = field(default_factory=lambda: steady(0.0))  # 0 arms down, 1 right arm raised
    blinks: tuple[int, ...] = ()  # drawings at which the eyes begin to close
    flaps: tuple[int, ...] = ()  # mouths, one a drawing, repeated
    phase: float = 0.0

    def pose(self, frame: int, frames: int, fps: float) -> Pose:
        """The drawing shown at `frame` of a scene of `frames` frames."""
        drawing = held(frame, self.on)
        share, time = drawing / max(frames - 1, 1), drawing / fps
        act = {"walk": self._stride, "run": self._stride, "jump": self._jump}.get(
            self.action, self._stand
        )
        return act(share, time, *self._face(drawing, fps))

    def _face(self, drawing: int, fps: float) -> tuple[float, int]:
        """Eyes and mouth; both change with the drawing, lids close for about an eighth second."""
        lasting = max(self.on, round(fps / 8))
        shut = any(start <= drawing < start + lasting for start in self.blinks)
        step = max(self.on, round(fps / 8))
        mouth = self.flaps[drawing // step % len(self.flaps)] if self.flaps else 0
        return (0.0 if shut else 1.0), mouth

    def _stand(self, share: float, time: float, eyes: float, mouth: int) -> Pose:
        raised, turn = self.gesture.at(time), self.turn.at(time)
        wave = 0.45 * sin(time * 2 * pi * 1.6) if self.action == "wave" else 0.0
        arms = (
            -0.28 - 0.15 * raised,
            0.12,
            0.28 + 1.75 * raised,
            -0.12 + (0.95 + wave) * raised,
        )
        return Pose(
            self.x, self.y, side=0.35 * turn, turn=turn, tilt=0.06 * turn + 0.07 * raised,
            eyes=eyes, mouth=mouth, arms=arms, lean=0.05 * raised,
        )  # fmt: skip

    def _stride(self, share: float, time: float, eyes: float, mouth: int) -> Pose:
        way = 1.0 if self.travel >= 0 else -1.0
        running = self.action == "run"
        done = self.travel * glide(share)
        p = self.phase + 2 * pi * abs(done) / STRIDE[self.action]
        swing, knee, pump = (0.85, 1.25, 1.0) if running else (0.55, 0.8, 0.6)
        legs = []
        for q in (p, p + pi):
            hip = swing * sin(q)
            legs += [way * hip, -way * (0.12 + knee * max(0.0, cos(q)))]
        bend = way * (1.3 if running else 0.35)
        arms = (-way * pump * sin(p), bend, way * pump * sin(p), bend)
        bob = (9.0 if running else 3.5) * abs(cos(p))
        return Pose(
            self.x + done, self.y, lift=bob, lean=way * (0.16 if running else 0.05),
            side=way, turn=way * 0.75, tilt=way * 0.03 * sin(2 * p), eyes=eyes,
            mouth=2 if running else mouth, arms=arms, legs=tuple(legs),
        )  # fmt: skip

    def _jump(self, share: float, time: float, eyes: float, mouth: int) -> Pose:
        """Hops along parabolas; a fifth of each hop is the crouch before and after."""
        hop, t = divmod(min(share, 1 - 1e-9) * self.hops, 1.0)
        air = (t - 0.12) / 0.76
        up = arc(air)
        crouch = max(0.0, 1.0 - abs(air) / 0.16, 1.0 - abs(air - 1) / 0.16)
        along = (hop + ease(air) * 0.4 + min(max(air, 0.0), 1.0) * 0.6) / self.hops
        way = 0.0 if abs(self.travel) < 1 else (1.0 if self.travel > 0 else -1.0)
        reach = ease(up * 1.6)
        arms = (-0.35 - 1.9 * reach, 0.2 - 0.4 * reach, 0.35 + 1.9 * reach, -0.2 + 0.4 * reach)
        spread = 0.1 + 0.45 * up
        return Pose(
            self.x + self.travel * along, self.y, lift=82.0 * up, squash=1.0 - 0.2 * ease(crouch),
            side=0.4 * way, turn=0.5 * way, eyes=eyes, mouth=2 if up > 0.3 else mouth, arms=arms,
            legs=(-spread, 0.5 * up, spread, -0.5 * up),
        )  # fmt: skip
