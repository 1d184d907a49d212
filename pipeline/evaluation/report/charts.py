"""Line charts as geometry: what `page.html.j2` draws as SVG. No drawing library, no clock.

In: a curve's lines as lists of (x, y) in data units. Out: a `Chart` in units of its view box, with
ticks at round numbers and one text of points a line. Points that are not finite are left out; a
long line is thinned to MAX_POINTS, its lowest and highest points kept.
"""

import math
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 380  # view box; the page scales it to the reader's screen
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 48  # margins for tick labels and axis names
MAX_POINTS = 600
MAX_DOTS = 60  # a line of more points than this shows no dots
TICKS = 8  # at most so many steps on each axis

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    at: str  # position along its axis
    text: str


@dataclass(frozen=True)
class Line:
    name: str
    path: str  # content of a polyline's `points`
    dots: list[tuple[str, str, str]]  # x, y, what a pointer over it reads
    ends: str  # first and last value, for those who hear the page


@dataclass(frozen=True)
class Chart:
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]


@dataclass(frozen=True)
class Axis:
    """A range of data, widened to [low, high], on `length` units that begin at `start`."""

    low: float
    high: float
    start: float
    length: float  # negative: upwards

    def at(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * self.length:.1f}"

    def ticks(self) -> list[Tick]:
        step = round_step((self.high - self.low) / TICKS)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [number * step for number in range(first, last + 1)]
        return [Tick(self.at(value), f"{value + 0.0:,.{decimals}f}") for value in values]


def chart(lines: dict[str, Points]) -> Chart | None:
    """None where no line has a finite point."""
    finite = {name: _thinned(_finite(points)) for name, points in lines.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return None
    xs, ys = zip(*[point for points in finite.values() for point in points], strict=True)
    x_axis = Axis(*_widened(xs, 0.0), LEFT, WIDTH - LEFT - RIGHT)
    y_axis = Axis(*_widened(ys, 0.06), HEIGHT - BOTTOM, TOP + BOTTOM - HEIGHT)
    drawn = [_line(name, points, x_axis, y_axis) for name, points in finite.items()]
    return Chart(x_axis.ticks(), y_axis.ticks(), drawn)


def round_step(rough: float) -> float:
    """The next of 1, 2, 5, 10 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _finite(points: Points) -> Points:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _widened(values: tuple[float, ...], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * share or (0.0 if high > low else max(abs(high) * 0.1, 0.5))
    return low - margin, high + margin


def _thinned(points: Points) -> Points:
    """Of each run of points the lowest and the highest, in their order; both ends."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(2 * len(points) / (MAX_POINTS - 2))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        run = range(start, min(start + size, len(points)))
        kept |= {min(run, key=lambda i: points[i][1]), max(run, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _line(name: str, points: Points, x_axis: Axis, y_axis: Axis) -> Line:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
    path = " ".join(f"{x},{y}" for x, y in places)
    dots = []
    if len(points) <= MAX_DOTS:
        said = [f"{name}: {x:g}, {y:.4g}" for x, y in points]
        dots = [(*place, words) for place, words in zip(places, said, strict=True)]
    ends = f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}"
    return Line(name, path, dots, ends)
