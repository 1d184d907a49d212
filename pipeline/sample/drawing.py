"""Outlined flat shapes on an image, antialiased, in local units; and the colours of cels.

A brush maps local units to pixels by an affine matrix. All shapes are filled polygons with
fixed-point corners, outlines too: their width may be any fraction of a pixel, so that a zoom
is smooth. `points` are `N 2`, x to the right and y downwards.
"""

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]  # flat RGB, as on painted cels
INK: Colour = (44, 28, 48)  # outlines; a warm dark violet, softer than black
WHITE: Colour = (255, 255, 255)

SHIFT = 4  # fractional bits of a polygon's corners
_TURN = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` in [0, 1] of `second`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def shade(colour: Colour, amount: float = 0.22) -> Colour:
    """The shadow tone of a cel colour: towards the ink."""
    return mix(colour, INK, amount)


def ellipse(x: float, y: float, rx: float, ry: float | None = None) -> np.ndarray:
    """Points `28 2` of an ellipse around (x, y)."""
    return _CIRCLE * (rx, rx if ry is None else ry) + (x, y)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Corners `4 2` of a rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def bow(x: float, y: float, rx: float, ry: float, half: float, count: int) -> np.ndarray:
    """Points `count 2` of an ellipse's upper part, `half` radians to both sides of its top."""
    angle = np.linspace(-np.pi / 2 - half, -np.pi / 2 + half, count)
    return np.stack([np.cos(angle) * rx + x, np.sin(angle) * ry + y], axis=1)


def smooth(corners, per_side: int = 6) -> np.ndarray:
    """A closed Catmull-Rom curve through `K 2` corners: `K*per_side 2` points."""
    p1 = np.asarray(corners, float)[:, None]  # K 1 2
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0.0, 1.0, per_side, endpoint=False)[None, :, None]  # 1 S 1
    curve = p1 + 0.5 * t * (
        p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0))
    )
    return curve.reshape(-1, 2)  # K S 2 -> K*S 2


def rounded(corners, cut: float) -> np.ndarray:
    """Corners cut into short bows: a polygon `K 2` to `4K 2`."""
    corner = np.asarray(corners, float)
    a = corner + (np.roll(corner, 1, 0) - corner) * cut
    b = corner + (np.roll(corner, -1, 0) - corner) * cut
    inner = a * 0.44 + b * 0.12 + corner * 0.44, b * 0.44 + a * 0.12 + corner * 0.44
    return np.stack([a, *inner, b], axis=1).reshape(-1, 2)  # K 4 2 -> 4K 2


def curve(corners) -> np.ndarray:
    """A smoother open line through `K 2` corners (two rounds of corner cutting)."""
    path = np.asarray(corners, float)
    for _ in range(2):
        a, b = path[:-1] * 0.75 + path[1:] * 0.25, path[:-1] * 0.25 + path[1:] * 0.75
        path = np.concatenate([path[:1], np.stack([a, b], axis=1).reshape(-1, 2), path[-1:]])
    return path


def _ribbon(path: np.ndarray, radius: float) -> np.ndarray:
    """The outline of a line with round ends along `path` `N 2`, `radius` to each side."""
    normals = _normals(np.gradient(path, axis=0)) * radius
    caps = []
    for centre, start in ((path[-1], normals[-1]), (path[0], -normals[0])):
        angle = np.arctan2(start[1], start[0]) - np.linspace(0.0, np.pi, 9)[1:-1]
        caps.append(centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    return np.concatenate([path + normals, caps[0], (path - normals)[::-1], caps[1]])


def _normals(along: np.ndarray) -> np.ndarray:
    """Unit normals `N 2` of directions `N 2`."""
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    return np.stack([-along[:, 1] / length, along[:, 0] / length], axis=1)


@dataclass(frozen=True)
class Brush:
    """Draws on `image` (uint8, `H W 3` or `H W 4`; the fourth channel becomes 255 where drawn)."""

    image: np.ndarray
    matrix: np.ndarray  # 2 3: local units to pixels
    line: float  # width of outlines in pixels
    soft: float = 0.0  # 0: outlines in ink; else in the shape's own colour, darkened by this share

    @staticmethod
    def scaled(image: np.ndarray, scale: float, x: float, y: float, line: float, soft: float = 0.0):
        """A brush whose local (x, y) is the image's top left corner; `scale` in pixels a unit."""
        matrix = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
        return Brush(image, matrix, line, soft)

    def at(self, x: float, y: float, angle: float = 0.0, size=1.0):
        """A brush whose origin lies at (x, y), turned by `angle` (radians), then stretched by
        `size`: a number, or one for each axis."""
        cos, sin = np.cos(angle), np.sin(angle)
        sx, sy = size if isinstance(size, tuple) else (size, size)
        inner = np.array([[cos * sx, -sin * sy, x], [sin * sx, cos * sy, y], [0, 0, 1]])
        return Brush(self.image, self.matrix @ inner, self.line, self.soft)

    def shape(self, points, fill: Colour, line: float = 1.0):
        """A filled shape; `line` multiplies the outline's width, 0 leaves it away."""
        pixels = self._pixels(points)
        if line:
            x, y = pixels[:, 0], pixels[:, 1]
            area = np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))
            normals = _normals(np.roll(pixels, -1, 0) - np.roll(pixels, 1, 0))
            outwards = normals * (-1.0 if area > 0 else 1.0) * (self.line * line / 2)
            self._fill(pixels + outwards, self._ink(fill))
            pixels = pixels - outwards
        self._fill(pixels, fill)

    def limb(self, path, radius: float, fill: Colour):
        """A thick bent line with an outline: arms, legs, tails. `radius` in local units."""
        pixels = self._pixels(path)
        thick = radius * np.sqrt(abs(np.linalg.det(self.matrix[:, :2])))
        self._fill(_ribbon(pixels, thick + self.line / 2), self._ink(fill))
        self._fill(_ribbon(pixels, max(thick - self.line / 2, 0.4)), fill)

    def stroke(self, path, line: float = 1.0, ink: Colour = INK):
        """An open line, `line` times as wide as an outline."""
        self._fill(_ribbon(self._pixels(path), self.line * line / 2), ink)

    def _ink(self, fill: Colour) -> Colour:
        return shade(fill, self.soft) if self.soft else INK

    def _pixels(self, points) -> np.ndarray:
        return np.asarray(points, float) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def _fill(self, pixels: np.ndarray, colour: Colour):
        # OpenCV counts from pixel centres, and its antialiased rim adds half a pixel
        fixed = np.round((pixels - 0.5) * (1 << SHIFT)).astype(np.int32)
        cv2.fillPoly(self.image, [fixed], (*colour, 255), cv2.LINE_AA, SHIFT)
