"""A background under the camera: painted layers, wider than the picture, that move by depth.

Each place of the series paints a far layer (opaque), a near layer, in which the characters
stand, and sometimes a front layer that passes before them. Far things move less than the
camera, front things more.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from pipeline.sample.camera import HEIGHT, WORLD, Move, View
from pipeline.sample.drawing import Brush
from pipeline.sample.places import PLACES

DEPTHS = {"far": 0.55, "near": 1.0, "front": 1.4}  # share of the camera's way
# outlines of backgrounds are softer than those of the cels before them, as in painted scenery
SOFT = {"far": 0.3, "near": 0.5, "front": 0.6}
RIM = (112, 96, 116)  # under clear pixels: what soft edges of a layer blend into
LINE = 4.0  # outline in pixels of a picture 288 high, at zoom 1


@dataclass(frozen=True)
class Layer:
    """Painted pixels `H W 4` from world x `left` on, at `scale` pixels a unit."""

    image: np.ndarray
    left: float
    scale: float
    depth: float

    def seen(self, view: View, height: int, width: int) -> np.ndarray:
        """The part under the camera: uint8 `height width 4`."""
        zoom = view.zoom * height / HEIGHT  # pixels a unit in the picture
        ratio = zoom / self.scale
        x = _shifted(view.x, self.depth) - width / zoom / 2 - self.left
        y = view.y - height / zoom / 2
        matrix = np.array(
            [[ratio, 0, -x * zoom + (ratio - 1) / 2], [0, ratio, -y * zoom + (ratio - 1) / 2]]
        )
        return cv2.warpAffine(
            self.image, matrix, (width, height), flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip


def _shifted(x: float, depth: float) -> float:
    return WORLD / 2 + (x - WORLD / 2) * depth


@dataclass
class Background:
    """The layers of one scene; remembers the last view, since the camera often rests."""

    layers: list[Layer]
    height: int
    width: int
    front: list[Layer] = field(default_factory=list)
    _seen: tuple = (None, None)

    def behind(self, view: View) -> np.ndarray:
        """The picture behind the characters: uint8 `H W 3`, a new array."""
        if self._seen[0] != view:
            picture = self.layers[0].seen(view, self.height, self.width)[..., :3]
            picture = np.ascontiguousarray(picture)
            for layer in self.layers[1:]:
                picture = _over(picture, layer.seen(view, self.height, self.width))
            self._seen = (view, picture)
        return self._seen[1].copy()

    def before(self, picture: np.ndarray, view: View) -> np.ndarray:
        """`picture` with the front layer over it."""
        for layer in self.front:
            picture = _over(picture, layer.seen(view, self.height, self.width))
        return picture


def _over(picture: np.ndarray, layer: np.ndarray) -> np.ndarray:
    share = layer[..., 3].astype(np.float32) / 255.0
    return cv2.blendLinear(
        cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB), picture, share, np.float32(1.0) - share
    )


def paint(place: str, move: Move, height: int, width: int, front: bool) -> Background:
    """Paints the stretch of a place that the camera passes, at the scale it needs."""
    scale = max(move.start.zoom, move.end.zoom) * height / HEIGHT
    painters = PLACES[place]
    layers = [_paint(painters[0], "far", move, height, width, scale)]
    layers.append(_paint(painters[1], "near", move, height, width, scale))
    fronts = [painters[2]] if front else []
    return Background(
        layers, height, width, [_paint(p, "front", move, height, width, scale) for p in fronts]
    )


def _paint(painter, name: str, move: Move, height: int, width: int, scale: float) -> Layer:
    depth, aspect = DEPTHS[name], width / height
    edges = []
    for view in (move.start, move.end):
        half = HEIGHT / view.zoom * aspect / 2
        edges += [_shifted(view.x, depth) - half - 8, _shifted(view.x, depth) + half + 8]
    left, right = min(edges), max(edges)
    image = np.empty((round(HEIGHT * scale), round((right - left) * scale), 4), np.uint8)
    image[:] = (*RIM, 0)
    zoom = scale * HEIGHT / height
    line = LINE * height / HEIGHT * zoom**0.5
    painter(Brush.scaled(image, scale, left, 0.0, line, SOFT[name]))
    return Layer(image, left, scale, depth)
