"""The report of a run for the terminal."""

from dataclasses import replace

from hessdiag.metrics.metric_reading import Reading
from hessdiag.reports.training.text import train_text
from hessdiag.training import methods
from hessdiag.training.history import Finished


def lines(found: Finished) -> list[str]:
    return train_text(found).plain.splitlines()


def test_a_run_in_a_few_lines(found: Finished):
    assert lines(found) == [
        "mlp-16 beta_gelu(2) on digits (train), 1,210 parameters, nso, sigma2 = 0.0001, "
        "num_pairs = 1",
        "epoch 4: loss 0.2500, train accuracy 80.00%, validation accuracy 50.00%, "
        "test accuracy 50.00%",
        "best: 60.00% in epoch 2",
        "hessian.trace: 30.0 ± 2.0",
        "gn.trace: 32",
        "perturbation.trace: 29.0 ± 3.0",
        "nme.lambda_max: 5.0000 ± 0.0010",
        "sparsity.nonzero: 0.75",
        "PAC-Bayes, leading terms: about 2.62, at least 2.48 (95 %), no bound: α = 30.0 ± 2.0 of "
        "the example that looked sharpest, r = 4, C = 2, n = 270",
        "12.3 s, 568 images/s, peak memory 1.50 GiB, float32 on cuda:0 in 2 processes",
    ]


def test_what_is_absent_is_not_spoken_of(bare: Finished):
    assert lines(bare) == [
        "mlp-16 beta_gelu(2) on digits (train), 1,210 parameters, none",
        "epoch 4: loss 0.2500, train accuracy 80.00%",
        "12.3 s, 568 images/s, peak memory 1.50 GiB, float32 on cpu",
    ]


def test_the_best_epoch_is_not_told_twice(found: Finished):
    shown = lines(replace(found, epochs=found.epochs[:2]))
    assert not [line for line in shown if line.startswith("best")]


def test_every_method_shows_its_options(found: Finished):
    for name, method in methods.METHODS.items():
        recipe = replace(found.config.recipe, method=method())
        config = replace(found.config, recipe=recipe)
        headline = lines(replace(found, config=config))[0]
        assert f"parameters, {name}" in headline
        assert all(f", {option} = " in headline for option in method.options())


def test_what_came_of_nothing_finite_is_said(found: Finished):
    last = replace(found.epochs[-1], curvature={"nme.trace": Reading(float("nan"), 1.0)})
    assert "nme.trace: not finite" in lines(replace(found, epochs=(last,)))


def test_names_cannot_steer_the_terminal(found: Finished):
    provenance = replace(found.provenance, data="a\x1b[31mb")
    assert "\x1b" not in train_text(replace(found, provenance=provenance)).plain
