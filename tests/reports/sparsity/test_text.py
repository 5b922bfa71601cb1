"""The sparsity report on a terminal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hessdiag.reports.sparsity.drawing import draw
from rich.console import Console

from hessdiag.metadata import Provenance
from hessdiag.reports.sparsity.text import sparsity_text
from hessdiag.sparsities.studies import Study
from tests.reports.sparsity.conftest import HOSTILE, make


def rendered(studies: list[Study], provenance: Provenance, width: int = 120) -> str:
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=width, highlight=False, file=nowhere)
        console.print(sparsity_text(studies, provenance))
        return console.export_text()


def percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share < 1 else "100 %"


def test_alone(alone: list[Study], provenance: Provenance):
    text = rendered(alone, provenance)
    (study,) = alone
    assert study.profile is not None
    assert study.initial is not None
    assert text.startswith("φ'' of beta_gelu(50), max |φ''| = 39.8942\n")
    assert "φ'' ≠ 0 in float32 for |x| < 0.2869\n" in text
    for share in study.profile.gaussian:
        (line,) = (x for x in text.splitlines() if x.startswith(f"Gaussian, σ = {share.std:g} "))
        assert line.split("   ")[1:] != []
        assert percent(share.above) in line
    (line,) = (x for x in text.splitlines() if x.startswith("fresh mlp-5-4 on digits"))
    assert percent(study.initial.total.nonzero) in line
    assert percent(study.initial.total.above) in line
    assert "81 pre-activations at 2 activation calls" in text
    assert "note" not in text


def test_a_sweep(sweep: list[Study], provenance: Provenance):
    text = rendered(sweep, provenance)
    assert text.startswith("beta_gelu by β in mlp-5-4 on digits (train)\n9 samples, 81 pre-")
    assert "τ = 0.001 of max |φ''|, float64 on cpu" in text
    rows = [line.split() for line in text.splitlines()[6:9]]
    assert [row[0] for row in rows] == ["1", "5", "100"]
    for row, study in zip(rows, sweep, strict=True):
        assert study.trained is not None
        assert percent(study.trained.total.above).removesuffix(" %") in row


def test_a_checkpoint(checkpoint: list[Study], provenance: Provenance):
    text = rendered(checkpoint, provenance)
    (study,) = checkpoint
    assert study.trained is not None
    assert study.trained.block_norms is not None
    assert text.startswith("mlp-5-4 beta_gelu(2) on digits (train)\n")
    for call in study.trained.calls:
        line = next(x for x in text.splitlines() if x.startswith(call.name))
        assert f"{call.mean:.2f}" in line
        assert f"{call.shares.mean_abs:.2g}" in line
    blocks = text.partition("within-layer block of N")[2]
    for name in study.trained.block_norms:
        (line,) = (x for x in blocks.splitlines() if x.startswith(name))
        assert "act" in line or (name.startswith("fc3") and line.rstrip().endswith("none"))


def test_what_was_asked_for_is_shown_in_a_sweep_too(sweep: list[Study], provenance: Provenance):
    """``--with-nme`` is most of the time that a sweep takes."""
    assert all(study.trained and study.trained.block_norms for study in sweep)
    assert rendered(sweep, provenance).count("blocks of N") == 2


def test_without_the_network_before_training(checkpoint: list[Study], provenance: Provenance):
    text = rendered([replace(checkpoint[0], initial=None)], provenance)
    assert "init" not in text


def test_a_function_without_closed_form_is_marked_and_noted(mixed, provenance: Provenance):
    text = rendered(mixed, provenance)
    assert "note: φ'' of hardswish (1 call) is not known in closed form" in text
    assert rendered([replace(mixed[0], trained=None)], provenance).startswith("pre-activations")


@pytest.mark.parametrize("name", ["relu", "diminished_gelu"])
def test_an_activation_without_second_derivative(name: str, provenance: Provenance):
    text = rendered([make(name)], provenance)
    assert "φ'' = 0 everywhere" in text
    assert "⠀" not in text


@pytest.mark.parametrize(("name", "where"), [("squared_relu", "x > 0"), ("elu", "< x < 0")])
def test_a_jump_at_zero_is_at_zero(name: str, where: str, provenance: Provenance):
    study = make(name)
    text = rendered([study], provenance)
    assert f"{where}\n" in text
    assert study.profile is not None
    assert study.profile.points[-1] > 0.1


@pytest.mark.parametrize("width", [100, 120])
@pytest.mark.parametrize("name", ["beta_gelu", "silu", "mish", "tanh", "squared_relu", "softplus"])
def test_an_activation_alone_fits_a_hundred_columns(name: str, width: int, provenance: Provenance):
    text = rendered([make(name, 50.0 if name == "beta_gelu" else None)], provenance, width)
    lines = text.split("note:")[0].splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    assert "…" not in text


def test_a_sweep_fits_a_hundred_columns(sweep: list[Study], provenance: Provenance):
    text = rendered(sweep, provenance)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "…" not in rendered(sweep, provenance, width=100)


@pytest.mark.parametrize("kind", ["alone", "sweep", "checkpoint", "mixed"])
def test_names_and_numbers_are_whole_in_a_terminal_of_eighty_columns(
    kind: str, request: pytest.FixtureRequest, provenance: Provenance
):
    studies = request.getfixturevalue(kind)
    text = rendered(studies, provenance, width=80)
    assert "…" not in text
    if kind == "checkpoint":
        names = [call.name for call in studies[0].trained.calls]
        assert all(any(x.startswith(name) for x in text.splitlines()) for name in names)


def test_markup_and_control_characters_stay_what_they_are(hostile, evil: Provenance):
    for studies in (hostile, [replace(hostile[0], trained=None)], hostile * 2):
        text = rendered(studies, evil, width=400)
        assert "[red]a[/red] [/]" in text
        assert r"\x1b[31mb\x07" in text
        assert not any(ord(c) < 32 and c != "\n" for c in text)
    assert rendered(hostile, evil, width=400).count("[red]a[/red] [/]") >= 5
    assert HOSTILE not in rendered(hostile, evil, width=400)


def dots(line: str) -> list[int]:
    """Count the dots of each cell, which must be braille."""
    assert all(0x2800 <= ord(c) <= 0x28FF for c in line)
    return [bin(ord(c) - 0x2800).count("1") for c in line]


@pytest.mark.parametrize("num", [1, 2, 7, 801])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (10, 3), (56, 7)])
def test_drawings_have_the_size_asked_for(num: int, width: int, height: int):
    for values in (np.zeros(num), np.linspace(-3, 2, num), np.full(num, -1e-30), np.full(num, 9.0)):
        lines = draw(values.tolist(), width=width, height=height)
        assert len(lines) == height
        assert {len(dots(line)) for line in lines} == {width}


def test_constant_zero_is_one_line():
    lines = draw([0.0] * 50, width=10, height=4)
    assert [sum(dots(line)) > 0 for line in lines].count(True) == 1
    assert all(count >= 2 for count in max(map(dots, lines), key=sum))


@pytest.mark.parametrize("sign", [1, -1])
def test_steep_jumps_have_no_gaps(sign: int):
    lines = draw([0.0] * 100 + [float(sign)] * 100, width=20, height=5)
    column = max(range(20), key=lambda i: sum(dots(line)[i] for line in lines))
    assert all(dots(line)[column] >= 4 for line in lines[1:-1])
    assert sum(dots(line)[column] for line in lines) >= 20


def test_the_drawing_has_its_maximum_on_top_and_its_minimum_below():
    lines = draw(np.sin(np.linspace(0, 2 * np.pi, 200)).tolist(), width=40, height=8)
    assert sum(dots(lines[0])[:20]) > 0 == sum(dots(lines[0])[20:])
    assert sum(dots(lines[-1])[20:]) > 0 == sum(dots(lines[-1])[:20])
