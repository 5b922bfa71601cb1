"""Hutchinson's estimators: unbiased, reproducible, and as certain as their intervals say."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessdiag.linalg.trace import Estimate, Probes, Samples, TraceSamples, estimate_mean, hutchinson
from tests.linalg.matrices import F64, each_dtype, normal, symmetric

SIZE = 100
CPU = torch.device("cpu")
SPECTRA: dict[str, NDArray[np.float64]] = {
    "rank one": np.r_[1.0, np.zeros(SIZE - 1)],
    "decaying": 100 * 0.7 ** np.arange(SIZE),
    "indefinite": np.linspace(-3.0, 5.0, SIZE),
    "outliers of both signs": np.r_[10.0, -6.0, 4.0, np.zeros(SIZE - 3)],
}
LAYERS = {"first": slice(0, 30), "second": slice(30, 31), "third": slice(31, SIZE)}
each_spectrum = pytest.mark.parametrize("name", SPECTRA)


def probes(seed: int = 0, size: int = SIZE, dtype: torch.dtype = F64) -> Probes:
    return Probes(size, seed=seed, dtype=dtype, device=CPU)


def sample(matrix: Tensor, rows: Tensor) -> TraceSamples:
    samples = TraceSamples(LAYERS)
    samples.add(rows, rows @ matrix)
    return samples


# probes


@each_dtype
def test_probes_are_signs(dtype: torch.dtype) -> None:
    rows = probes(dtype=dtype).rows(0, 200)
    assert rows.shape == (200, SIZE)
    assert rows.dtype == dtype
    assert bool((rows.abs() == 1).all())
    assert abs(rows.mean()) < 4 / math.sqrt(rows.numel())
    gram = rows @ rows.T / SIZE - torch.eye(200, dtype=dtype)
    assert gram.abs().max() < 6 / math.sqrt(SIZE)  # no two are alike


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_probes_depend_on_seed_and_index_alone(chunk: int) -> None:
    whole = probes().rows(0, 20)
    pieces = [probes().rows(i, min(i + chunk, 20)) for i in reversed(range(0, 20, chunk))]
    assert torch.equal(torch.cat(pieces[::-1]), whole)
    assert torch.equal(probes().rows(13, 17), whole[13:17])
    assert torch.equal(probes(dtype=torch.float32).rows(0, 20).double(), whole)
    assert not torch.equal(probes(seed=1).rows(0, 20), whole)
    assert probes().rows(5, 5).shape == (0, SIZE)


def test_probes_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    probes().rows(0, 3)
    assert torch.equal(torch.get_rng_state(), before)


# estimates


@each_dtype
@each_spectrum
@pytest.mark.parametrize("seed", range(5))
def test_estimates_are_within_four_standard_errors(
    name: str, seed: int, dtype: torch.dtype
) -> None:
    eigenvalues = SPECTRA[name]
    matrix = symmetric(eigenvalues).to(dtype)
    samples = sample(matrix, probes(seed=seed, dtype=dtype).rows(0, 200))
    trace, norm = samples.trace(), samples.frobenius_norm()
    assert trace.num_probes == norm.num_probes == len(samples) == 200
    assert trace.stderr is not None
    assert norm.stderr is not None
    assert abs(trace.value - eigenvalues.sum()) < 4 * trace.stderr
    assert abs(norm.value - np.linalg.norm(eigenvalues)) < 4 * norm.stderr
    for layer, estimate in samples.layer_traces().items():
        assert estimate.stderr is not None
        exact = float(matrix.diagonal()[LAYERS[layer]].sum())
        assert abs(estimate.value - exact) < 4 * estimate.stderr


def test_the_estimators_are_unbiased_over_all_probes() -> None:
    """In dimension 6 there are 64 probes: their mean is exact, not just close."""
    matrix = symmetric([3.0, 2.0, 1.0, 0.0, -1.0, -5.0])
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 6)
    samples = TraceSamples({"head": slice(0, 2), "tail": slice(2, 6)})
    samples.add(signs, signs @ matrix)
    assert samples.trace().value == pytest.approx(0.0, abs=1e-13)
    assert samples.frobenius_norm().value == pytest.approx(math.sqrt(40))
    layers, diagonal = samples.layer_traces(), matrix.diagonal()
    assert layers["head"].value == pytest.approx(float(diagonal[:2].sum()))
    assert layers["tail"].value == pytest.approx(float(diagonal[2:].sum()))
    variance = 2 * (40 - float((diagonal**2).sum()))
    assert samples.trace().stderr == pytest.approx(math.sqrt(variance / 63))


@each_spectrum
def test_the_variance_is_that_of_rademacher_probes(name: str) -> None:
    matrix = symmetric(SPECTRA[name])
    trace = sample(matrix, probes(seed=3).rows(0, 2000)).trace()
    assert trace.stderr is not None
    exact = 2 * float((matrix**2).sum() - (matrix.diagonal() ** 2).sum())
    assert trace.stderr**2 * 2000 == pytest.approx(exact, rel=0.2)


@each_dtype
def test_layer_traces_sum_to_the_trace_probe_by_probe(dtype: torch.dtype) -> None:
    matrix = symmetric(SPECTRA["indefinite"]).to(dtype)
    for row in probes(dtype=dtype).rows(0, 10).split(1):
        samples = sample(matrix, row)
        total = sum(estimate.value for estimate in samples.layer_traces().values())
        assert total == pytest.approx(samples.trace().value, rel=1e-13, abs=1e-11)


def test_layers_are_optional() -> None:
    samples = TraceSamples()
    samples.add(normal(3, SIZE), normal(3, SIZE, seed=1))
    assert samples.layer_traces() == {}


def test_a_diagonal_matrix_has_no_variance() -> None:
    matrix = torch.diag(torch.arange(-20.0, 80.0, dtype=F64))
    trace = sample(matrix, probes().rows(0, 16)).trace()
    assert trace == Estimate(2950.0, 0.0, (2950.0, 2950.0), 16)
    assert trace.rel_error == 0.0


def test_samples_add_up_over_calls() -> None:
    matrix, rows = symmetric(SPECTRA["decaying"]), probes().rows(0, 11)
    whole, pieces = sample(matrix, rows), TraceSamples(LAYERS)
    for block in rows.split([1, 7, 0, 3]):
        pieces.add(block, block @ matrix)
    assert len(pieces) == 11
    assert pieces.trace().value == pytest.approx(whole.trace().value, rel=1e-14)
    assert pieces.frobenius_norm().stderr == pytest.approx(whole.frobenius_norm().stderr)
    assert pieces.layer_traces().keys() == whole.layer_traces().keys() == LAYERS.keys()


@pytest.mark.parametrize("skew", [0.0, 1e-6, 1.0])
def test_asymmetry_shows(skew: float) -> None:
    noise, rows = normal(SIZE, SIZE), probes().rows(0, 3)
    matrix = symmetric(SPECTRA["indefinite"]) + skew * (noise - noise.T)
    rows[2] *= 1e6  # the first two count
    assert sample(matrix, rows[:1]).asymmetry is None
    samples = sample(matrix, rows)
    found = samples.asymmetry
    assert found is not None
    samples.add(rows, rows)
    assert samples.asymmetry == found
    first, second = rows[0] @ matrix, rows[1] @ matrix
    expected = abs(float(rows[1] @ first - rows[0] @ second)) / float(10 * second.norm())
    assert found == pytest.approx(expected, abs=1e-14)
    assert found < 1e-14 if skew == 0 else found > 1e-3 * skew


def test_one_probe_knows_no_error() -> None:
    samples = sample(symmetric(SPECTRA["decaying"]), probes().rows(0, 1))
    for estimate in (samples.trace(), samples.frobenius_norm(), samples.layer_traces()["first"]):
        assert (estimate.stderr, estimate.ci95, estimate.num_probes) == (None, None, 1)
        assert estimate.rel_error == math.inf


def test_a_norm_is_never_negative() -> None:
    samples, rows = TraceSamples(), torch.eye(16, dtype=F64)
    samples.add(rows, rows * torch.tensor([1.0, 9.0] + 14 * [0.0], dtype=F64))
    norm = samples.frobenius_norm()
    assert norm.value == pytest.approx(math.sqrt(82 / 16))
    square = np.std([1.0, 81.0] + 14 * [0.0], ddof=1) / 4
    assert norm.stderr == pytest.approx(square / (2 * norm.value))
    assert norm.ci95 is not None
    assert norm.ci95[0] == 0.0
    assert norm.ci95[1] > 4


def test_the_zero_matrix_is_known_exactly() -> None:
    samples = sample(torch.zeros(SIZE, SIZE, dtype=F64), probes().rows(0, 16))
    for estimate in (samples.trace(), samples.frobenius_norm()):
        assert estimate == Estimate(0.0, 0.0, (0.0, 0.0), 16)
        assert estimate.rel_error == 0.0
    assert samples.asymmetry == 0.0


# the generator


def sampled(needed: int, *, max_probes: int = 40) -> tuple[list[Tensor], list[int], TraceSamples]:
    """Sample two parts until both have ``needed`` probes."""
    parts = {"a": TraceSamples(), "b": TraceSamples()}
    matrices = {"a": symmetric(SPECTRA["decaying"]), "b": symmetric(SPECTRA["indefinite"])}
    asked, blocks = list[int](), list[Tensor]()

    def enough() -> bool:
        asked.append(len(parts["a"]))
        return len(parts["a"]) >= needed

    generator = hutchinson(probes(), parts, stop=10, chunk=4, max_probes=max_probes, enough=enough)
    rows = next(generator)
    with suppress(StopIteration):
        while True:
            blocks.append(rows)
            rows = generator.send({part: rows @ matrix for part, matrix in matrices.items()})
    for part, samples in parts.items():
        direct = sample(matrices[part], torch.cat(blocks))
        np.testing.assert_allclose(
            samples.freeze().quadratic_forms, direct.freeze().quadratic_forms
        )
    return blocks, asked, parts["a"]


@pytest.mark.parametrize(
    ("needed", "max_probes", "sizes", "asked"),
    [
        (0, 40, [4, 4, 2], [10]),  # no target: exactly the first ten
        (11, 40, [4, 4, 2, 4], [10, 14]),
        (21, 40, [4, 4, 2, 4, 4, 4], [10, 14, 18, 22]),
        (99, 25, [4, 4, 2, 4, 4, 4, 3], [10, 14, 18, 22, 25]),  # out of probes
        (99, 10, [4, 4, 2], [10]),
        (99, 5, [4, 4, 2], [10]),  # the first ten are taken whatever is said
    ],
)
def test_the_generator_takes_what_it_must_for_all_parts_alike(
    needed: int, max_probes: int, sizes: list[int], asked: list[int]
) -> None:
    blocks, counts, samples = sampled(needed, max_probes=max_probes)
    assert [len(rows) for rows in blocks] == sizes
    assert counts == asked
    assert len(samples) == sum(sizes)
    assert torch.equal(torch.cat(blocks), probes().rows(0, sum(sizes)))


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_squares_of_samples_neither_vanish_nor_overflow(unit: float) -> None:
    samples = np.arange(20.0)
    plain, found = estimate_mean(samples), estimate_mean(unit * samples)
    assert plain.ci95 is not None
    assert plain.stderr is not None
    assert found.stderr == pytest.approx(unit * plain.stderr)
    assert found.ci95 == pytest.approx([unit * end for end in plain.ci95])


@pytest.mark.parametrize("count", [0, 32])
def test_the_certain_interval_of_forms_and_products_holds(count: int) -> None:
    """Both are looked at, each with half the chance; without products forms have all of it."""
    rng = np.random.default_rng(0)
    matrix = np.diag(rng.exponential(size=12)) + 0.3 * np.ones((12, 12))
    other = np.diag(np.full(12, np.trace(matrix) / 12))
    other[:2, :2] += np.array([[0.0, 4.0], [4.0, 0.0]])
    missed = 0
    for _ in range(300):
        v = rng.choice([-1.0, 1.0], (256, 12))
        products = v[:count] @ matrix
        forms = tuple(((v @ other) * v).sum(1).tolist())
        both = Samples(
            tuple((products * v[:count]).sum(1).tolist()),
            tuple((products**2).sum(1).tolist()),
            forms=forms,
        )
        low, high = both.trace_interval(0.05)
        missed += not low <= np.trace(matrix) <= high
        ends = Samples((), (), forms=forms).trace_interval(0.05 if not count else 0.025)
        assert ends[0] <= low <= high <= ends[1]
    assert missed <= 15
