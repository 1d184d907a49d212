"""The camera over a background: a centre in world units, a zoom, and one eased move a scene."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, log

from pipeline.sample.timing import held

HEIGHT = 288.0  # world units that a picture is high at zoom 1
WORLD = 1280.0  # world units that a background is wide


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

    def fastest(self, width: float) -> float:
        """The longest way of a picture's edge in one step, in units of the picture."""
        views = [self.at(frame) for frame in range(0, self.frames, self.on)]
        steps = [_step(a, b, width) for a, b in pairwise(views)]
        return max(steps, default=0.0)

    def calmed(self, width: float, limit: float) -> "Move":
        """The same move, shortened until no step is longer than `limit`."""
        start, end = self.start, self.end
        share = min(1.0, limit / max(self.fastest(width), 1e-9))
        if share == 1.0:
            return self
        zoom = start.zoom * (end.zoom / start.zoom) ** share
        x, y = start.x + (end.x - start.x) * share, start.y + (end.y - start.y) * share
        return replace(self, end=View(x, y, zoom).inside(width))

    def at(self, frame: int) -> View:
        if self.start == self.end:
            return self.start
        share = self.pace(held(frame, self.on) / max(self.frames - 1, 1))
        zoom = exp(log(self.start.zoom) + (log(self.end.zoom) - log(self.start.zoom)) * share)
        # the point that both views share stays put while zooming, so the path is straight
        weight = share
        if self.start.zoom != self.end.zoom:
            weight = (1 / zoom - 1 / self.start.zoom) / (1 / self.end.zoom - 1 / self.start.zoom)
        x = self.start.x + (self.end.x - self.start.x) * weight
        return View(x, self.start.y + (self.end.y - self.start.y) * weight, zoom)


def _step(a: View, b: View, width: float) -> float:
    """How far the picture's rim moves from view `a` to `b`, in units of the picture."""
    grow = abs(b.zoom / a.zoom - 1.0) * width / 2
    return abs(b.x - a.x) * b.zoom + abs(b.y - a.y) * b.zoom + grow
