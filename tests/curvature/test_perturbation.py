"""The perturbation gap against dense Hessians."""

import math

import pytest
import torch
from torch import Tensor, nn

from hessdiag import Decomposition
from hessdiag.curvature.perturbation import perturbation_gap
from hessdiag.errors import InputError
from hessdiag.linalg.trace import Estimate
from hessdiag.seeds import stream
from tests.cases import BY_NAME, VECTORS, Case, normal, seeded, split
from tests.oracles import dense

QUADRATIC = Case(
    "quadratic",
    lambda: seeded(lambda: nn.Linear(4, 3)),
    split(VECTORS, normal(9, 3, seed=1), 4, 5),
    "mse",
)
CURVED = [BY_NAME[name] for name in ("mlp-gelu", "cnn-gelu-bn", "frozen")]


def gap(case: Case, sigma2: float, **options: int) -> Estimate:
    model, batches, loss = case
    return perturbation_gap(Decomposition(model, batches, loss).risk, sigma2, **options)


def hessian(case: Case) -> Tensor:
    model, batches, loss = case
    return dense(model, batches, loss).hessian


def halves(matrix: Tensor, sigma2: float, num_pairs: int, seed: int = 0) -> Tensor:
    """``½ εᵀHε`` of each pair ± ε; the noise itself is drawn in float32."""
    generator = torch.Generator().manual_seed(stream(seed, "perturbation gap"))
    rows = [torch.randn(len(matrix), generator=generator) for _ in range(num_pairs)]
    noises = [(math.sqrt(sigma2) * row).double() for row in rows]
    return torch.stack([0.5 * noise @ matrix @ noise for noise in noises])


@pytest.mark.parametrize("sigma2", [1e-4, 0.01, 4.0])
def test_on_a_quadratic_each_pair_gives_half_the_quadratic_form(sigma2: float) -> None:
    samples = halves(hessian(QUADRATIC), sigma2, 6)
    found = gap(QUADRATIC, sigma2, num_pairs=6)
    assert found.value == pytest.approx(float(samples.mean()), rel=1e-8)
    assert found.stderr == pytest.approx(float(samples.std()) / math.sqrt(6), rel=1e-8)
    assert found.num_probes == 6
    for seed in range(5):
        one = gap(QUADRATIC, sigma2, num_pairs=1, seed=seed)
        wanted = float(halves(hessian(QUADRATIC), sigma2, 1, seed))
        assert one.value == pytest.approx(wanted, rel=1e-8)
        assert (one.stderr, one.ci95) == (None, None)


def test_its_mean_is_half_the_trace_and_its_interval_covers_it() -> None:
    truth = 0.01 / 2 * float(hessian(QUADRATIC).trace())
    found = [gap(QUADRATIC, 0.01, num_pairs=16, seed=seed) for seed in range(40)]
    covered = 0
    for estimate in found:
        assert estimate.stderr is not None
        assert estimate.ci95 is not None
        assert abs(estimate.value - truth) < 4 * estimate.stderr
        covered += estimate.ci95[0] <= truth <= estimate.ci95[1]
    assert covered >= 34  # of 40 at 95 %: fewer in one of a thousand


@pytest.mark.parametrize("case", CURVED, ids=str)
def test_small_noise_shows_the_hessian_of_any_network(case: Case) -> None:
    wanted = halves(hessian(case), 1e-8, 3)
    assert gap(case, 1e-8, num_pairs=3).value == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_batches_count_by_their_examples() -> None:
    x, y = (torch.cat(parts) for parts in zip(*QUADRATIC.batches, strict=True))
    whole = Case("whole", QUADRATIC.build, [(x, y)], "mse")
    assert gap(whole, 0.01).value == pytest.approx(gap(QUADRATIC, 0.01).value, rel=1e-10)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match=r"(?s)not finite at the perturbed weights.*1e\+80.*small"):
        gap(QUADRATIC, 1e80)


def test_the_model_stays_as_it_was() -> None:
    model, batches, loss = BY_NAME["cnn-gelu-bn"]
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    perturbation_gap(Decomposition(model, batches, loss).risk, 0.1, num_pairs=2)
    assert model.training
    assert all(tensor.grad is None for tensor in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
