"""A sweep laid out for people."""

from typing import Any

import numpy as np

from hessdiag.show.document import Share, Table
from hessdiag.training.sweep_result import SweepReport, report
from tests.sweeps import broken, complete, constant


def table(found: SweepReport, block: int = 0) -> list[list[Any]]:
    (item,) = (i for i in found.document().blocks[block].items if isinstance(i, Table))
    return [list(row.cells) for row in item.rows]


def test_every_cell_has_a_row_with_its_spread():
    found = report(complete())
    rows = table(found)
    assert [row[0] for row in rows] == ["none", *["grad-penalty"] * 4, *["sam"] * 4]
    assert [row[1] for row in rows[1:5]] == ["0", "0.01", "0.02", "0.1"]
    for cell, row in zip(found.cells, rows, strict=True):
        assert cell.accuracy is not None
        assert row[2] == Share(cell.accuracy.mean, cell.accuracy.std)
    assert [row[8] for row in rows].count("best") == 2


def test_methods_are_curves_over_what_varies_beside_a_line_for_what_does_not():
    (chart,) = report(complete()).document().charts()
    assert [curve.label for curve in chart.curves] == ["grad-penalty", "sam", "none"]
    np.testing.assert_allclose(chart.curves[0].y, [85, 86, 87, 95])
    np.testing.assert_array_equal(chart.curves[0].x, [0, 0.01, 0.02, 0.1])
    assert chart.x.scale == "symlog"
    assert "dashed" in chart.curves[2].style


def test_failures_are_told_and_not_drawn():
    found = report(broken())
    assert [row[7] for row in table(found)] == ["0 of 2, 2 failed", "1 of 2, 1 failed", "0 of 2"]
    assert sum("training diverged" in note for note in found.notes) == 3
    assert "not finished yet: 2 of 6 runs" in found.notes
    (chart,) = found.document().charts()
    assert [list(np.asarray(curve.x)) for curve in chart.curves] == [[2.0]]
    runs = table(found, -1)
    assert [row[1] for row in runs][-1] == "waiting"


def test_where_nothing_varies_every_choice_is_a_point():
    (chart,) = report(constant()).document().charts()
    assert [curve.label for curve in chart.curves] == ["none", "sam"]
    np.testing.assert_allclose([float(np.asarray(c.y)[0]) for c in chart.curves], [55, 80])


def test_what_was_tracked_has_a_table_of_its_own():
    rows = table(report(complete()), 1)
    assert rows[0][-1].value == 8.2
