"""The comparison laid out for people."""

import dataclasses
from typing import Any

from msgspec import structs

from hessdiag import Comparison
from hessdiag.comparisons.compare_result import Change
from hessdiag.show.document import Interval, Quantity, Table
from tests.results import OTHER, PROVENANCE, RESULTS, comparison, sparse_comparison


def rows(found: Comparison, place: int = 0) -> list[tuple[str, list[Any]]]:
    """Rows of the first table of a block, under their headings."""
    item = found.document().blocks[place].items[0]
    assert isinstance(item, Table)
    return [
        (getattr(row.cells[0], "text", row.cells[0]).strip(), [*row.cells[1:], row.style])
        for row in item.rows
    ]


def with_part(**changes: Any) -> Comparison:
    part = structs.replace(comparison().parts["gn"], **changes)
    return Comparison.of(comparison().a, comparison().b, {"gn": part}, {}, paired=True)


def test_it_names_both_networks_and_every_part():
    document = comparison().located(PROVENANCE, OTHER).document()
    assert document.title == "mlp-5-4 beta_gelu(2) on digits (train)"
    assert "A  run/model.safetensors: mlp-5-4 beta_gelu(2) on digits" in document.headline[0]
    assert "B  run/other.safetensors" in document.headline[1]
    names = [name for name, _ in rows(comparison())]
    assert [name for name in names if name[0].isupper() and name != "Frobenius norm"] == [
        *("Hessian H", "Gauss-Newton G", "NME N", "Across the parts")
    ]
    assert names.count("λ max") == names.count("λ min") == 3
    assert dict(document.origin)["B, checkpoint: path"].text == "run/other.safetensors"


def test_each_change_stands_with_its_interval():
    trace = comparison().parts["hessian"].trace
    (cells, *_) = [cells for name, cells in rows(comparison()) if name == "trace"]
    assert cells[:2] == [Quantity(of.value, of.stderr) for of in (trace.a, trace.b)]
    assert cells[2:4] == [Quantity(trace.value, trace.error), Interval(trace.interval)]
    assert trace.relative is not None
    assert cells[4] == f"{100 * trace.relative:+.3g} %"


def test_only_what_excludes_zero_has_a_star():
    trace = comparison().parts["gn"].trace
    for interval, star in (((1.0, 2.0), "*"), ((-1.0, 2.0), ""), (None, "")):
        difference = structs.replace(trace.difference, interval=interval)
        changed = with_part(trace=Change.of(trace.a, trace.b, difference))
        cells = dict(rows(changed))["trace"]
        assert cells[5:] == [star, "" if star else "faint"]


def test_what_is_not_known_is_left_out():
    names = dict(rows(sparse_comparison()))
    assert "accuracy" not in names
    assert "λ max" not in names
    assert [block.heading for block in sparse_comparison().document().blocks] == ["Differences"]


def test_what_has_not_converged_is_doubted():
    part = comparison().parts["gn"]
    assert part.overlap is not None
    doubtful = dataclasses.replace(part.top[0].a, converged=False)
    top = (structs.replace(part.top[0], a=doubtful), *part.top[1:])
    found = with_part(top=top, overlap=structs.replace(part.overlap, converged=False))
    assert not dict(rows(found))["λ max"][0].sure
    assert not dict(rows(found, 1))["Gauss-Newton G"][0].sure


def test_each_part_has_a_chart_with_both_densities_on_one_axis():
    charts = comparison().located(PROVENANCE, OTHER).document().charts()
    assert [chart.title for chart in charts] == ["Hessian H", "Gauss-Newton G", "NME N"]
    assert len({(chart.x.low, chart.x.high) for chart in charts}) == 1
    for chart in charts:
        labels = [curve.label for curve in chart.curves]
        assert labels == ["A: run/model.safetensors", "B: run/other.safetensors"]


def test_of_reports_of_one_seed_the_probes_are_the_same():
    item = RESULTS["compare, of reports"]().document().blocks[0].items[0]
    assert isinstance(item, Table)
    assert "the same probes" in item.caption
