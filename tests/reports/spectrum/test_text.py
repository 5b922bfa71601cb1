"""The report on a terminal."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hessdiag import Report
from hessdiag.metadata import Provenance
from hessdiag.reports.spectrum.text import spectrum_text
from hessdiag.reports.wording import between, plus_minus


def rendered(report: Report, provenance: Provenance | None = None, width: int = 120) -> str:
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=width, highlight=False, file=nowhere)
        console.print(spectrum_text(report, provenance))
        return console.export_text()


def row(text: str, label: str) -> list[str]:
    """Cells of the first line that begins with the label."""
    line = next(line for line in text.splitlines() if line.startswith(label))
    return [cell.strip() for cell in line.removeprefix(label).split("   ") if cell.strip()]


def test_the_parts_stand_side_by_side_with_their_errors(report: Report, provenance: Provenance):
    text = rendered(report, provenance)
    assert row(text, " " * 20) == ["Hessian H", "Gauss-Newton G", "NME N"]
    for label, pick in (
        ("trace", lambda part: part.trace),
        ("Frobenius norm", lambda part: part.frobenius_norm),
    ):
        estimates = [pick(part) for part in report.parts.values()]
        assert row(text, label) == [plus_minus(e.value, e.stderr) for e in estimates]
    intervals = row(text, "  95 % interval")
    assert len(intervals) == 3
    low, high = report.parts["gn"].trace.ci95 or (0, 0)
    assert intervals[1] == f"[{low:.4g}, {high:.4g}]"
    for label, end in (("λ max", "top"), ("λ min", "bottom")):
        values = [getattr(part, end)[0] for part in report.parts.values()]
        assert row(text, label) == [plus_minus(v.value, v.residual) for v in values]
    assert "  2nd" in text
    assert "  3rd" in text


def test_the_headline_and_the_footer_say_what_it_is_of(report: Report, provenance: Provenance):
    text = rendered(report, provenance)
    assert text.startswith("mlp-5-4 beta_gelu(2) on digits (train)\n")
    assert f"{report.num_parameters} parameters, 9 samples" in text
    assert f"cross-entropy {report.loss:.4g}, accuracy {report.accuracy:.2%}" in text
    assert "± is the standard error over 8 probes" in text
    assert f"{report.cost.passes['total']} passes over the data" in text
    assert "float64 on cpu" in text
    assert "trace by layer" in text
    assert "fc1.weight" in text


def test_every_line_fits_a_terminal(report: Report):
    assert max(map(len, rendered(report, width=80).splitlines())) <= 80


def test_the_densities_are_drawn(report: Report):
    after = rendered(report).partition("spectral density")[2].splitlines()
    bars = [line[15:] for line in after[1:4]]
    assert [line[:15].strip() for line in after[1:4]] == ["Hessian H", "Gauss-Newton G", "NME N"]
    assert all(len(set(bar) & set("▁▂▃▄▅▆▇█")) > 2 for bar in bars)
    assert max("".join(bars)) == "█"


def test_unconverged_eigenvalues_are_marked_and_noted(report: Report):
    assert "?" not in rendered(report)
    gn = report.parts["gn"]
    first = replace(gn.top[0], converged=False)
    parts = {**report.parts, "gn": replace(gn, top=(first, *gn.top[1:]))}
    text = rendered(replace(report, parts=parts))
    assert [cell.endswith("?") for cell in row(text, "λ max")] == [False, True, False]
    assert "note: gn: 1 of 3 top eigenvalues not converged" in text


def test_the_footer_counts_the_probes_that_were_taken(report: Report):
    """With --rel-error there are more than were asked for at first."""
    gn = report.parts["gn"]
    trace = replace(gn.trace, num_probes=40)
    parts = {"gn": replace(gn, trace=trace, target_reached=True)}
    settings = replace(report.settings, parts=("gn",), rel_error=0.5, finite_radius=None)
    text = rendered(replace(report, parts=parts, rayleigh={"gn": 0.0}, settings=settings))
    assert "over 8 probes" not in text


def test_a_sparse_report_says_none(sparse_report: Report):
    text = rendered(sparse_report)
    assert "accuracy" not in text.split("note:")[0]
    assert row(text, "  95 % interval") == ["none"]
    assert "λ max" not in text
    assert "spectral density" not in text


def test_the_one_and_twentieth_is_no_th(report: Report):
    gn = report.parts["gn"]
    top = gn.top[:1] * 23
    parts = {"gn": replace(gn, top=top)}
    text = rendered(replace(report, parts=parts, rayleigh={"gn": 0.0}))
    ordinals = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    for ordinal in ("4th", "11th", "12th", "13th", "21st", "22nd", "23rd"):
        assert ordinal in ordinals


def test_markup_and_control_characters_in_names_stay_what_they_are(report: Report, provenance):
    hostile = "[red]a[/red] [/] \x1b[31mb\x07\\"
    gn = report.parts["gn"]
    assert gn.layers is not None
    layers = {hostile: gn.layers["fc1.weight"]}
    provenance = replace(provenance, data=hostile)
    parts = {"gn": replace(gn, layers=layers)}
    text = rendered(replace(report, parts=parts, rayleigh={"gn": 0.0}), provenance)
    assert text.count("[red]a[/red] [/]") == 2
    assert not any(ord(c) < 32 and c != "\n" for c in text)


@pytest.mark.parametrize(
    ("value", "error", "wanted"),
    [
        (1.23456, 0.012, "1.235 ± 0.013"),
        (-1.23456, 0.12, "-1.23 ± 0.13"),
        (1234.5, 12.0, "1234 ± 13"),
        (0.0, 0.5, "0.00 ± 0.50"),
        (0.0, 0.0, "0"),
        (-0.0, 0.0, "0"),
        (2.5, None, "2.5"),
        (1.0, 0.0, "1.00000 ± 1e-07"),
        (1e-8, 2e-9, "(1.00 ± 0.20)e-8"),
        (3.2e12, 1e10, "(3.200 ± 0.010)e12"),
        (1e-300, 1e-301, "(1.00 ± 0.10)e-300"),
        (-4e200, 1e199, "(-4.000 ± 0.025)e200"),
        (math.nan, 1.0, "not finite"),
        (math.inf, 1.0, "not finite"),
        (math.nan, None, "not finite"),
    ],
)
def test_plus_minus(value: float, error: float | None, wanted: str):
    if wanted == "(-4.000 ± 0.025)e200":
        error = 2.5e198
    assert plus_minus(value, error) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_what_is_printed_holds_what_it_rounds(seed: int):
    rng = np.random.default_rng(seed)
    for value, error in zip(
        rng.standard_normal(500) * 10.0 ** rng.uniform(-12, 12, 500),
        10.0 ** rng.uniform(-14, 12, 500),
        strict=True,
    ):
        mantissa, _, power = plus_minus(value, error).strip("(").partition(")e")
        shown, bound = (Decimal(part).scaleb(int(power or 0)) for part in mantissa.split(" ± "))
        assert abs(shown - Decimal(value)) + Decimal(error) * Decimal("0.999999") <= bound
        low, high = map(float, between(value, value + error))
        assert low <= value
        assert value + error <= high


@pytest.mark.parametrize(
    "error", [None, 0.0, 5e-324, 1e-300, 1e-9, 0.0999, 1.0, 1e5, 1e308, math.inf, math.nan]
)
def test_plus_minus_never_fails(error: Any):
    for value in (0.0, 1.0, -3e-7, 1e-300, 5e-324, 1e308, 99999.9999, -1e5):
        assert plus_minus(value, error)


def test_curvature_at_a_finite_radius_stands_under_the_trace(report: Report):
    text = rendered(report)
    found = report.finite_radius
    assert found is not None
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("trace at radius 0.01"))
    assert f"{found.trace.value:.3g}"[:3] in lines[at]
    assert lines[at + 1].startswith("  excess over pointwise")
