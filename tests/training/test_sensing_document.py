"""Matrix sensing laid out for people."""

import numpy as np

from hessdiag.show.document import Table
from tests.results import descents


def test_each_method_has_its_row_and_its_curves():
    sensing = descents(0.01)
    document = sensing.document()
    (table,) = (item for item in document.blocks[0].items if isinstance(item, Table))
    errors = [curves.relative_error[-1] for curves in sensing.methods]
    assert [row.cells[0] for row in table.rows] == ["gradient descent", "weight noise", "NSO"]
    assert [row.cells[1].value for row in table.rows] == errors  # type: ignore[union-attr]
    first = document.charts()[0]
    np.testing.assert_array_equal(first.curves[2].y, sensing.curves["nso"].relative_error)
    assert first.y.scale == "log"


def test_a_descent_that_diverges_is_noted():
    assert "gradient descent has diverged by step" in descents(1.0).notes[0]
    assert descents(0.01).notes == ()
