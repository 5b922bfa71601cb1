"""What the runs of a sweep came to: means and spreads by hand."""

import math

import pytest

from hessdiag.metrics.metric_reading import Reading
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch
from hessdiag.training.recipes import find
from hessdiag.training.trials import Cell, Spread, Sweep, Trial

CONFIG = Config(find("digits-wrn10-1"))


def epoch(
    test: float | None, validation: float | None = None, loss: float = 0.5, trace: float = 0.0
) -> Epoch:
    curvature = {"hessian.trace": Reading(trace)} if trace else {}
    return Epoch(1, 1, 0.1, loss, 0.5, validation, test, 0, curvature)


def cell(method: str, name: str, *accuracies: float | None) -> Cell:
    trials = [
        Trial(f"{name}-seed={seed}", CONFIG, (epoch(accuracy),) if accuracy is not None else ())
        for seed, accuracy in enumerate(accuracies)
    ]
    return Cell(name, method, "gelu", None, {}, trials)


def test_a_spread_is_mean_and_standard_deviation_of_a_sample():
    spread = Spread.of([0.9, None, 0.8, 0.7])
    assert spread == Spread(pytest.approx(0.8), pytest.approx(0.1), 3)


def test_one_seed_has_no_deviation_and_none_no_mean():
    assert Spread.of([0.25, None]) == Spread(0.25, None, 1)
    assert Spread.of([None]) is None


def test_the_best_epoch_is_chosen_by_what_is_held_out():
    trial = Trial("a", CONFIG, [epoch(0.6, 0.9), epoch(0.8, 0.7), epoch(0.7, 0.8)])
    assert trial.accuracy == 0.7
    assert trial.best_accuracy == 0.6
    tested = Trial("a", CONFIG, [epoch(0.6), epoch(0.8), epoch(0.7)])
    assert tested.best_accuracy == 0.8


def test_without_a_test_split_the_accuracy_is_that_of_what_is_held_out():
    trial = Trial("a", CONFIG, [epoch(None, 0.9), epoch(None, 0.7)])
    assert (trial.accuracy, trial.best_accuracy) == (0.7, 0.9)


def test_of_a_run_that_is_not_finished_nothing_is_known():
    trial = Trial("a", CONFIG, failure="training diverged")
    assert (trial.accuracy, trial.best_accuracy, trial.train_loss) == (None, None, None)
    assert trial.curvature == {}


def test_a_cell_sums_up_its_seeds():
    trials = [
        Trial("a", CONFIG, [epoch(0.9, loss=0.4, trace=9.0), epoch(0.6, loss=0.2, trace=10.0)]),
        Trial("b", CONFIG, [epoch(0.5, loss=0.4), epoch(0.8, loss=0.4, trace=14.0)]),
        Trial("c", CONFIG, failure="training diverged"),
    ]
    found = Cell("none-gelu", "none", "gelu", None, {}, trials)
    root = math.sqrt(2)
    assert found.accuracy == Spread(pytest.approx(0.7), pytest.approx(0.1 * root), 2)
    assert found.best_accuracy == Spread(pytest.approx(0.85), pytest.approx(0.05 * root), 2)
    assert found.train_loss == Spread(pytest.approx(0.3), pytest.approx(0.1 * root), 2)
    assert found.curvature == {
        "hessian.trace": Spread(pytest.approx(12), pytest.approx(2 * root), 2)
    }


def test_the_best_cell_of_a_method_has_finished_all_its_runs():
    cells = [
        cell("none", "none", 0.99, 0.99),  # of one cell there is no best
        cell("sam", "low", 0.7, 0.8),
        cell("sam", "high", 0.8, 0.8),
        cell("sam", "as high", 0.8, 0.8),
        cell("sam", "lucky", 0.9, None),
        cell("gn-trace", "unfinished", 0.9, None),
    ]
    assert Sweep(cells).best == {"high"}
    assert Sweep(cells[:2]).best == set()
