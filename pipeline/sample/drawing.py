"""Outlined flat shapes on an image, antialiased, in local units.

A brush maps local units to pixels by an affine matrix. All shapes are filled polygons with
fixed-point corners, outlines too: their width may be any fraction of a pixel, so that a zoom
is smooth. `points` are float arrays `N 2`, x to the right and y downwards.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.sample.palette import INK, Colour, shade

SHIFT = 4  # fractional bits of a polygon's corners
_TURN = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


def ellipse(x: float, y: float, rx: float, ry: float | None = None) -> np.ndarray:
    """Points `28 2` of an ellipse around (x, y)."""
    return _CIRCLE * (rx, rx if ry is None else ry) + (x, y)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Corners `4 2` of a rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def smooth(corners, per_side: int = 6) -> np.ndarray:
    """A closed Catmull-Rom curve through `K 2` corners: `K*per_side 2` points."""
    corners = np.asarray(corners, float)
    before, after = np.roll(corners, 1, 0), np.roll(corners, -1, 0)
    beyond = np.roll(corners, -2, 0)
    t = np.linspace(0.0, 1.0, per_side, endpoint=False)[None, :, None]  # 1 S 1
    p0, p1, p2, p3 = (p[:, None, :] for p in (before, corners, after, beyond))  # K 1 2
    curve = p1 + 0.5 * t * (
        p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0))
    )
    return curve.reshape(-1, 2)  # K S 2 -> K*S 2


def ribbon(path: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """The outline of a line with round ends along `path` `N 2`, `radius` to each side."""
    normals = _normals(path, closed=False) * np.reshape(radius, (-1, 1))
    radii = np.broadcast_to(np.reshape(radius, -1), len(path))
    head = _cap(path[-1], normals[-1], radii[-1])
    tail = _cap(path[0], -normals[0], radii[0])
    return np.concatenate([path + normals, head, (path - normals)[::-1], tail])


def _cap(centre: np.ndarray, start: np.ndarray, radius: float) -> np.ndarray:
    angle = np.arctan2(start[1], start[0]) - np.linspace(0.0, np.pi, 9)[1:-1]
    return centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _normals(points: np.ndarray, closed: bool) -> np.ndarray:
    """Unit normals `N 2`; they point outwards where the points run clockwise on the screen."""
    if closed:
        along = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    else:
        along = np.gradient(points, axis=0)
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    return np.stack([-along[:, 1] / length, along[:, 0] / length], axis=1)


def _outwards(points: np.ndarray) -> np.ndarray:
    x, y = points[:, 0], points[:, 1]
    area = np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))
    return _normals(points, closed=True) * (-1.0 if area > 0 else 1.0)


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

    def at(self, x: float, y: float, angle: float = 0.0, sx: float = 1.0, sy: float = 1.0):
        """A brush whose origin lies at (x, y), turned by `angle` (radians), then stretched."""
        cos, sin = np.cos(angle), np.sin(angle)
        inner = np.array([[cos * sx, -sin * sy, x], [sin * sx, cos * sy, y], [0, 0, 1]])
        return Brush(self.image, self.matrix @ inner, self.line, self.soft)

    def shape(self, points: np.ndarray, fill: Colour, line: float = 1.0):
        """A filled shape; `line` multiplies the outline's width, 0 leaves it away."""
        pixels = self._pixels(points)
        if line:
            offset = _outwards(pixels) * (self.line * line / 2)
            self._fill(pixels + offset, self._ink(fill))
            pixels = pixels - offset
        self._fill(pixels, fill)

    def limb(self, path, radius: float, fill: Colour, line: float = 1.0):
        """A thick bent line with an outline: arms, legs, tails. `radius` in local units."""
        pixels = self._pixels(np.asarray(path, float))
        thick = radius * np.sqrt(abs(np.linalg.det(self.matrix[:, :2])))
        half = self.line * line / 2
        self._fill(ribbon(pixels, thick + half), self._ink(fill))
        self._fill(ribbon(pixels, max(thick - half, 0.4)), fill)

    def stroke(self, path, line: float = 1.0, ink: Colour = INK):
        """An open line, `line` times as wide as an outline."""
        self._fill(ribbon(self._pixels(np.asarray(path, float)), self.line * line / 2), ink)

    def _ink(self, fill: Colour) -> Colour:
        return shade(fill, self.soft) if self.soft else INK

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    def _fill(self, pixels: np.ndarray, colour: Colour):
        # OpenCV counts from pixel centres, and its antialiased rim adds half a pixel
        fixed = np.round((pixels - 0.5) * (1 << SHIFT)).astype(np.int32)
        cv2.fillPoly(self.image, [fixed], (*colour, 255), cv2.LINE_AA, SHIFT)
