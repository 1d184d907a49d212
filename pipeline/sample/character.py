"""The cast, and how a pose becomes a drawing.

A character is drawn with its feet at (0, 0), y downwards, about 150 units high. The head is
a ball: features sit on it at an angle and travel round it when it turns.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from pipeline.sample.acting import Pose, ease
from pipeline.sample.drawing import (
    INK,
    WHITE,
    Brush,
    Colour,
    bow,
    curve,
    ellipse,
    mix,
    rounded,
    shade,
    smooth,
)  # fmt: skip

HEAD = 37.0  # radius
NECK = -76.0  # height of the shoulders
CHIN = -114.0  # height of the middle of the head
HIP = -36.0


@dataclass(frozen=True)
class Look:
    """What tells a character from the others."""

    kind: str  # girl | boy | cat
    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    iris: Colour
    size: float = 1.0


FUR = (118, 96, 168)
CAST = {
    "mika": Look(
        "girl", (255, 219, 186), (226, 82, 46), (255, 196, 44), (255, 196, 44), (196, 48, 72),
        (44, 116, 190), 1.0,
    ),
    "taro": Look(
        "boy", (246, 196, 150), (92, 56, 44), (52, 166, 92), (58, 74, 150), (230, 230, 236),
        (110, 64, 30), 1.06,
    ),
    "kuro": Look("cat", FUR, FUR, FUR, FUR, (240, 226, 236), (250, 206, 62), 0.86),
}  # fmt: skip


def draw_character(brush: Brush, look: Look, pose: Pose) -> None:
    """Draws `pose` in the world units of `brush`, from the back to the front."""
    stretch = look.size / pose.squash**0.6, look.size * pose.squash
    body = brush.at(pose.x, pose.y - pose.lift, pose.lean, stretch)
    head = body.at(5.0 * pose.side, CHIN, pose.tilt)
    profile = abs(pose.side) > 0.6
    near = 1 if pose.side >= 0 else -1  # in profile this arm and leg are the nearer ones
    if look.kind == "cat":
        way = 1.0 - 2.0 * ease(pose.side * 2.5)  # passes behind the body when it turns
        swing = 6.0 * sin(3.0 * pose.arms[0])
        tail = [(10, -36), (26, -32), (38, -40), (44 + swing, -56), (42 + swing, -72)]
        body.limb(curve(np.array(tail) * (way, 1)), 6.0, look.hair)
    _arm(body, look, pose, -near, profile)
    _leg(body, look, pose, -near, profile)
    _leg(body, look, pose, near, False)
    _torso(body, look, pose)
    if profile:
        _head(head, look, pose)
    _arm(body, look, pose, near, False)
    if not profile:
        _head(head, look, pose)


def _arm(body: Brush, look: Look, pose: Pose, hand: int, shadowed: bool) -> None:
    """`hand` -1: the one at the left of the picture, 1: at the right."""
    upper, elbow = pose.arms[:2] if hand < 0 else pose.arms[2:]
    x = hand * (19.0 * _narrow(pose) - 3.0 * abs(pose.side))
    path = _bent(x, NECK + 8, upper, elbow, 19.0, 18.0)
    skin, sleeve = look.skin, look.top
    if shadowed:
        skin, sleeve = shade(skin), shade(sleeve)
    body.limb(path, 6.0, skin)
    if look.kind != "cat":
        body.limb(path[:4], 7.5, sleeve)
    body.shape(ellipse(*path[-1], 7.8), skin)


def _leg(body: Brush, look: Look, pose: Pose, hand: int, shadowed: bool) -> None:
    upper, knee = pose.legs[:2] if hand < 0 else pose.legs[2:]
    x = hand * 10.0 * _narrow(pose) * (1.0 - 0.6 * abs(pose.side))
    path = _bent(x, HIP, upper, knee, 16.0, 15.0)
    colour, radius = (look.bottom, 8.0) if look.kind == "boy" else (look.skin, 7.0)
    body.limb(path, radius, shade(colour) if shadowed else colour)
    ahead = 5.0 * pose.side + (0.0 if abs(pose.side) > 0.6 else 2.0 * hand)
    foot = body.at(*path[-1], 0.8 * (upper + knee) * -abs(pose.side))
    foot.shape(ellipse(ahead, 1.0, 12.0, 7.0), shade(look.shoes) if shadowed else look.shoes)


def _narrow(pose: Pose) -> float:
    """How wide a body is, 1 seen from the front."""
    return 1.0 - 0.28 * abs(pose.side)


def _bent(x: float, y: float, upper: float, bend: float, first: float, second: float):
    """A limb's path `7 2` from (x, y): `first` long at angle `upper`, then turned by `bend`."""
    start = np.array([x, y])
    joint = start + (first * sin(upper), first * cos(upper))
    end = joint + (second * sin(upper + bend), second * cos(upper + bend))
    # a quadratic curve that nearly touches the joint: rubber-hose limbs need no elbow drawing
    control = joint * 1.5 - (start + end) * 0.25
    t = np.linspace(0.0, 1.0, 7)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t * t * end


def _torso(body: Brush, look: Look, pose: Pose) -> None:
    def trapezoid(top: float, y0: float, bottom: float, y1: float) -> np.ndarray:
        return rounded([(-top, y0), (top, y0), (bottom, y1), (-bottom, y1)], 0.14)

    torso = body.at(0, 0, size=(_narrow(pose), 1.0))
    if look.kind == "cat":
        torso.shape(ellipse(0, -52, 25, 31), look.top)
        belly = ellipse(6 * pose.side / _narrow(pose), -48, 15, 20)
        torso.shape(belly, mix(look.top, WHITE, 0.55), 0)
    elif look.kind == "girl":
        torso.shape(trapezoid(15, NECK - 2, 31, -22), look.top)
        torso.stroke([(-23, -38), (0, -35), (23, -38)], 0.8, shade(look.top, 0.35))
    else:
        torso.shape(trapezoid(18, HIP - 6, 19, -24), look.bottom)
        torso.shape(trapezoid(18, NECK - 2, 21, -36), look.top)
        torso.shape(trapezoid(19.5, -60, 20, -50), WHITE, 0)


def _on_ball(pose: Pose, angle: float) -> tuple[float, float]:
    """Where a feature at `angle` on the ball lies: x in radii, and its apparent width."""
    turned = min(max(angle + 0.95 * pose.turn, -pi / 2), pi / 2)
    return sin(turned), max(cos(turned), 0.0)


def _head(head: Brush, look: Look, pose: Pose) -> None:
    back = -6.0 * pose.turn
    if look.kind == "cat":
        for side in (-1, 1):
            ear = head.at(side * 23 - 7 * pose.turn, 0)
            ear.shape(rounded([(-13, -22), (side * 9, -56), (14, -20)], 0.12), look.hair)
            inner = rounded([(-6, -26), (side * 6, -46), (7, -26)], 0.12)
            ear.shape(inner, (240, 150, 170), 0)
    elif look.kind == "boy":
        head.shape(ellipse(back, -3, HEAD + 2, HEAD), look.hair)
    else:
        way = 1.0 - 2.0 * ease(0.1 + pose.turn * 1.6)  # hangs on the side away from the face
        swing = 12.0 * pose.tilt - 5.0 * pose.side
        tail = [(0, -24), (way * 22, -28), (way * 34 + swing, 0), (way * 26 + swing, 36),
                (way * 12, 16)]  # fmt: skip
        head.at(back + way * 26, 0).shape(smooth(tail), look.hair)
        head.shape(ellipse(back + way * 28, -20, 7.0), (70, 190, 214))
        bob = [(-40, -8), (-22, -38), (22, -38), (40, -8), (36, 26), (0, 32), (-36, 26)]
        head.at(back, 0).shape(smooth(bob), look.hair)
    head.shape(ellipse(0, 0, HEAD, HEAD * 0.94), look.skin)
    _face(head, look, pose)
    if look.kind == "girl":
        _fringe(head, look, pose, (4, -8, 6, -6, 8, -4, 10))
    elif look.kind == "boy":
        _fringe(head, look, pose, (6, -4, -10, -2, -10, -4, 6))
        red, (x, width) = (216, 52, 56), _on_ball(pose, 0.0)
        head.shape(bow(0, -12, HEAD + 2, HEAD - 3, pi / 2, 14), red)
        brim = ellipse(x * (HEAD * 0.75 + 12), -13.0, 25 + 6 * (1 - width), 6.5)
        head.shape(brim, shade(red, 0.3))
        head.shape(ellipse(x * HEAD * 0.8, -28.0, 8.0 * (0.4 + 0.6 * width), 8.0), WHITE, 0)


def _fringe(head: Brush, look: Look, pose: Pose, teeth: tuple[int, ...]) -> None:
    """Hair over the forehead: the upper bow of the head, and a lower rim with teeth."""
    upper = bow(0, 0, HEAD + 2.0, HEAD + 2.0, 1.25, 12)
    lower = []
    for angle, tooth in zip(np.linspace(1.25, -1.25, len(teeth)), teeth, strict=True):
        x = _on_ball(pose, angle)[0] * HEAD * 0.99
        lower.append((min(max(x, upper[0, 0]), upper[-1, 0]), tooth - 17.0))
    head.shape([*upper, *lower], look.hair)


def _face(head: Brush, look: Look, pose: Pose) -> None:
    cat = look.kind == "cat"
    middle, front = _on_ball(pose, 0.0)
    if cat:
        muzzle = ellipse(middle * HEAD * 0.8, 15, 19 * max(front, 0.6), 13)
        head.shape(muzzle, mix(look.skin, WHITE, 0.72), 0)
    else:
        for side in (-1, 1):
            x, width = _on_ball(pose, side * 0.78)
            if width > 0.25:
                head.shape(ellipse(x * HEAD * 0.88, 13, 7 * width, 4.5), (250, 160, 140), 0)
    for side in (-1, 1):
        x, width = _on_ball(pose, side * 0.46)
        if width >= 0.12:
            eye = head.at(x * HEAD * 0.94, 1.0, size=(0.35 + 0.65 * width, 1.0))
            _eye(eye, look, pose)

    mouth = head.at(middle * HEAD * 0.86, 20.0, size=(0.4 + 0.6 * front, 1.0))
    if pose.mouth == 0:
        mouth.stroke(curve([(-8, -1), (-3, 3), (3, 3), (8, -1)]), 0.8)
    else:
        deep = 5.0 if pose.mouth == 1 else 11.5
        lips = [(-10, -3), (0, -2), (10, -3), (7, deep * 0.6), (0, deep), (-7, deep * 0.6)]
        mouth.shape(smooth(lips), (150, 34, 48), 0.75)
    if pose.mouth == 2:
        mouth.shape(ellipse(0, 7.5, 5.0, 3.0), (244, 118, 118), 0)
    if cat:
        nose = head.at(middle * HEAD * 0.95, 0, size=(0.5 + 0.5 * front, 1))
        nose.shape(smooth([(-5, 8), (5, 8), (0, 13)]), (240, 130, 150), 0.5)
    else:
        head.shape(ellipse(middle * HEAD * 0.98, 10.0, 3.0, 2.4), shade(look.skin, 0.2), 0)


def _eye(eye: Brush, look: Look, pose: Pose) -> None:
    if pose.eyes < 0.5:
        eye.stroke(curve([(-9, 1), (-4, 6), (4, 6), (9, 1)]), 1.1)
        return
    cat, gaze = look.kind == "cat", 2.2 * pose.turn
    eye.shape(ellipse(0, 0, 9.0, 12.0), (252, 236, 150) if cat else WHITE, 0.75)
    if cat:
        eye.shape(ellipse(gaze, 1, 4.0, 9.5), INK, 0)
    else:
        eye.shape(ellipse(gaze, 1.5, 6.4, 9.0), look.iris, 0)
        eye.shape(ellipse(gaze, 2.0, 4.0, 6.0), INK, 0)
    eye.shape(ellipse(gaze - 2.2, -3.6, 2.6, 3.2), WHITE, 0)
    if not cat:
        eye.stroke(curve([(-8, -17), (0, -20), (8, -17)]), 0.8, shade(look.hair, 0.3))
