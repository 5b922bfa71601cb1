"""Charts: values land where the axes say."""

import re

import numpy as np
import pytest

from hessdiag.reports.html import charts
from hessdiag.reports.html.charts import Curve, Frame


def test_values_are_placed_between_the_ends():
    linear = charts.linear("x", np.array([0.3, 9.0, np.nan]))
    assert (linear.low, linear.high) == (0, 10)
    np.testing.assert_allclose(linear.share(np.array([0.0, 5.0, 10.0])), [0, 0.5, 1])
    decades = charts.logarithmic("y", 2e-3, 50.0)
    assert (decades.low, decades.high) == (1e-3, 100)
    np.testing.assert_allclose(decades.share(np.array([1e-3, 1e-1, 100])), [0, 0.4, 1])


@pytest.mark.parametrize(
    ("shown", "ends"),
    [([1.0, 31.0], (1, 100)), ([1.0, 29.0], (0, 30)), ([0.0, 1e6], (0, 1e6)), ([], (0, 1))],
)
def test_decades_are_chosen_where_values_differ_much(shown: list[float], ends: tuple[float, ...]):
    axis = charts.suitable("y", np.array(shown))
    assert (axis.low, axis.high) == ends


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-12, 1e12])
def test_one_value_has_room_around_it(value: float):
    axis = charts.linear("x", np.array([value]))
    assert axis.low < value < axis.high


def test_counts_have_whole_ticks():
    axis = charts.linear("epoch", np.array([1.0, 3.0]), whole=True)
    assert list(axis.ticks.values()) == ["1", "2", "3"]


def test_a_decade_is_a_power_of_ten():
    assert [charts.decade(power) for power in (-12, 0, 3)] == ["10⁻¹²", "1", "10³"]


def test_a_curve_breaks_where_nothing_is_known():
    axis = charts.linear("x", np.array([0.0, 10.0]))
    y = np.array([0.0, 5.0, np.nan, 10.0, 5.0])
    curve = Curve("c", "a", np.array([0.0, 2.0, 4.0, 6.0, 10.0]), y, y / 10, dots=True)
    drawn = charts.chart(axis, axis, [curve])
    (path,) = re.findall(r'd="([^"]*)" class="curve a"', drawn)
    frame = Frame(axis, axis, 420, 260)
    points = [tuple(map(float, one.split())) for one in re.split("[ML]", path)[1:]]
    known = np.isfinite(curve.y)
    wanted = np.stack([frame.across(curve.x[known]), frame.up(curve.y[known])], 1)
    np.testing.assert_allclose(points, wanted, atol=0.05)
    assert re.sub("[^ML]", "", path) == "MLML"
    assert drawn.count("<circle") == 4


def test_bars_begin_at_zero():
    drawn = charts.bars([("hessian", 2.0), ("gn", -1.0), ("nme", None)], -1.0, 2.0)
    found = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', drawn)
    assert found == [("50", "100"), ("0", "50"), ("50", "0")]


def test_an_interval_is_drawn_on_the_shared_axis():
    axis = charts.linear("x", np.array([0.0, 10.0]))
    drawn = charts.interval(5.0, 0.0, 10.0, axis)
    assert 'd="M5.0 8H145.0"' in drawn
    assert 'cx="75"' in drawn
    assert "<path" not in charts.interval(5.0, None, None, axis)
    assert "<circle" not in charts.interval(None, None, None, axis)
