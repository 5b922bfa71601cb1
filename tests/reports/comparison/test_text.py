"""The comparison as people read it."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from hessdiag import Comparison
from hessdiag.reports.comparison.schema import Provenances
from hessdiag.reports.comparison.text import comparison_text


def text(found: Comparison, provenances: Provenances = (None, None)) -> str:
    out = StringIO()
    Console(file=out, width=120, highlight=False).print(comparison_text(found, provenances))
    return out.getvalue()


def row(shown: str, label: str) -> str:
    return next(line for line in shown.splitlines() if line.strip().startswith(label))


def test_it_names_both_networks_and_every_part(comparison: Comparison, provenances: Provenances):
    shown = text(comparison, provenances)
    assert "A  run/model.safetensors: mlp-5-4 beta_gelu(2) on digits (train), 64 param" in shown
    assert "B  run/other.safetensors" in shown
    for words in ("Hessian H", "Gauss-Newton G", "NME N", "the same probes", "overlap of top 3"):
        assert words in shown
    assert shown.count("λ max") == shown.count("λ min") == 3
    assert max(map(len, shown.splitlines())) <= 120


def test_only_what_excludes_zero_has_a_star(comparison: Comparison):
    trace = comparison.parts["gn"].trace
    for interval, star in (((1.0, 2.0), True), ((-1.0, 2.0), False), (None, False)):
        part = replace(comparison.parts["gn"], trace=replace(trace, interval=interval))
        shown = row(text(replace(comparison, parts={"gn": part})), "trace")
        assert shown.rstrip().endswith("*") is star
        assert ("none" in shown) is (interval is None)
    assert "%" in shown


def test_what_is_not_known_is_left_out(sparse: Comparison):
    shown = text(sparse)
    assert "accuracy  " not in shown
    assert "λ" not in shown
    assert "overlap" not in shown
    assert "note: one probe gives no standard error" in shown


def test_what_has_not_converged_is_doubted(comparison: Comparison):
    part = comparison.parts["gn"]
    top = replace(part.top[0], a=replace(part.top[0].a, converged=False), interval=None)
    assert part.overlap is not None
    doubtful = replace(part, top=(top,), overlap=replace(part.overlap, converged=False))
    shown = text(replace(comparison, parts={"gn": doubtful}))
    assert " ?" in row(shown, "λ max")
    assert " ?" in row(shown, "overlap")
    assert "*" not in row(shown, "λ max")


def test_of_reports_the_probes_are_independent(unpaired: Comparison):
    shown = text(unpaired)
    assert "independent probes" in shown
    assert "note: reports hold no single probes" in shown
    assert "overlap of top" not in shown
