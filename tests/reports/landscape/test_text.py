"""The landscape on a terminal."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from hessdiag import Landscape
from hessdiag.metadata import Provenance
from hessdiag.reports.landscape.scale import Scale
from hessdiag.reports.landscape.text import draw, landscape_text


def rendered(found: Landscape, provenance: Provenance | None = None, width: int = 120) -> str:
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=width, highlight=False, file=nowhere)
        console.print(landscape_text(found, provenance))
        return console.export_text()


def maps(text: str) -> list[list[str]]:
    """The rows of each pair of maps, cut in two."""
    blocks = text.split("┌")[1::2]
    assert blocks
    rows = [line for line in text.splitlines() if line.startswith("│")]
    return [[row[1:37], row[42:78]] for row in rows]


def row(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(label + " "))
    return [cell.strip() for cell in line.removeprefix(label).split("   ") if cell.strip()]


def test_the_headline_says_what_it_is_of(single: Landscape, provenance: Provenance):
    lines = rendered(single, provenance).splitlines()
    assert lines[0] == "mlp-5-4 beta_gelu(2) on digits (train)"
    assert lines[1] == f"{single.num_parameters} parameters, 9 samples, cross-entropy"
    assert lines[2] == "→ gn eigenvector 1, -1 to +1"
    assert lines[3] == "↑ gn eigenvector 2, -1 to +1"
    assert rendered(single).startswith(f"{single.num_parameters} parameters")


def test_two_activations_stand_one_above_the_other(pair: Landscape):
    text = rendered(pair)
    assert text.startswith("relu beside beta_gelu(10)\n105 parameters, 1 sample, mse\n")
    pairs = maps(text)
    assert len(pairs) == 32
    assert all(not right.strip() for _, right in pairs[:16])  # no NME for ReLU
    assert set("".join(right for _, right in pairs[16:])) == set("░▒▓█")
    assert "NME norm, 0 everywhere" in text
    assert ", root" in text
    assert "note: relu: the NME norm is exactly 0" in text


@pytest.mark.parametrize("which", ["pair", "single", "gappy", "empty"])
def test_every_line_fits_a_terminal(which: str, request: pytest.FixtureRequest, provenance):
    text = rendered(request.getfixturevalue(which), provenance, width=80)
    assert max(map(len, text.splitlines())) <= 80


def test_the_ranges_are_printed(single: Landscape):
    text = rendered(single)
    (surface,) = single.surfaces
    for label, table, value in (
        ("loss", surface.loss, surface.origin.loss),
        ("Gauss-Newton norm", surface.gn_norm, surface.origin.gn_norm),
        ("NME norm", surface.nme_norm, surface.origin.nme_norm),
    ):
        assert row(text, label) == [f"{table.min():.4g}", f"{table.max():.4g}", f"{value:.4g}"]
    assert "±" in row(text, "norm of all of G")[2]
    assert "with 3 probes" in text
    assert "gn eigenvector 2: λ = " in text
    assert "25 points" in text


def test_without_probes_there_is_no_word_of_them(pair: Landscape):
    assert "probes" not in rendered(pair)
    assert "all of G" not in rendered(pair)


def test_the_first_coordinate_goes_right_and_the_second_up():
    cells = np.zeros((3, 2))
    cells[2, 1] = 1.0  # right and up
    assert draw(cells, Scale("linear", 0.0, 1.0)) == ["  █", "   "]


def test_the_smallest_value_above_the_low_end_is_seen():
    cells = np.array([[0.0], [1e-5], [0.3], [0.6], [1.0]])
    assert draw(cells, Scale("linear", 0.0, 1.0)) == [" ░▒▓█"]


def test_gaps_are_question_marks(gappy: Landscape, empty: Landscape):
    pairs = maps(rendered(gappy))
    assert "?" in "".join(left for left, _ in pairs)
    assert pairs[-1][0][0] != "?"
    text = rendered(empty)
    assert set("".join(left for left, _ in maps(text))) == {"?"}
    assert " loss, nowhere finite" in text
    assert row(text, "loss")[:2] == ["none", "none"]


def test_markup_and_control_characters_in_names_stay_what_they_are(single: Landscape):
    hostile = "[red]a[/red] [/] \x1b[31mb\x07\\"
    text = rendered(replace(single, labels=(hostile, "b"), notes=(hostile,)))
    assert text.count("[red]a[/red] [/]") == 3
    assert not any(ord(c) < 32 and c != "\n" for c in text)
