"""Charts as SVG: values land where the axes say."""

import re

import numpy as np
import pytest

from hessdiag.show import svg
from hessdiag.show.document import Axis, Bars, Chart, Curve, Marks
from hessdiag.show.scales import decade, scale, scales


def test_values_are_placed_between_the_ends():
    linear = scale(Axis("x", "linear"), [[0.3, 9.0, np.nan]])
    assert (linear.low, linear.high) == (0, 10)
    np.testing.assert_allclose(linear.share([0.0, 5.0, 10.0]), [0, 0.5, 1])
    decades = scale(Axis("y", "log"), [[2e-3, 50.0]])
    assert (decades.low, decades.high) == (1e-3, 100)
    np.testing.assert_allclose(decades.share([1e-3, 1e-1, 100]), [0, 0.4, 1])
    both = scale(Axis("λ", "symlog", -10.0, 10.0, threshold=0.1), [])
    np.testing.assert_allclose(both.share([-10.0, 0.0, 10.0]), [0, 0.5, 1], atol=1e-12)
    assert list(both.ticks.values()) == ["0", "10⁻¹", "1", "10¹", "−10⁻¹", "−1", "−10¹"]


@pytest.mark.parametrize(
    ("shown", "ends"),
    [([1.0, 31.0], (1, 100)), ([1.0, 29.0], (0, 30)), ([0.0, 1e6], (0, 1e6)), ([], (0, 1))],
)
def test_decades_are_chosen_where_values_differ_much(shown: list[float], ends: tuple[float, ...]):
    axis = scale(Axis("y"), [shown])
    assert (axis.low, axis.high) == ends


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-12, 1e12])
def test_one_value_has_room_around_it(value: float):
    axis = scale(Axis("x", "linear"), [[value]])
    assert axis.low < value < axis.high


def test_counts_have_whole_ticks():
    axis = scale(Axis("epoch", "linear", whole=True), [[1.0, 3.0]])
    assert list(axis.ticks.values()) == ["1", "2", "3"]


def test_a_decade_is_a_power_of_ten():
    assert [decade(power) for power in (-12, 0, 3)] == ["10⁻¹²", "1", "10³"]


def points(drawn: str, style: str) -> tuple[list[list[float]], str]:
    (path,) = re.findall(rf'd="([^"]*)" class="curve {style}"', drawn)
    return [[*map(float, one.split())] for one in re.split("[ML]", path)[1:]], path


def test_a_curve_breaks_where_nothing_is_known():
    x, y = np.array([0.0, 2.0, 4.0, 6.0, 10.0]), np.array([0.0, 5.0, np.nan, 10.0, 5.0])
    chart = Chart(
        "c", Axis("x", "linear"), Axis("y", "linear"), [Curve("c", x, y, errors=y / 10, dots=True)]
    )
    drawn = svg.chart(chart)
    found, path = points(drawn, "a")
    frame = svg.Frame(*scales(chart), 420, 260)
    known = np.isfinite(y)
    wanted = np.stack([frame.across(x[known]), frame.up(y[known])], 1)
    np.testing.assert_allclose(found, wanted, atol=0.05)
    assert re.sub("[^ML]", "", path) == "MLML"
    assert drawn.count("<circle") == 4
    assert 'class="curve error a"' in drawn


def test_a_curve_meets_the_floor_of_its_axis_and_stays_there():
    y = [1e-9, 1e-7, 1.0, 1e-7, 1e-9, 0.0]
    chart = Chart("c", Axis("x"), Axis("y", "log", 1e-3, 1.0), [Curve("c", range(6), y)])
    found, path = points(svg.chart(chart), "a")
    assert re.sub("[^ML]", "", path) == "MLL"
    assert found[0][1] == found[2][1] == 260 - 46


def test_marks_stand_in_rows_below():
    marks = [Marks("H", "hessian", [(0.5, True)]), Marks("N", "nme", [(0.25, False), (1.0, True)])]
    chart = Chart("c", Axis("x", "linear", 0, 1), Axis("y"), [Curve("c", [0, 1], [0, 1])], marks)
    drawn = svg.chart(chart)
    assert drawn.count('class="mark hessian"') == 1
    assert drawn.count('class="mark nme"') == 2
    assert drawn.count("l8 8m-8 0l8 -8") == 1


def test_bars_begin_at_zero():
    drawn = svg.bars(Bars([("hessian", 2.0), ("gn", -1.0), ("nme", None)], -1.0, 2.0))
    found = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', drawn)
    assert found == [("50", "100"), ("0", "50"), ("50", "0")]
