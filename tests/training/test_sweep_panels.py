"""How cells make curves."""

from collections.abc import Sequence

from hessdiag.training import sweep_panels
from hessdiag.training.sweep_panels import Panel
from hessdiag.training.sweep_result import SweepCell, report
from hessdiag.training.trials import Cell, Sweep
from tests.sweeps import cell


def arrange(cells: Sequence[Cell]) -> tuple[list[Panel], dict[str, SweepCell]]:
    return sweep_panels.arrange(report(Sweep(cells)).cells)


def test_what_does_not_vary_is_a_constant_beside_the_curves():
    cells = [cell("none", 0.5), *(cell("sam", 0.5, rho=rho) for rho in (0.2, 0, 0.1))]
    (panel,), constant = arrange(cells)
    assert panel.axis == "rho"
    assert panel.values == [0, 0.1, 0.2]
    assert [found.strengths["rho"] for found in panel.curves["sam"]] == [0, 0.1, 0.2]
    assert list(constant) == ["none"]


def test_each_strength_has_a_panel_and_each_cell_one_place():
    cells = [
        *(cell("sam", 0.5, rho=rho) for rho in (0.1, 0.2)),
        *(cell("nso", 0.5, sigma2=s, num_pairs=k) for s in (1e-4, 1e-3) for k in (1, 2)),
    ]
    panels, constant = arrange(cells)
    assert [(panel.axis, list(panel.curves)) for panel in panels] == [
        ("rho", ["sam"]),
        ("sigma2", ["nso, pairs = 1", "nso, pairs = 2"]),
    ]
    assert all(len(curve) == 2 for panel in panels for curve in panel.curves.values())
    assert not constant


def test_beta_is_the_axis_where_no_strength_varies():
    cells = [
        *(cell("none", 0.5, activation="beta_gelu", beta=b) for b in (1.0, 10.0)),
        *(cell("sam", 0.5, activation="beta_gelu", beta=b, rho=0.1) for b in (1.0, 10.0)),
        cell("sam", 0.5, activation="relu", rho=0.1),
    ]
    (panel,), constant = arrange(cells)
    assert (panel.axis, panel.values) == ("beta", [1.0, 10.0])
    assert list(panel.curves) == ["none, beta_gelu", "sam, beta_gelu"]
    assert list(constant) == ["sam, relu"]


def test_beta_tells_curves_apart_where_a_strength_varies():
    cells = [
        cell("sam", 0.5, activation="beta_gelu", beta=beta, rho=rho)
        for beta in (1.0, 10.0)
        for rho in (0.1, 0.2)
    ]
    (panel,), _ = arrange(cells)
    assert list(panel.curves) == ["sam, β = 1", "sam, β = 10"]


def test_where_nothing_varies_there_is_no_panel():
    panels, constant = arrange([cell("none", 0.5), cell("sam", 0.5, rho=0.1)])
    assert panels == []
    assert list(constant) == ["none", "sam"]


def test_what_is_no_number_lies_beside_the_axis():
    cells = [cell("sam", 0.5, rho=rho) for rho in (0.1, None, "often", 0.2)]
    (panel,), constant = arrange(cells)
    assert panel.values == [0.1, 0.2]
    assert len(constant) == 2
