"""The table of a sweep."""

from io import StringIO

from rich.console import Console

from hessdiag.reports.sweep.text import headline, sweep_text
from hessdiag.training.trials import Sweep
from tests.reports.sweep.conftest import cell


def text(found: Sweep) -> list[str]:
    stream = StringIO()
    Console(file=stream, width=140, color_system=None).print(sweep_text(found))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_each_cell_has_a_row_and_the_best_of_a_method_is_marked(complete: Sweep):
    lines = text(complete)
    assert lines[0] == "mlp-8 gelu on digits, 1 epoch"
    heads = "method ρ accuracy, % best epoch, % training loss seeds"  # the activation is above
    assert lines[1].split() == heads.split()
    rows = [line.split() for line in lines[2:11]]
    assert [row[0] for row in rows] == ["none"] + ["grad-penalty"] * 4 + ["sam"] * 4
    assert " ".join(rows[0]) == "none 82.00 ± 2.83 82.00 ± 2.83 0.180 ± 0.029 2"
    best = [(row[0], row[1]) for row in rows if row[-1] == "best"]
    assert best == [("grad-penalty", "0.1"), ("sam", "0")]
    assert lines[12].split() == ["method", "ρ", "hessian.trace"]
    assert lines[13].split() == ["none", "8.20", "±", "0.29"]
    assert lines[-1] == "mean ± standard deviation over the seeds"


def test_runs_that_failed_or_are_to_come_are_counted_and_explained(broken: Sweep):
    lines = text(broken)
    failed, half, waiting = (" ".join(line.split()) for line in lines[2:5])
    assert failed == "sam 1 0 of 2, 2 failed"
    assert half == "sam 2 50.00 50.00 0.5 1 of 2, 1 failed"
    assert waiting == "sam 3 0 of 2"
    assert lines[-1] == "note: not finished yet: 2 of 6 runs"
    assert sum("failed: training diverged" in line for line in lines) == 3


def test_the_headline_names_what_all_runs_share(complete: Sweep):
    assert headline(complete) == "mlp-8 gelu on digits, 1 epoch"
    several = Sweep([*complete.cells, cell("none", 0.5, 0.5, activation="relu")])
    assert headline(several) == "mlp-8 on digits, 1 epoch"
    curved = Sweep([cell("none", 0.5, activation="beta_gelu", beta=2.0)])
    assert headline(curved) == "mlp-8 beta_gelu(2) on digits, 1 epoch"


def test_activations_that_differ_have_a_column():
    lines = text(Sweep([cell("none", 0.5, 0.5), cell("none", 0.5, 0.5, activation="relu")]))
    assert lines[1].split()[:2] == ["method", "activation"]
    assert [line.split()[1] for line in lines[2:4]] == ["gelu", "relu"]
