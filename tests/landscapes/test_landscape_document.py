"""The landscape laid out for people: what each medium draws is what the result holds."""

from typing import Any

import numpy as np
import pytest
from msgspec import structs
from rich.console import Console

from hessdiag import InputError, Landscape
from hessdiag.landscapes.landscape_result import Axes, qualified
from hessdiag.show import page, terminal
from hessdiag.show.document import Map, Quantity, Table
from hessdiag.show.plotting import figure
from hessdiag.show.shaded import draw
from hessdiag.show.shading import Shading
from tests.results import PROVENANCE, empty, gappy, landscape, two_activations


def printed(found: Landscape, width: int = 120) -> str:
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=width, highlight=False, file=nowhere)
        console.print(terminal.render(found.document()))
        return console.export_text()


def maps(found: Landscape, block: int = 0) -> dict[str, Map]:
    items = found.document().blocks[block].items
    return {item.title: item for item in items if isinstance(item, Map)}


def ranges(found: Landscape) -> dict[str, list[Any]]:
    (table,) = (item for item in found.document().blocks[0].items if isinstance(item, Table))
    return {str(row.cells[0]): list(row.cells[1:]) for row in table.rows}


def drawn(text: str) -> list[list[str]]:
    """The rows of each pair of maps, cut in two."""
    return [[line[1:37], line[42:78]] for line in text.splitlines() if line.startswith("│")]


def test_the_headline_says_what_it_is_of():
    lines = printed(landscape().of(PROVENANCE)).splitlines()
    assert lines[0] == "mlp-5-4 beta_gelu(2) on digits (train)"
    assert lines[1] == f"{landscape().num_parameters} parameters, 9 samples, cross-entropy"
    assert lines[2:4] == ["→ gn eigenvector 1, -1 to +1", "↑ gn eigenvector 2, -1 to +1"]


def test_every_table_is_a_map_with_its_range():
    (surface,) = landscape().surfaces
    shown, told = maps(landscape()), ranges(landscape())
    for label, table, value in (
        ("loss", surface.loss, surface.origin.loss),
        ("Gauss-Newton norm", surface.gn_norm, surface.origin.gn_norm),
        ("NME norm", surface.nme_norm, surface.origin.nme_norm),
    ):
        np.testing.assert_array_equal(shown[label].values, table)
        least, largest, centre = told[label]
        assert (least, largest) == (Quantity(table.min()), Quantity(table.max()))
        assert centre == Quantity(value)
    assert told["norm of all of G"][2].error > 0
    assert "with 3 probes" in printed(landscape())
    assert "probes" not in printed(two_activations())


def test_two_activations_share_a_scale_and_relus_nme_is_empty():
    text = printed(two_activations())
    assert text.startswith("relu beside beta_gelu(10)\n105 parameters, 1 sample, mse\n")
    pairs = drawn(text)
    assert all(not right.strip() for _, right in pairs[:16])  # no NME for ReLU
    relu, gelu = (maps(two_activations(), block) for block in (0, 1))
    ours, theirs = relu["NME norm, relu"], gelu["NME norm, beta_gelu(10)"]
    assert ours.remark == "0 away from the kinks"
    assert [table.max() for table in ours.among] == [table.max() for table in theirs.among]
    assert "relu: the NME norm is exactly 0 at every point" in " ".join(two_activations().notes)


def test_the_first_coordinate_goes_right_and_the_second_up():
    cells = np.zeros((3, 2))
    cells[2, 1] = 1.0  # right and up
    assert draw(cells, Shading("linear", 0.0, 1.0)) == ["  █", "   "]
    surface = two_activations().surfaces[1]
    axes = figure.figure(two_activations().document()).axes
    (image,) = next(a for a in axes if a.get_title() == "loss, beta_gelu(10)").images
    np.testing.assert_array_equal(np.asarray(image.get_array()), surface.loss.T)


def test_the_smallest_value_above_the_low_end_is_seen():
    cells = np.array([[0.0], [1e-5], [0.3], [0.6], [1.0]])
    assert draw(cells, Shading("linear", 0.0, 1.0)) == [" ░▒▓█"]


def test_gaps_are_question_marks_and_noted():
    assert "?" in "".join(left for left, _ in drawn(printed(gappy())))
    assert "the loss is not finite at 1 of 25 points: null" in qualified(gappy()).notes
    assert ranges(empty())["loss"][:2] == ["none", "none"]
    assert " loss, nowhere finite" in printed(empty())


@pytest.mark.parametrize("make", [landscape, two_activations, gappy, empty])
def test_it_fits_a_terminal_and_is_a_picture_on_a_page(make: Any):
    assert max(map(len, printed(make(), 80).splitlines())) <= 80
    text = page.page([make().document()])
    assert text.count("data:image/png;base64") == 2 * sum(len(s.tables()) for s in make().surfaces)


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": Axes(np.array([0.0, 1.0]), np.array([0.0, 1.0]))},
        {"axes": Axes(np.array([0.0, 0.0, 1.0, 2.0, 3.0]), np.arange(5.0))},
    ],
)
def test_tables_that_do_not_fit_the_axes_are_refused(changes: dict[str, Any]):
    with pytest.raises(InputError, match=r"does not fit|do not increase"):
        structs.replace(landscape(), **changes)
