"""Charts as geometry: where points fall, which ticks are drawn, what is left out."""

import math

import pytest

from pipeline.evaluation.report import charts
from pipeline.evaluation.report.charts import BOTTOM, HEIGHT, LEFT, MAX_POINTS, RIGHT, TOP, WIDTH

draw = charts.chart


def _places(path: str) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in path.split()]


def test_the_range_of_x_fills_the_box_and_larger_y_stand_higher():
    (line,) = draw({"a": [(10, 1.0), (20, 3.0), (30, 2.0)]}).lines
    (x0, y0), (x1, y1), (x2, y2) = _places(line.path)
    assert (x0, x1, x2) == (LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT)
    assert TOP < y1 < y2 < y0 < HEIGHT - BOTTOM
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)


def test_lines_share_their_axes():
    low, high = draw({"low": [(0, 0.0), (1, 0.0)], "high": [(0, 1.0), (1, 1.0)]}).lines
    assert max(y for _, y in _places(high.path)) < min(y for _, y in _places(low.path))


@pytest.mark.parametrize(
    ("rough", "step"), [(0.13, 0.2), (1.0, 1.0), (3.4, 5.0), (7.0, 10.0), (0.0021, 0.005)]
)
def test_steps_are_round(rough, step):
    assert charts.round_step(rough) == pytest.approx(step)


def test_ticks_stand_at_round_numbers_inside_the_range():
    chart = draw({"a": [(0, 0.813), (620, 0.946)]})
    assert [tick.text for tick in chart.x_ticks] == [f"{100 * i}" for i in range(7)]
    assert [tick.text for tick in chart.y_ticks] == [f"0.{i}" for i in range(82, 96, 2)]
    assert all(TOP <= float(tick.at) <= HEIGHT - BOTTOM for tick in chart.y_ticks)


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [1e-9, 2e-9], [-3e6, 4e6]])
def test_a_point_a_flat_line_and_odd_ranges_are_drawn(values):
    chart = draw({"a": list(enumerate(values))})
    assert chart.y_ticks and chart.x_ticks
    assert all(math.isfinite(v) for place in _places(chart.lines[0].path) for v in place)


def test_points_that_are_not_finite_are_left_out_and_lines_without_points_too():
    nan, inf = math.nan, math.inf
    chart = draw({"a": [(0, 1.0), (1, nan), (2, inf), (3, 2.0)], "b": [(0, nan)]})
    (line,) = chart.lines
    assert line.name == "a" and len(_places(line.path)) == 2
    assert draw({"b": [(0, nan)]}) is None and draw({}) is None


def test_a_long_line_is_thinned_and_keeps_its_peaks():
    points = [(i, 0.0) for i in range(20_000)]
    points[12_345] = (12_345, 9.0)
    (line,) = draw({"a": points}).lines
    places = _places(line.path)
    assert len(places) <= MAX_POINTS
    assert len({y for _, y in places}) == 2
    assert places[0][0] == LEFT and places[-1][0] == WIDTH - RIGHT
