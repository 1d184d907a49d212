"""The cast, and how a pose becomes a drawing.

A character is drawn with its feet at (0, 0), y downwards, about 150 units high. The head is
a ball: features sit on it at an angle and travel round it when it turns.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from pipeline.sample.acting import Pose
from pipeline.sample.drawing import Brush, ellipse, smooth
from pipeline.sample.palette import INK, WHITE, Colour, shade, tint
from pipeline.sample.timing import ease

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


CAST = {
    "mika": Look(
        "girl", (255, 219, 186), (226, 82, 46), (255, 196, 44), (255, 196, 44), (196, 48, 72),
        (44, 116, 190), 1.0,
    ),
    "taro": Look(
        "boy", (246, 196, 150), (92, 56, 44), (52, 166, 92), (58, 74, 150), (230, 230, 236),
        (110, 64, 30), 1.06,
    ),
    "kuro": Look(
        "cat", (118, 96, 168), (118, 96, 168), (118, 96, 168), (118, 96, 168), (240, 226, 236),
        (250, 206, 62), 0.86,
    ),
}  # fmt: skip


def draw_character(brush: Brush, look: Look, pose: Pose) -> None:
    """Draws `pose` in the world units of `brush`, from the back to the front."""
    size = look.size
    body = brush.at(
        pose.x, pose.y - pose.lift, pose.lean, size / pose.squash**0.6, size * pose.squash
    )
    narrow = 1.0 - 0.28 * abs(pose.side)
    near = 1 if pose.side >= 0 else -1  # in profile this arm and leg are the nearer ones
    if look.kind == "cat":
        _tail(body, look, pose)
    _arm(body, look, pose, -near, narrow)
    _leg(body, look, pose, -near, narrow)
    _leg(body, look, pose, near, narrow)
    _torso(body, look, pose, narrow)
    head = body.at(5.0 * pose.side, CHIN, pose.tilt)
    if abs(pose.side) > 0.6:
        _head(head, look, pose)
        _arm(body, look, pose, near, narrow)
    else:
        _arm(body, look, pose, near, narrow)
        _head(head, look, pose)


def _shadowed(look: Look, colour: Colour, pose: Pose, hand: int) -> Colour:
    far = abs(pose.side) > 0.6 and hand != (1 if pose.side >= 0 else -1)
    return shade(colour) if far else colour


def _arm(body: Brush, look: Look, pose: Pose, hand: int, narrow: float) -> None:
    """`hand` -1: the one at the left of the picture, 1: at the right."""
    upper, elbow = pose.arms[:2] if hand < 0 else pose.arms[2:]
    x, y = hand * (19.0 * narrow - 3.0 * abs(pose.side)), NECK + 8
    path = _bent(x, y, upper, elbow, 19.0, 18.0)
    sleeve = _shadowed(look, look.top, pose, hand)
    skin = _shadowed(look, look.skin, pose, hand)
    body.limb(path, 6.0, skin)
    if look.kind != "cat":
        body.limb(path[:4], 7.5, sleeve)
    body.shape(ellipse(*path[-1], 7.8), skin)


def _leg(body: Brush, look: Look, pose: Pose, hand: int, narrow: float) -> None:
    upper, knee = pose.legs[:2] if hand < 0 else pose.legs[2:]
    x = hand * 10.0 * narrow * (1.0 - 0.6 * abs(pose.side))
    path = _bent(x, HIP, upper, knee, 16.0, 15.0)
    trousers = look.kind == "boy"
    colour = look.bottom if trousers else look.skin
    body.limb(path, 8.0 if trousers else 7.0, _shadowed(look, colour, pose, hand))
    ahead = 5.0 * pose.side + (0.0 if abs(pose.side) > 0.6 else 2.0 * hand)
    foot = body.at(*path[-1], 0.8 * (upper + knee) * -abs(pose.side))
    foot.shape(ellipse(ahead, 1.0, 12.0, 7.0), _shadowed(look, look.shoes, pose, hand))


def _bent(x: float, y: float, upper: float, bend: float, first: float, second: float):
    """A limb's path `7 2` from (x, y): `first` long at angle `upper`, then turned by `bend`."""
    a, b = upper, upper + bend
    joint = np.array([x + first * sin(a), y + first * cos(a)])
    end = joint + (second * sin(b), second * cos(b))
    t = np.linspace(0.0, 1.0, 7)[:, None]
    start = np.array([x, y])
    # a quadratic curve that nearly touches the joint: rubber-hose limbs need no elbow drawing
    control = joint * 1.5 - (start + end) * 0.25
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t * t * end


def _torso(body: Brush, look: Look, pose: Pose, narrow: float) -> None:
    if look.kind == "cat":
        body.shape(ellipse(0, -52, 25 * narrow, 31), look.top)
        body.shape(ellipse(6 * pose.side, -48, 15 * narrow, 20), tint(look.top, 0.55), 0)
    elif look.kind == "girl":
        body.shape(_trapezoid(15 * narrow, NECK - 2, 31 * narrow, -22), look.top)
        body.stroke([(-23 * narrow, -38), (0, -35), (23 * narrow, -38)], 0.8, shade(look.top, 0.35))
    else:
        body.shape(_trapezoid(18 * narrow, HIP - 6, 19 * narrow, -24), look.bottom)
        body.shape(_trapezoid(18 * narrow, NECK - 2, 21 * narrow, -36), look.top)
        body.shape(_trapezoid(19.5 * narrow, -60, 20 * narrow, -50), WHITE, 0)


def _trapezoid(top: float, y0: float, bottom: float, y1: float) -> np.ndarray:
    sides = [(-top, y0), (top, y0), (bottom, y1), (-bottom, y1)]
    return _rounded(np.array(sides, float), 0.14)


def _rounded(corners: np.ndarray, cut: float) -> np.ndarray:
    """Corners cut into short bows: a polygon `K 2` to `4K 2`."""
    points = []
    for i, corner in enumerate(corners):
        before, after = corners[i - 1], corners[(i + 1) % len(corners)]
        a, b = corner + (before - corner) * cut, corner + (after - corner) * cut
        points += [a, a * 0.44 + b * 0.12 + corner * 0.44, b * 0.44 + a * 0.12 + corner * 0.44, b]
    return np.array(points)


def _tail(body: Brush, look: Look, pose: Pose) -> None:
    way = 1.0 - 2.0 * ease(pose.side * 2.5)  # passes behind the body when it turns
    swing = 6.0 * sin(3.0 * pose.arms[0])
    path = [(10, -36), (26, -32), (38, -40), (44 + swing, -56), (42 + swing, -72)]
    body.limb(_curve(np.array(path, float) * (way, 1)), 6.0, look.hair)


def _curve(path: np.ndarray) -> np.ndarray:
    """A smoother line through the corners of `path` (two rounds of corner cutting)."""
    for _ in range(2):
        a, b = path[:-1] * 0.75 + path[1:] * 0.25, path[:-1] * 0.25 + path[1:] * 0.75
        inner = np.stack([a, b], axis=1).reshape(-1, 2)
        path = np.concatenate([path[:1], inner, path[-1:]])
    return path


def _round(pose: Pose, angle: float) -> tuple[float, float]:
    """Where a feature at `angle` on the ball lies: x in radii, and its apparent width."""
    seen = min(max(angle + 0.95 * pose.turn, -pi / 2), pi / 2)
    return sin(seen), max(cos(seen), 0.0)


def _head(head: Brush, look: Look, pose: Pose) -> None:
    if look.kind == "cat":
        _ears(head, look, pose)
    else:
        _hair_behind(head, look, pose)
    head.shape(ellipse(0, 0, HEAD, HEAD * 0.94), look.skin)
    _face(head, look, pose)
    if look.kind == "girl":
        _fringe(head, look, pose, (4, -8, 6, -6, 8, -4, 10))
    elif look.kind == "boy":
        _fringe(head, look, pose, (6, -4, -10, -2, -10, -4, 6))
        _cap_hat(head, pose)


def _face(head: Brush, look: Look, pose: Pose) -> None:
    if look.kind == "cat":
        x, width = _round(pose, 0.0)
        head.shape(ellipse(x * HEAD * 0.8, 15, 19 * max(width, 0.6), 13), tint(look.skin, 0.72), 0)
    else:
        _cheeks(head, look, pose)
    for side in (-1, 1):
        _eye(head, look, pose, side)
    _mouth(head, look, pose)
    _nose(head, look, pose)


def _cheeks(head: Brush, look: Look, pose: Pose) -> None:
    for side in (-1, 1):
        x, width = _round(pose, side * 0.78)
        if width > 0.25:
            head.shape(ellipse(x * HEAD * 0.88, 13, 7 * width, 4.5), (250, 160, 140), 0)


def _eye(head: Brush, look: Look, pose: Pose, side: int) -> None:
    x, width = _round(pose, side * 0.46)
    if width < 0.12:
        return
    eye = head.at(x * HEAD * 0.94, 1.0, 0.0, 0.35 + 0.65 * width, 1.0)
    if pose.eyes < 0.5:
        eye.stroke(_curve(np.array([(-9, 1), (-4, 6), (4, 6), (9, 1)], float)), 1.1)
        return
    white = (252, 236, 150) if look.kind == "cat" else WHITE
    gaze = 2.2 * pose.turn
    eye.shape(ellipse(0, 0, 9.0, 12.0), white, 0.75)
    if look.kind == "cat":
        eye.shape(ellipse(gaze, 1, 4.0, 9.5), INK, 0)
    else:
        eye.shape(ellipse(gaze, 1.5, 6.4, 9.0), look.iris, 0)
        eye.shape(ellipse(gaze, 2.0, 4.0, 6.0), INK, 0)
    eye.shape(ellipse(gaze - 2.2, -3.6, 2.6, 3.2), WHITE, 0)
    if look.kind != "cat":
        brow = np.array([(-8, -17), (0, -20), (8, -17)], float)
        eye.stroke(_curve(brow), 0.8, shade(look.hair, 0.3))


def _mouth(head: Brush, look: Look, pose: Pose) -> None:
    x, width = _round(pose, 0.0)
    mouth = head.at(x * HEAD * 0.86, 20.0, 0.0, 0.4 + 0.6 * width, 1.0)
    if pose.mouth == 0:
        mouth.stroke(_curve(np.array([(-8, -1), (-3, 3), (3, 3), (8, -1)], float)), 0.8)
        return
    deep = 5.0 if pose.mouth == 1 else 11.5
    lips = smooth([(-10, -3), (0, -2), (10, -3), (7, deep * 0.6), (0, deep), (-7, deep * 0.6)])
    mouth.shape(lips, (150, 34, 48), 0.75)
    if pose.mouth == 2:
        mouth.shape(ellipse(0, deep - 4.0, 5.0, 3.0), (244, 118, 118), 0)


def _nose(head: Brush, look: Look, pose: Pose) -> None:
    x, width = _round(pose, 0.0)
    if look.kind == "cat":
        nose = smooth([(-5, 8), (5, 8), (0, 13)]) * (0.5 + 0.5 * width, 1)
        head.shape(nose + (x * HEAD * 0.95, 0), (240, 130, 150), 0.5)
    else:
        at = x * HEAD * 0.98
        head.shape(ellipse(at, 10.0, 3.0, 2.4), shade(look.skin, 0.2), 0)


def _hair_behind(head: Brush, look: Look, pose: Pose) -> None:
    back = -6.0 * pose.turn
    if look.kind == "boy":
        head.shape(ellipse(back, -3, HEAD + 2, HEAD), look.hair)
        return
    way = 1.0 - 2.0 * ease(0.1 + pose.turn * 1.6)  # hangs on the side away from the face
    swing = 12.0 * pose.tilt - 5.0 * pose.side
    root = back + way * 26
    tail = [(root, -24), (root + way * 22, -28), (root + way * 34 + swing, 0),
            (root + way * 26 + swing, 36), (root + way * 12, 16)]  # fmt: skip
    head.shape(smooth(tail), look.hair)
    head.shape(ellipse(back + way * 28, -20, 7.0), (70, 190, 214))
    bob = [(-40, -8), (-22, -38), (22, -38), (40, -8), (36, 26), (0, 32), (-36, 26)]
    head.shape(smooth(bob) + (back, 0), look.hair)


def _fringe(head: Brush, look: Look, pose: Pose, teeth: tuple[int, ...]) -> None:
    """Hair over the forehead: the upper bow of the head, and a lower rim with teeth."""
    bow = np.linspace(-pi / 2 - 1.25, -pi / 2 + 1.25, 12)
    upper = np.stack([np.cos(bow), np.sin(bow)], axis=1) * (HEAD + 2.0)
    angles = np.linspace(1.25, -1.25, len(teeth))
    lower = [
        (_round(pose, a)[0] * HEAD * 0.99, -17.0 + t) for a, t in zip(angles, teeth, strict=True)
    ]
    lower = [(min(max(x, upper[0, 0]), upper[-1, 0]), y) for x, y in lower]
    head.shape(np.concatenate([upper, np.array(lower)]), look.hair)


def _cap_hat(head: Brush, pose: Pose) -> None:
    red = (216, 52, 56)
    bow = np.linspace(-pi, 0.0, 14)
    dome = np.stack([np.cos(bow) * (HEAD + 2), np.sin(bow) * (HEAD - 3)], axis=1) + (0, -12)
    head.shape(dome, red)
    x, width = _round(pose, 0.0)
    brim = head.at(x * HEAD * 0.75, -13.0)
    brim.shape(ellipse(x * 12, 0, 25 + 6 * (1 - width), 6.5), shade(red, 0.3))
    badge = head.at(x * HEAD * 0.8, -28.0, 0.0, 0.4 + 0.6 * width, 1.0)
    badge.shape(ellipse(0, 0, 8.0), WHITE, 0)


def _ears(head: Brush, look: Look, pose: Pose) -> None:
    for side in (-1, 1):
        x = side * 23 - 7 * pose.turn
        ear = np.array([(x - 13, -22), (x + side * 9, -56), (x + 14, -20)], float)
        head.shape(_rounded(ear, 0.12), look.hair)
        inner = np.array([(x - 6, -26), (x + side * 6, -46), (x + 7, -26)], float)
        head.shape(_rounded(inner, 0.12), (240, 150, 170), 0)
