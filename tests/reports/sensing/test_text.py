"""Matrix sensing on a terminal."""

from dataclasses import replace

import pytest
from rich.console import Console

from hessdiag.reports.sensing.text import sensing_text
from hessdiag.training.sensing import Sensing


def rendered(found: Sensing) -> str:
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=80, highlight=False, file=nowhere)
        console.print(sensing_text(found))
        return console.export_text()


def row(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(label + " "))
    return line.removeprefix(label).split()


def test_the_headline_says_what_it_is_of(found: Sensing):
    lines = rendered(found).splitlines()
    assert lines[0] == "matrix sensing: rank 2 of 6 × 6, 12 measurements"
    assert lines[1] == "after 40 steps of size 0.01; σ = 0.08, NSO with 2 pairs"
    single = replace(found, settings=replace(found.settings, num_pairs=1))
    assert rendered(single).splitlines()[1].endswith("NSO with 1 pair")


@pytest.mark.parametrize(
    ("label", "method"),
    [("gradient descent", "gd"), ("weight noise", "weight-noise"), ("NSO", "nso")],
)
def test_the_last_values_are_printed(found: Sensing, label: str, method: str):
    curves = found.curves[method]
    wanted = [f"{v[-1]:.4g}" for v in (curves.relative_error, curves.loss, curves.trace)]
    assert row(rendered(found), label) == wanted


def test_what_it_took_and_no_notes(found: Sensing):
    text = rendered(found)
    assert f"{found.seconds:.1f} s, float64 on cpu" in text
    assert "note:" not in text


def test_divergence_is_said(diverged: Sensing):
    text = rendered(diverged)
    assert "note: NSO has diverged by step" in text
    assert " ".join(row(text, "NSO")) == " ".join(["not finite"] * 3)
