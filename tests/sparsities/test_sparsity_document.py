"""Sparsity laid out for people: what each medium draws is what the result holds."""

from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hessdiag import Sparsity
from hessdiag.show import braille, terminal
from hessdiag.show.document import Bars, Quantity, Share, Table
from tests.results import mixed, sparsity


def rows(report: Sparsity, heading: str) -> dict[str, list[Any]]:
    """Rows of the first table of a block, by their heading."""
    (block,) = (block for block in report.document().blocks if block.heading == heading)
    (table,) = (item for item in block.items if isinstance(item, Table))
    return {getattr(r.cells[0], "text", r.cells[0]): list(r.cells[1:]) for r in table.rows}


def printed(report: Sparsity, width: int = 100) -> str:
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=width, highlight=False, file=nowhere)
        console.print(terminal.render(report.document()))
        return console.export_text()


def test_an_activation_alone():
    report = sparsity("beta_gelu", 50.0, trained=False)
    profile = report.activations[0].profile
    assert profile is not None
    assert report.document().title == "φ'' of beta_gelu(50), max |φ''| = 39.8942"
    assert rows(report, "Second derivative")["φ'' ≠ 0 in float32"] == ["|x| < 0.2869"]
    shares = rows(report, "Shares of pre-activations")
    for share in profile.gaussian:
        own = shares[f"Gaussian, σ = {share.std:g}"]
        assert own == [Share(share.nonzero), Share(share.above)]
    fresh = report.activations[0].initial
    assert fresh is not None
    total = [Share(fresh.total.nonzero), Share(fresh.total.above)]
    assert shares["fresh mlp-5-4 on digits"] == total
    assert "81 pre-activations at 2 activation calls" in " ".join(report.document().headline)


def test_a_sweep_has_a_row_and_curves_for_each_beta():
    report = sparsity("beta_gelu", 1.0, 5.0, 100.0)
    table = rows(report, "By β")
    assert list(table) == ["1", "5", "100"]
    for study in report.activations:
        trained, initial = study.trained, study.initial
        assert trained is not None
        assert initial is not None
        norm = trained.norm_of_blocks
        assert norm is not None
        cells = table[f"{study.beta:g}"]
        assert cells[1:3] == [Share(initial.total.nonzero), Share(initial.total.above)]
        assert cells[4:6] == [Share(trained.total.nonzero), Share(trained.total.above)]
        assert cells[6] == Quantity(norm.value, norm.stderr)
    curves, by_beta = report.document().charts()
    assert [curve.label for curve in curves.curves] == ["β = 1", "β = 5", "β = 100"]
    shares = [study.trained.total.above for study in report.activations if study.trained]
    np.testing.assert_allclose(by_beta.curves[3].y, 100 * np.array(shares))


def test_a_checkpoint_call_by_call_and_block_by_block():
    report = sparsity("beta_gelu", 2.0)
    study = report.activations[0]
    assert study.trained is not None
    assert study.initial is not None
    calls = rows(report, "Call by call")
    for call, before in zip(study.trained.calls, study.initial.calls, strict=True):
        cells = calls[call.name]
        assert cells[:2] == [f"{call.mean:.2f}", f"{call.std:.2f}"]
        assert cells[2:5] == [Share(call.nonzero), Share(call.above), Quantity(call.mean_abs)]
        assert cells[5:8] == [f"{before.std:.2f}", Share(before.nonzero), Share(before.above)]
        assert cells[8] == Bars([("initial", before.above), ("trained", call.above)], 0.0, 1.0)
    blocks = rows(report, "Within-layer blocks of N")
    for name, norm in (study.trained.block_norms or {}).items():
        assert blocks[name][0] == Quantity(norm.value, norm.stderr)
    fed = [getattr(blocks[name][2], "text", blocks[name][2]) for name in ("fc1.weight", "fc3.bias")]
    assert fed == [study.trained.calls[0].name, "none"]
    charts = report.document().charts()
    assert len(charts) == len(study.trained.calls)
    area = np.trapezoid(np.asarray(charts[0].curves[0].y), np.asarray(charts[0].curves[0].x))
    assert area == pytest.approx(1, abs=0.1)


def test_without_a_closed_form_there_is_a_note():
    report = mixed()
    assert "hardswish (1 call) is not known in closed form" in report.notes[0]
    assert [row[0].text for row in rows(report, "Call by call").values() if row[0] != ""] != []


@pytest.mark.parametrize(("name", "where"), [("squared_relu", "x > 0"), ("elu", "< x < 0")])
def test_a_jump_at_zero_is_at_zero(name: str, where: str):
    places = rows(sparsity(name, None, trained=False), "Second derivative")
    assert places["φ'' ≠ 0 in float32"][0].endswith(where)


def test_an_activation_without_second_derivative_is_not_drawn():
    report = sparsity("relu", None, trained=False)
    assert "φ'' = 0 everywhere" in " ".join(report.document().headline)
    assert rows(report, "Second derivative")["φ'' ≠ 0 in float32"] == ["no x"]
    assert "⠀" not in printed(report)


@pytest.mark.parametrize("name", ["beta_gelu", "silu", "mish", "tanh", "softplus"])
def test_an_activation_alone_fits_a_hundred_columns(name: str):
    beta = {"beta_gelu": 50.0, "softplus": 1.0}.get(name)
    text = printed(sparsity(name, beta, trained=False))
    assert "⠀" in text
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.split("note:")[0].splitlines()) <= 100


def dots(line: str) -> list[int]:
    """Count the dots of each cell, which must be braille."""
    assert all(0x2800 <= ord(c) <= 0x28FF for c in line)
    return [bin(ord(c) - 0x2800).count("1") for c in line]


@pytest.mark.parametrize("num", [1, 2, 801])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (56, 7)])
def test_drawings_have_the_size_asked_for(num: int, width: int, height: int):
    for values in (np.zeros(num), np.linspace(-3, 2, num), np.full(num, -1e-30)):
        lines = braille.draw(values.tolist(), width=width, height=height)
        assert len(lines) == height
        assert {len(dots(line)) for line in lines} == {width}


@pytest.mark.parametrize("sign", [1, -1])
def test_steep_jumps_have_no_gaps(sign: int):
    lines = braille.draw([0.0] * 100 + [float(sign)] * 100, width=20, height=5)
    column = max(range(20), key=lambda i: sum(dots(line)[i] for line in lines))
    assert all(dots(line)[column] >= 4 for line in lines[1:-1])


def test_the_drawing_has_its_maximum_on_top_and_its_minimum_below():
    lines = braille.draw(np.sin(np.linspace(0, 2 * np.pi, 200)).tolist(), width=40, height=8)
    assert sum(dots(lines[0])[:20]) > 0 == sum(dots(lines[0])[20:])
    assert sum(dots(lines[-1])[20:]) > 0 == sum(dots(lines[-1])[:20])
