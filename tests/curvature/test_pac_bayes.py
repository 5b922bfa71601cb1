"""The PAC-Bayes bound against dense Hessians of single examples."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hessdiag import Decomposition
from hessdiag.curvature.pac_bayes import PacBayes, pac_bayes_bound
from hessdiag.errors import InputError, NotFinite
from hessdiag.linalg.quadratic_forms import form_interval
from hessdiag.linalg.trace import Estimate, Probes
from hessdiag.seeds import stream
from tests.cases import BY_NAME, VECTORS, Case, labels, normal, split
from tests.oracles import Dense, criterion, dense, flat_parameters

CASE = BY_NAME["mlp-gelu"]
CASES = [BY_NAME[name] for name in ("mlp-gelu", "cnn-gelu-bn", "mlp-softplus-weights", "frozen")]


def bound(case: Case, **options: Any) -> PacBayes:
    return pac_bayes_bound(Decomposition(*case), **{"num_train": 100, **options})


def examples(case: Case) -> list[Dense]:
    model, _, loss = case
    pairs = [(x[i : i + 1], y[i : i + 1]) for x, y in case.batches for i in range(len(y))]
    return [dense(model, [pair], loss) for pair in pairs]


def rows(case: Case, start: int, stop: int, seed: int = 0) -> Tensor:
    size = len(flat_parameters(case.make_model()))
    probes = Probes(
        size, seed=stream(seed, "pac-bayes"), dtype=torch.float64, device=torch.device("cpu")
    )
    return probes.rows(start, stop)


def forms(matrix: Tensor, probes: Tensor) -> Tensor:
    return torch.einsum("kp,pq,kq->k", probes, matrix, probes)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_sharpest_example_by_some_probes_is_measured_by_others(case: Case) -> None:
    found, truth = bound(case, num_probes=6), examples(case)
    screening, fresh = rows(case, 0, 6), rows(case, 6, 70)
    sharpest = max(truth, key=lambda one: float(forms(one.hessian, screening).mean()))
    wanted = forms(sharpest.hessian, fresh)
    assert found.alpha.value == pytest.approx(float(wanted.mean()), rel=1e-10)
    assert found.alpha.stderr == pytest.approx(float(wanted.std() / 8), rel=1e-10)
    assert found.alpha.num_probes == 64
    squares = (fresh @ sharpest.hessian).square().sum(1)
    ends = form_interval(wanted.numpy(), squares.numpy(), 0.05)
    assert found.alpha.ci95 == pytest.approx([float(end) for end in ends])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_and_radius(case: Case) -> None:
    found, (model, batches, loss) = bound(case), case
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    empirical_loss = criterion(loss)(model(x), y).item()
    assert found.empirical_loss == pytest.approx(empirical_loss, rel=1e-12)
    assert found.loss_bound == pytest.approx(max(one.loss for one in examples(case)), rel=1e-12)
    assert found.radius == pytest.approx(float(flat_parameters(model).norm()), rel=1e-12)


def test_the_bound_is_that_of_the_theorem() -> None:
    found = bound(CASE, num_train=50, radius=3.0, epsilon=0.2)
    complexity = math.sqrt(found.loss_bound * found.alpha.value * 3.0**2 / 50)
    assert found.complexity == pytest.approx(complexity)
    assert found.value == pytest.approx(1.2 * found.empirical_loss + 1.2 * complexity)
    low = found.alpha.ci95[0] if found.alpha.ci95 else 0.0
    least = math.sqrt(found.loss_bound * max(low, 0.0) * 3.0**2 / 50)
    assert found.at_least == pytest.approx(1.2 * found.empirical_loss + 1.2 * least)
    assert (found.radius, found.num_train, found.epsilon) == (3.0, 50, 0.2)


def test_alpha_is_the_largest_trace_with_probes_enough_and_at_least_its_lower_end() -> None:
    truth = max(float(one.hessian.trace()) for one in examples(CASE))
    for num_probes in (8, 64):
        found = [bound(CASE, num_probes=num_probes, seed=seed).alpha for seed in range(5)]
        for alpha in found:
            assert alpha.ci95 is not None
            assert alpha.ci95[0] < truth
            if num_probes == 64:
                assert alpha.stderr is not None
                assert abs(alpha.value - truth) < 4 * alpha.stderr


def test_the_choice_of_the_sharpest_does_not_bias_alpha() -> None:
    """All traces are the same, so that screening by one probe takes whatever looks largest."""
    x = nn.functional.normalize(VECTORS)
    case = Case("line", lambda: nn.Linear(4, 1, bias=False), [(x, normal(9, 1))], "mse")
    values = torch.tensor([bound(case, num_probes=1, seed=seed).alpha.value for seed in range(20)])
    assert abs(float(values.mean()) - 2.0) < 4 * float(values.std()) / 20**0.5
    screened = [
        max(float(forms(one.hessian, rows(case, 0, 1, seed)).mean()) for one in examples(case))
        for seed in range(3)
    ]
    assert min(screened) > 2.5


@pytest.mark.parametrize("value", [-2.0, 0.0])
def test_no_positive_trace_is_no_complexity(value: float) -> None:
    found = replace(bound(CASE), alpha=Estimate(value, 0.1, (value - 1, value + 1), 8))
    assert found.complexity == 0.0
    assert found.value == pytest.approx(1.1 * found.empirical_loss)


def test_batches_do_not_matter() -> None:
    other = replace(CASE, batches=split(VECTORS, labels(9), 2, 7))
    found, again = bound(CASE), bound(other)
    assert again.alpha.value == pytest.approx(found.alpha.value, rel=1e-12)
    assert again.loss_bound == found.loss_bound


class Halves(nn.Module):
    """Takes its input in two parts, and whether to add them."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of = of

    def forward(self, left: Tensor, right: Tensor, whole: bool = True) -> Tensor:
        return self.of(torch.cat([left, right], 1) if whole else left)


@pytest.mark.parametrize("named", [False, True])
def test_inputs_of_several_parts_are_cut_together(named: bool) -> None:
    x, y = VECTORS, labels(9)
    parts: Any = (x[:, :1], x[:, 1:], True)
    parts = dict(zip(("left", "right", "whole"), parts, strict=True)) if named else parts
    found = pac_bayes_bound(Decomposition(Halves(CASE.make_model()), [(parts, y)]), num_train=100)
    assert found.alpha.value == pytest.approx(bound(CASE).alpha.value, rel=1e-12)


def test_ignored_targets_have_no_part() -> None:
    y = labels(9)
    y[[0, 4]] = -100
    loss = nn.CrossEntropyLoss()
    some = bound(replace(CASE, batches=[(VECTORS, y)], loss=loss))
    kept = y >= 0
    rest = bound(replace(CASE, batches=[(VECTORS[kept], y[kept])], loss=loss))
    assert some.value == pytest.approx(rest.value, rel=1e-12)


def test_progress_is_told_after_each_example() -> None:
    told: list[None] = []
    decomposition = Decomposition(*CASE, on_microbatch=lambda: told.append(None))
    decomposition.gradient()
    before = len(told)
    pac_bayes_bound(decomposition, num_train=100, num_probes=1)
    assert len(told) - before == 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_train": 0}, "`num_train` is too small"),
        ({"num_probes": 0}, "`num_probes` is too small"),
        ({"epsilon": 0.0}, "ε is out of range"),
        ({"epsilon": math.nan}, "ε is out of range"),
        ({"epsilon": math.inf}, "ε is out of range"),
        ({"radius": -1.0}, "the radius is out of range"),
        ({"radius": math.nan}, "the radius is out of range"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        bound(CASE, **options)


def test_batches_that_mix_examples_are_refused() -> None:
    model, batches, loss = BY_NAME["cnn-gelu-bn"]
    with pytest.raises(InputError, match="BatchNorm's batches mix"):
        pac_bayes_bound(Decomposition(model, batches, loss, bn="batch"), num_train=100)


class Cusp(nn.Module):
    """|wx|^1.5 at w = 0, whose slope is finite and whose curvature is not."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4, 2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w).abs() ** 1.5


def test_a_curvature_that_is_not_finite_is_refused() -> None:
    decomposition = Decomposition(Cusp(), [(VECTORS, normal(9, 2))], "mse")
    with pytest.raises(NotFinite, match="curvature of an example"):
        pac_bayes_bound(decomposition, num_train=100)
