"""float32 against float64 where a network all but fits its data, for every loss with a name."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hessdiag
from hessdiag.losses.loss_spec import LossSpec
from tests.cases import WEIGHTS, labels, mlp, normal, seeded

NUM = 12
Y = labels(NUM, seed=1)
HOT = F.one_hot(Y, 3).double()
VALUES = normal(NUM, 3, seed=4).float().double()
SHARES = VALUES.softmax(1).float().double()
COUNTS = VALUES.exp().round()
SMOOTHED = 0.9 * HOT + 0.1 / 3
WEIGHTED = SMOOTHED * WEIGHTS / (SMOOTHED * WEIGHTS).sum(1, keepdim=True)

LOSSES: dict[str, tuple[LossSpec, Tensor, Tensor | None]] = {
    "cross-entropy": ("cross-entropy", Y, None),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHTS), Y, None),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), Y, SMOOTHED.log()),
    "smoothing, weights": (
        nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1),
        Y,
        WEIGHTED.log(),
    ),
    "bce": ("bce", HOT, None),
    "bce with weights": (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), HOT, None),
    "nll": ("nll", Y, None),
    "mse": ("mse", VALUES, VALUES),
    "huber": ("huber", VALUES, VALUES),
    "poisson": ("poisson", COUNTS, (COUNTS + 0.1).log()),
    "kl": ("kl", SHARES, SHARES.log()),
    "kl of log-probabilities": (nn.KLDivLoss(reduction="batchmean"), SHARES, SHARES.log()),
}
"""The loss, the targets, and the outputs that fit them; None for logits that grow beyond bounds."""


def fitted(name: str, step: int) -> nn.Module:
    """Make a network whose outputs are off by 0.5, 1e-3 or 1e-5, or right by a margin."""
    outputs = LOSSES[name][2]
    noise, margin = ((0.5, 0.5), (1e-3, 6.0), (1e-5, 12.0))[step]
    wanted = margin * (2 * HOT - 1) if outputs is None else outputs
    model = seeded(lambda: mlp(nn.GELU, 4, 16, 3))
    assert isinstance(model, nn.Sequential)
    features = torch.cat([model[:2](normal(NUM, 4, seed=5)), torch.ones(NUM, 1)], 1)
    weight = torch.linalg.lstsq(
        features, wanted + noise * normal(NUM, 3, seed=6), driver="gelsd"
    ).solution
    with torch.no_grad():
        model[2].weight.copy_(weight[:-1].T)  # pyright: ignore[reportCallIssue]
        model[2].bias.copy_(weight[-1])  # pyright: ignore[reportCallIssue]
    if name in ("nll", "kl of log-probabilities"):
        model.append(nn.LogSoftmax(1))
    return model.float()


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("name", LOSSES)
def test_traces_norms_and_eigenvalues_are_those_of_float64(name: str, step: int):
    """At losses from 1 to 1e-10, or as near to the least one; on the same probes."""
    loss, y, _ = LOSSES[name]
    data = [(normal(NUM, 4, seed=5).float(), y)]
    low, high = (
        hessdiag.spectrum(
            fitted(name, step), data, loss=loss, dtype=dtype, num_probes=8, top_k=1, density=False
        )
        for dtype in (torch.float32, torch.float64)
    )
    assert low.loss == pytest.approx(high.loss, rel=1e-4, abs=1e-13)
    assert low.decomposition_residual < 1e-4
    for part, wanted in high.parts.items():
        got = low.parts[part]
        norm = wanted.frobenius_norm.value
        assert got.trace.value == pytest.approx(wanted.trace.value, rel=1e-4, abs=1e-5 * norm)
        assert got.frobenius_norm.value == pytest.approx(norm, rel=1e-4)
        for ritz, exact in zip((*got.top, *got.bottom), (*wanted.top, *wanted.bottom), strict=True):
            assert ritz.interval is not None
            assert exact.interval is not None
            rounding = 1e-12 * norm
            assert ritz.interval[0] - rounding <= exact.interval[1]
            assert exact.interval[0] <= ritz.interval[1] + rounding
            assert ritz.value == pytest.approx(exact.value, rel=1e-4, abs=1e-3 * norm)


def test_a_network_that_fails_in_float64_is_computed_in_float32():
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.narrow = nn.Parameter(torch.ones(3)), [torch.eye(3)]

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.weight) @ self.narrow[0]

    x = normal(4, 3).float()
    data = [(x, x + 1e-5)]
    found = hessdiag.spectrum(Narrow(), data, loss="mse", num_probes=4, top_k=0, density=False)
    assert found.loss == pytest.approx(1e-10, rel=0.1)
