"""The camera: one eased move a scene, and the painted layers under it, which move by depth.

Each place of the series paints a far layer (opaque), a near layer, in which the characters
stand, and a front layer that may pass before them. Far things move less than the camera, front
things more.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, log

import cv2
import numpy as np

from pipeline.sample.drawing import Brush
from pipeline.sample.places import PLACES

HEIGHT = 288.0  # world units that a picture is high at zoom 1
WORLD = 1280.0  # world units that a background is wide
# far, near, front: the share of the camera's way, and how soft outlines are. Those of backgrounds
# are softer than those of the cels before them, as in painted scenery
LAYERS = ((0.55, 0.3), (1.0, 0.5), (1.4, 0.6))
RIM = (112, 96, 116)  # under clear pixels: what soft edges of a layer blend into
LINE = 4.0  # outline in pixels of a picture 288 high, at zoom 1


@dataclass(frozen=True)
class View:
    """What the camera sees: `x, y` the centre of the picture in world units."""

    x: float
    y: float
    zoom: float

    def inside(self, width: float) -> "View":
        """The nearest view within the background; `width` of a picture at zoom 1, in units."""
        half_x, half_y = width / self.zoom / 2, HEIGHT / self.zoom / 2
        x = min(max(self.x, half_x), WORLD - half_x)
        return View(x, min(max(self.y, half_y), HEIGHT - half_y), self.zoom)


@dataclass(frozen=True)
class Move:
    """From `start` to `end` along `pace` (a function of 0..1), a new position every `on` frames."""

    start: View
    end: View
    pace: Callable[[float], float]
    on: int
    frames: int

    @property
    def kind(self) -> str:
        if self.start == self.end:
            return "static"
        return "pan" if self.start.zoom == self.end.zoom else "zoom"

    def at(self, frame: int) -> View:
        start, end = self.start, self.end
        if start == end:
            return start
        share = self.pace((frame - frame % self.on) / max(self.frames - 1, 1))
        zoom = exp(log(start.zoom) + (log(end.zoom) - log(start.zoom)) * share)
        # the point that both views share stays put while zooming, so the path is straight
        if start.zoom != end.zoom:
            share = (1 / zoom - 1 / start.zoom) / (1 / end.zoom - 1 / start.zoom)
        return View(start.x + (end.x - start.x) * share, start.y + (end.y - start.y) * share, zoom)

    def fastest(self, width: float) -> float:
        """The longest way of a picture's edge in one step, in units of the picture."""
        longest = 0.0
        for a, b in pairwise(self.at(frame) for frame in range(0, self.frames, self.on)):
            grow = abs(b.zoom / a.zoom - 1.0) * width / 2
            longest = max(longest, abs(b.x - a.x) * b.zoom + abs(b.y - a.y) * b.zoom + grow)
        return longest

    def calmed(self, width: float, limit: float) -> "Move":
        """The same move, shortened until no step is longer than `limit`."""
        start, end = self.start, self.end
        share = min(1.0, limit / max(self.fastest(width), 1e-9))
        if share == 1.0:
            return self
        zoom = start.zoom * (end.zoom / start.zoom) ** share
        x, y = start.x + (end.x - start.x) * share, start.y + (end.y - start.y) * share
        return replace(self, end=View(x, y, zoom).inside(width))


@dataclass(frozen=True)
class Layer:
    """Painted pixels `H W 4` from world x `left` on, at `scale` pixels a unit."""

    image: np.ndarray
    left: float
    scale: float
    depth: float

    def under(self, view: View, height: int, width: int) -> np.ndarray:
        """The part under the camera: uint8 `height width 4`."""
        zoom = view.zoom * height / HEIGHT  # pixels a unit in the picture
        ratio = zoom / self.scale
        x = _shifted(view.x, self.depth) - width / zoom / 2 - self.left
        y = view.y - height / zoom / 2
        centre = (ratio - 1) / 2
        matrix = np.array([[ratio, 0, centre - x * zoom], [0, ratio, centre - y * zoom]])
        return cv2.warpAffine(
            self.image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE
        )  # fmt: skip

    def over(self, picture: np.ndarray, view: View) -> np.ndarray:
        """`picture` uint8 `H W 3` with this layer over it."""
        layer = self.under(view, *picture.shape[:2])
        share = layer[..., 3].astype(np.float32) / 255.0
        layer = cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB)
        return cv2.blendLinear(layer, picture, share, np.float32(1.0) - share)


def _shifted(x: float, depth: float) -> float:
    return WORLD / 2 + (x - WORLD / 2) * depth


def paint(place: str, move: Move, height: int, width: int) -> list[Layer]:
    """The layers of a place, far, near and front: the stretch that the camera passes, at the scale
    it needs."""
    zoom = max(move.start.zoom, move.end.zoom)
    scale = zoom * height / HEIGHT
    layers, brushes = [], []
    for depth, soft in LAYERS:
        edges = []
        for view in (move.start, move.end):
            half = HEIGHT / view.zoom * (width / height) / 2 + 8
            edges += [_shifted(view.x, depth) - half, _shifted(view.x, depth) + half]
        left, right = min(edges), max(edges)
        image = np.empty((round(HEIGHT * scale), round((right - left) * scale), 4), np.uint8)
        image[:] = (*RIM, 0)
        layers.append(Layer(image, left, scale, depth))
        brushes.append(Brush.scaled(image, scale, left, 0.0, line_width(zoom, height), soft))
    PLACES[place](*brushes)
    return layers


def line_width(zoom: float, height: int) -> float:
    """Outlines in pixels of a picture `height` high; they grow with the root of the zoom."""
    return LINE * height / HEIGHT * zoom**0.5
