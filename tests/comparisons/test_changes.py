"""Changes with their intervals, and overlaps of eigenspaces, against explicit matrices."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor

from hessdiag.comparisons.changes import (
    bounded,
    common,
    dependent,
    independent,
    listed,
    overlap,
    paired_norm,
    paired_trace,
    undefined,
)
from hessdiag.comparisons.compare_result import Change, Difference
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, Samples, TraceSamples
from hessdiag.spectra.spectrum_result import Part
from tests.linalg.matrices import low_rank, normal, symmetric
from tests.results import spectrum

SIZE = 100
DECAYING = symmetric(100 * 0.7 ** np.arange(SIZE))
NOISE = (noise := normal(SIZE, SIZE, seed=5)) + noise.T
PAIRS = {  # A and B
    "nearby": (DECAYING, DECAYING + 0.02 * NOISE),
    "scaled outliers of both signs": (
        low_rank(SIZE, [10.0, -6.0, 4.0]),
        low_rank(SIZE, [11.0, -5.0, 3.0]),
    ),
    "rank one": (low_rank(SIZE, [1.0]), low_rank(SIZE, [2.0])),
    "unrelated": (DECAYING, symmetric(90 * 0.7 ** np.arange(SIZE), seed=1)),
}
each_pair = pytest.mark.parametrize("name", PAIRS)


def signs(seed: int, num_probes: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.choice([-1.0, 1.0], (num_probes, SIZE)))


def samples(matrix: Tensor, rows: Tensor) -> Samples:
    found = TraceSamples()
    found.add(rows, rows @ matrix)
    return found.freeze()


def covers(change: Change, truth: float) -> bool:
    assert change.interval is not None
    return change.interval[0] <= truth <= change.interval[1]


def keeping(own: Part, vectors: Tensor | None) -> Part:
    return structs.replace(own).keeping(vectors)


def part(matrix: Tensor, k: int) -> Part:
    """A part that knows its k largest eigenvalues to rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    top = tuple(RitzValue(float(value), 1e-13, converged=True) for value in values.flip(0)[:k])
    none = Estimate(0.0, None, None, 1)
    rows = vectors.T.flip(0)[:k]
    return Part(trace=none, frobenius_norm=none, top=top, bottom=()).keeping(rows)


@each_pair
def test_the_trace_differs_by_the_quadratic_forms_of_the_same_probes(name: str):
    (a, b), rows = PAIRS[name], signs(0, 24)
    found = paired_trace(samples(a, rows), samples(b, rows))
    forms = torch.einsum("ki,ij,kj->k", rows, b - a, rows)
    assert found.value == pytest.approx(float(forms.mean()), rel=1e-9)
    assert found.value == pytest.approx(found.b.value - found.a.value, rel=1e-9)
    assert found.error == pytest.approx(float(forms.std()) / math.sqrt(24), rel=1e-9)
    assert found.relative == pytest.approx(found.value / abs(found.a.value))


@each_pair
def test_the_norm_differs_by_both_roots_with_the_error_of_the_delta_method(name: str):
    (a, b), rows = PAIRS[name], signs(0, 24)
    found = paired_norm(samples(a, rows), samples(b, rows))
    x, y = (rows @ a).square().sum(1), (rows @ b).square().sum(1)
    assert found.value == pytest.approx(float(y.mean().sqrt() - x.mean().sqrt()), rel=1e-9)
    covariance = torch.cov(torch.stack([x, y])) / 24
    slope = torch.stack([-0.5 / x.mean().sqrt(), 0.5 / y.mean().sqrt()])
    assert found.error == pytest.approx(float((slope @ covariance @ slope).sqrt()), rel=1e-6)


def test_the_same_probes_make_a_small_change_of_like_networks_visible():
    (a, b), rows = PAIRS["nearby"], signs(1, 32)
    x, y = samples(a, rows), samples(b, rows)
    for paired, unpaired in (
        (paired_trace(x, y), independent(x.trace(), y.trace())),
        (paired_norm(x, y), independent(x.frobenius_norm(), y.frobenius_norm())),
    ):
        assert paired.value == pytest.approx(unpaired.value, abs=1e-9)
        assert paired.error is not None
        assert unpaired.error is not None
        assert paired.error < unpaired.error / 5


@each_pair
@pytest.mark.parametrize(
    ("num_seeds", "num_probes", "least"),
    [(200, 16, 0.90), pytest.param(1000, 64, 0.915, marks=pytest.mark.slow)],
)
def test_intervals_cover_the_difference(name: str, num_seeds: int, num_probes: int, least: float):
    a, b = PAIRS[name]
    trace, norm = float((b - a).trace()), float(b.norm() - a.norm())
    hits = np.zeros(4)
    for seed in range(num_seeds):
        rows, other = signs(seed, num_probes), signs(10_000 + seed, num_probes)
        x, y, z = samples(a, rows), samples(b, rows), samples(b, other)
        hits += [
            covers(paired_trace(x, y), trace),
            covers(paired_norm(x, y), norm),
            covers(independent(x.trace(), z.trace()), trace),
            covers(independent(x.frobenius_norm(), z.frobenius_norm()), norm),
        ]
    assert (hits / num_seeds).min() >= least, hits / num_seeds


def test_networks_that_are_equal_do_not_differ():
    found = samples(DECAYING, signs(0, 16))
    for change in (paired_trace(found, found), paired_norm(found, found)):
        assert (change.value, change.error, change.interval) == (0.0, 0.0, (0.0, 0.0))
        assert change.significant is False
        assert change.relative == 0.0


def test_a_part_that_vanishes_has_no_norm_to_divide_by():
    rows = signs(0, 16)
    nothing, something = samples(torch.zeros_like(NOISE), rows), samples(DECAYING, rows)
    change = paired_norm(nothing, something)
    assert change.value == pytest.approx(something.frobenius_norm().value)
    assert change.relative is None
    assert change.significant is True


def test_one_probe_gives_no_interval():
    a, b = (samples(matrix, signs(0, 1)) for matrix in PAIRS["nearby"])
    for change in (
        paired_trace(a, b),
        paired_norm(a, b),
        independent(a.trace(), b.trace()),
        independent(Estimate(1.0, 0.1, (0.8, 1.2), 8), b.trace()),
    ):
        assert change.error is change.interval is change.significant is None


def test_independent_errors_add_in_squares_and_skewness_keeps_its_side():
    change = independent(Estimate(1.0, 0.3, (0.6, 2.0), 8), Estimate(5.0, 0.4, (4.0, 5.5), 8))
    assert (change.value, change.error) == (4.0, 0.5)
    assert change.interval == pytest.approx((4 - math.hypot(1, 1), 4 + math.hypot(0.5, 0.4)))
    assert change.significant is True


@pytest.mark.parametrize(
    ("interval", "significant"),
    [((-1, 1), False), ((0, 1), False), ((0.1, 1), True), ((-1, -0.1), True), (None, None)],
)
def test_a_change_is_significant_if_its_interval_excludes_zero(interval, significant):
    one = Estimate(1.0, 0.1, (0.8, 1.2), 8)
    assert Change.of(one, one, Difference(0.5, 0.1, interval)).significant is significant


def test_eigenvalues_differ_within_the_sum_of_their_bounds():
    a, b = RitzValue(-2.0, 0.25, converged=True), RitzValue(-3.0, 0.5, converged=True)
    change = bounded(a, b)
    assert (change.value, change.error, change.interval) == (-1.0, 0.75, (-1.75, -0.25))
    assert (change.relative, change.significant) == (-0.5, True)


def test_eigenvalues_differ_within_the_intervals_that_hold_them():
    a = RitzValue(2.0, 0.1, converged=True, interval=(2.0, 2.5), confidence=0.999999)
    b = RitzValue(5.0, 0.1, converged=False, interval=(4.9, 5.0), confidence=0.999999)
    change = bounded(a, b)
    assert change.value == 3.0
    assert change.interval == pytest.approx((2.4, 3.0))
    assert change.error == pytest.approx(0.6)


def test_eigenvalues_that_have_not_converged_may_be_others():
    a, b = RitzValue(2.0, 0.1, converged=True), RitzValue(5.0, 0.1, converged=False)
    for change in (bounded(a, b), bounded(b, a)):
        assert change.interval is change.significant is None
        assert change.error == 0.2


# eigenspaces


def test_a_space_agrees_with_itself_whatever_vectors_span_it():
    own = part(DECAYING, 4)
    assert own.eigenvectors is not None
    turn = torch.linalg.qr(normal(4, 4))[0]
    for other in (own, keeping(own, turn @ own.eigenvectors)):
        found = overlap(own, other, 4)
        assert found.value == pytest.approx(1, abs=1e-12)
        assert found.cosines == pytest.approx((1,) * 4, abs=1e-12)
        assert max(found.cosines) <= 1
        assert found.converged


def test_eigenvalues_of_higher_multiplicity_have_one_eigenspace():
    """Solvers return any basis of it: here those of two matrices that differ in rounding."""
    matrix = symmetric(np.r_[np.full(3, 9.0), np.linspace(0, 1, SIZE - 3)])
    found = overlap(part(matrix, 3), part(matrix + 1e-13 * NOISE, 3), 3)
    assert found.value == pytest.approx(1, abs=1e-9)


def test_the_cosines_are_those_of_the_principal_angles():
    axes, angles = torch.eye(6, dtype=torch.float64), torch.tensor([0.3, 1.2], dtype=torch.float64)
    own = part(torch.diag(torch.tensor([9.0, 8.0, 0, 0, 0, 0], dtype=torch.float64)), 2)
    turned = angles.cos()[:, None] * axes[:2] + angles.sin()[:, None] * axes[2:4]
    found = overlap(own, keeping(own, turned), 2)
    assert found.cosines == pytest.approx(angles.cos().tolist())
    assert found.value == pytest.approx(float(angles.cos().square().mean()))
    across = overlap(own, keeping(own, axes[4:]), 2)
    assert across.value == 0


def test_an_overlap_says_whether_its_eigenvalues_have_converged():
    own = part(DECAYING, 3)
    top = (*own.top[:2], replace(own.top[2], converged=False))
    other = structs.replace(own, top=top).keeping(own.eigenvectors)
    for found in (overlap(own, other, 3), overlap(other, own, 3)):
        assert not found.converged
    assert overlap(own, other, 2).converged


def test_an_eigenspace_of_zeros_is_arbitrary():
    for eigenvalues, reason in (
        ([5.0, 4.0], "fewer than 3 eigenvalues can be told from zero"),
        ([5.0, 4.0, 3.0], None),
    ):
        assert undefined(part(low_rank(SIZE, eigenvalues), 3), 3) == reason


@pytest.mark.parametrize("gap", [0.0, 1e-3, 0.1])
def test_an_eigenspace_that_ends_within_a_cluster_is_arbitrary(gap: float):
    matrix = symmetric(np.r_[9.0, 3.0 + gap, 3.0, np.linspace(0, 1, SIZE - 3)])
    reason = undefined(part(matrix, 3), 2)
    assert reason == (None if gap > 0.01 else "eigenvalues 2 and 3 are as good as equal")
    assert undefined(part(matrix, 3), 1) is None
    assert undefined(part(matrix, 4), 3) is None  # all of the cluster


def test_shared_probes_that_are_not_kept_add_their_errors():
    a, b = Estimate(1.0, 0.1, (0.8, 1.3), 8), Estimate(4.0, 0.2, (3.7, 4.6), 8)
    change = dependent(a, b)
    assert change.error == pytest.approx(0.3)
    assert change.interval == pytest.approx((2.4, 3.8))
    assert dependent(a, Estimate(4.0, None, None, 1)).interval is None


def test_probes_that_both_have_met_are_compared():
    long, short = (
        samples(matrix, signs(0, k)) for matrix, k in zip(PAIRS["nearby"], (24, 9), strict=True)
    )
    first, second = common(long, short)
    assert first.quadratic_forms == long.quadratic_forms[:9]
    assert second == short


def test_metrics_across_the_parts_are_compared_probe_by_probe_where_they_share_them():
    """‖N‖/‖G‖ of two networks, whose samples here differ by a constant factor alone."""
    a = spectrum()
    larger = {
        name: structs.replace(
            part,
            samples=Samples(
                part.samples.quadratic_forms,
                tuple((4 if name == "nme" else 1) * x for x in part.samples.squared_norms),
            ),
        )
        for name, part in a.parts.items()
        if part.samples is not None
    }
    b = structs.replace(a, parts=larger)
    shared = listed(a, b, paired=True)["nme_to_gn"]
    apart = listed(a, b, paired=False)["nme_to_gn"]
    assert shared.relative == pytest.approx(1.0)
    assert shared.a.samples is None
    assert shared.significant
    assert shared.interval is not None
    assert apart.interval is None  # 16 probes of each tell too little of a ratio
    same = listed(a, a, paired=True)
    assert (same["nme_to_gn"].value, same["nme_to_gn"].error) == (0, 0)


def test_exact_metrics_differ_without_an_interval():
    change = listed(spectrum(), spectrum(), paired=True)["gradient.norm"]
    assert (change.value, change.error, change.interval, change.significant) == (0, *[None] * 3)
