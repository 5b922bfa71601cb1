"""The spectrum laid out for people: what each medium draws is what the result holds."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from hessdiag import Report
from hessdiag.linalg.density import Density
from hessdiag.metrics import metric_table
from hessdiag.show.document import Bars, Chart, Interval, Quantity, Table
from hessdiag.spectra import densities
from hessdiag.spectra.densities import SymlogAxis, density_chart
from tests.results import PROVENANCE, sparse_spectrum, spectrum


def table(report: Report, place: int = 0) -> dict[str, list[Any]]:
    """Rows of the first table of a block, by their heading."""
    item = report.document().blocks[place].items[0]
    assert isinstance(item, Table)
    rows: dict[str, list[Any]] = {}
    for row in item.rows:
        heading = getattr(row.cells[0], "text", row.cells[0])
        rows.setdefault(heading.strip(), list(row.cells[1:]))
    return rows


def with_top(converged: bool) -> Report:
    gn = spectrum().parts["gn"]
    top = (dataclasses.replace(gn.top[0], converged=converged), *gn.top[1:])
    parts = {**spectrum().parts, "gn": structs.replace(gn, top=top)}
    return structs.replace(spectrum(), parts=parts)


def test_the_parts_stand_side_by_side_with_their_errors():
    report, rows = spectrum(), table(spectrum())
    parts = list(report.parts.values())
    assert rows["trace"] == [Quantity(p.trace.value, p.trace.stderr) for p in parts]
    norms = [p.frobenius_norm for p in parts]
    assert rows["Frobenius norm"] == [Quantity(norm.value, norm.stderr) for norm in norms]
    assert rows["95 % interval"] == [Interval(part.trace.ci95) for part in parts]
    for label, end in (("λ max", "top"), ("λ min", "bottom")):
        values = [getattr(part, end)[0] for part in parts]
        assert rows[label] == [Quantity(v.value, v.error) for v in values]
    assert {"2nd", "3rd"} <= rows.keys()
    assert rows["along the gradient, ĝᵀAĝ"] == [Quantity(v) for v in report.rayleigh.values()]
    assert report.finite_radius is not None
    excess = report.finite_radius.excess
    assert rows["excess over pointwise"] == [Quantity(excess.value, excess.stderr), "", ""]


def test_headline_facts_and_footer_say_what_it_is_of():
    report = spectrum().of(PROVENANCE)
    document = report.document()
    assert document.title == "mlp-5-4 beta_gelu(2) on digits (train)"
    told = " ".join((*document.headline, *document.footer))
    assert f"{report.num_parameters} parameters, 9 samples" in told
    assert f"cross-entropy {report.loss:.4g}, accuracy {report.accuracy:.2%}" in told
    assert f"{report.cost.passes['total']} passes over the data" in told
    assert "float64 on cpu" in told
    facts = dict(document.facts)
    assert facts["tr N"] == Quantity(
        report.parts["nme"].trace.value, report.parts["nme"].trace.stderr
    )
    assert dict(document.origin)["checkpoint: sha256"].text == "c" * 64
    assert dict(document.origin)["checks: decomposition residual"] == Quantity(
        report.decomposition_residual
    )


def test_the_caption_counts_the_probes_that_were_taken():
    """With --rel-error there are more than were asked for at first."""
    gn = spectrum().parts["gn"]
    more = structs.replace(gn, trace=structs.replace(gn.trace, num_probes=40))
    report = structs.replace(spectrum(), parts={**spectrum().parts, "gn": more})
    item = report.document().blocks[0].items[0]
    assert isinstance(item, Table)
    assert "over 16 to 40 probes" in item.caption


def test_eigenvalues_that_have_not_converged_are_marked():
    for converged in (True, False):
        report = with_top(converged)
        assert [cell.sure for cell in table(report)["λ max"]] == [True, converged, True]
        (chart,) = report.document().charts()
        sure = {marks.label: [ok for _, ok in marks.values] for marks in chart.marks}
        assert sure["G"][0] == converged


def test_a_density_and_a_mark_for_every_eigenvalue_of_each_part():
    (chart,) = spectrum().document().charts()
    assert [curve.label for curve in chart.curves] == ["Hessian H", "Gauss-Newton G", "NME N"]
    for marks, part in zip(chart.marks, spectrum().parts.values(), strict=True):
        assert [value for value, _ in marks.values] == [r.value for r in (*part.top, *part.bottom)]


def test_layers_have_a_row_each_with_bars():
    rows = table(spectrum(), 2)
    layers = spectrum().parts["nme"].layers
    assert layers is not None
    assert list(rows) == list(layers)
    for name, cells in rows.items():
        assert cells[2] == Quantity(layers[name].value, layers[name].stderr)
        assert isinstance(cells[3], Bars)
        assert cells[3].values[2] == ("nme", layers[name].value)


def test_a_sparse_report_shows_what_there_is():
    document = sparse_spectrum().document()
    rows = table(sparse_spectrum())
    assert rows["95 % interval"] == [Interval(None)]
    assert "λ max" not in rows
    assert document.charts() == []
    assert [note for note in document.notes if "one probe" in note]


def shown(chart: Chart) -> Any:
    return np.asarray(chart.curves[0].y)


def test_the_shared_axis_keeps_the_area_of_every_density():
    found = [part.density for part in spectrum().parts.values() if part.density]
    axis = SymlogAxis(found, 4000)
    for density in found:
        assert np.trapezoid(axis.density(density), axis.grid) == pytest.approx(1, abs=1e-3)
    assert axis.to_axis(np.array(0.0)) == 0
    assert np.all(np.diff(axis.grid) > 0)


def test_many_nodes_draw_the_same_density(monkeypatch: pytest.MonkeyPatch):
    nodes = np.random.default_rng(0).permutation(1e-3 * np.sinh(np.linspace(-7, 7, 5000)))
    none = np.empty(0)
    density = Density(none, none, None, 0.1, nodes, np.full(5000, 1 / 5000), 4)
    whole = shown(density_chart("d", [("d", "gn", density)]))
    monkeypatch.setattr(densities, "_MOST_NODES", 1000)
    thinned = shown(density_chart("d", [("d", "gn", density)]))
    np.testing.assert_allclose(thinned, whole, atol=0.02 * whole.max())
    assert not np.array_equal(thinned, whole)


def test_what_parts_tell_together_is_listed():
    rows = table(spectrum(), -1)
    reading = metric_table.readings(spectrum())["nme_to_gn"]
    assert rows["‖N‖_F/‖G‖_F"] == [Quantity(reading.value, reading.error), Interval(reading.ci95)]
    assert rows["‖∇L‖"] == [Quantity(spectrum().gradient_norm, None), ""]
    assert "‖N‖_F/‖G‖_F" not in table(sparse_spectrum(), -1)
