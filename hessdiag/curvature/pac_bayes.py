"""The PAC-Bayes bound of a network's loss by the traces of its examples' Hessians."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.kernels import exact_kernels
from hessdiag.curvature.linearisation import Linearisation
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError, NotFinite
from hessdiag.linalg.quadratic_forms import form_interval
from hessdiag.linalg.trace import Array, Estimate, Probes, estimate_mean
from hessdiag.linalg.vectors import all_finite
from hessdiag.losses.output_loss import Targets
from hessdiag.seeds import stream

_FRESH_PROBES = 64


@dataclass(frozen=True)
class PacBayes:
    """The bound's leading terms, ``(1 + ε)(L̂ + √(Cαr²/n))``, and what they are made of.

    They bound nothing: α and C are maxima over all data, of which only a sample was seen, and of
    the sample the sharpest example may have looked blunt. What can be said of α is that it is at
    least the trace of the example measured, hence ``at_least``.

    Attributes:
        empirical_loss: L̂, the mean loss over the sample.
        alpha: tr H of the example of the sample that looked sharpest; ``ci95`` holds it with 95 %
            at least, however few the probes. α is no smaller.
        loss_bound: C, the largest loss of an example of the sample.
        radius: r, the norm of the weights, or their distance from where training started.
        num_train: n, the number of training examples.
        epsilon: ε.
    """

    empirical_loss: float
    alpha: Estimate
    loss_bound: float
    radius: float
    num_train: int
    epsilon: float

    @property
    def complexity(self) -> float:
        """√(Cαr²/n), where α < 0 counts as 0: to leading order noise then costs no loss."""
        return self._complexity(self.alpha.value)

    @property
    def value(self) -> float:
        """The leading terms, as estimated."""
        return (1 + self.epsilon) * (self.empirical_loss + self.complexity)

    @property
    def at_least(self) -> float:
        """What the leading terms are no smaller than, with 95 %: with the lower end of α."""
        low = self.alpha.ci95[0] if self.alpha.ci95 else 0.0
        return (1 + self.epsilon) * (self.empirical_loss + self._complexity(low))

    def _complexity(self, alpha: float) -> float:
        return self.radius * math.sqrt(self.loss_bound * max(alpha, 0.0) / self.num_train)


def pac_bayes_bound(
    decomposition: Decomposition,
    *,
    num_train: int,
    radius: float | None = None,
    epsilon: float = 0.1,
    num_probes: int = 8,
    seed: int = 0,
) -> PacBayes:
    """Compute ``L ≤ (1 + ε) L̂ + (1 + ε) √(Cαr²/n) + …``, α = max tr H_i.

    An estimate of the theorem's leading terms, no certificate:

    * its α is a maximum over all data and all weights within r, its C a bound of the loss on all
      data; here both are maxima over the sample at θ, and so too small rather than too large;
    * what is left out vanishes faster in n, and grows as 1/ε for ε → 0, while what is computed
      grows with ε. So no ε is the best one here; it has to be chosen beforehand.

    The sharpest example is found with one set of probes and its trace estimated with another, of
    at least 64, so that α is not too large by the choice of the largest among noisy numbers.

    Cost: for each example one gradient, and three a probe; nothing is shared between examples.

    Args:
        decomposition: of the loss on a sample of the training data; each example is looked at by
            itself, and its ``on_microbatch`` called after each.
        num_train: n, all examples trained on, not those of the sample alone.
        radius: r, such as the distance from the initial weights; None for ‖θ‖.
        epsilon: ε > 0.
        num_probes: Rademacher probes for each example.
        seed: of the probes.

    Raises:
        InputError: n, r, ε or the number of probes is out of range; BatchNorm in batch mode, with
            which no example has a Hessian of its own.
        NotFinite: the curvature of an example.

    Source: Zhang, Li and Ju (2024), theorem 2.1.
    """
    risk = decomposition.risk
    for name, count in (("num_train", num_train), ("num_probes", num_probes)):
        if count < 1:
            raise InputError(f"`{name}` is too small", got=count, wanted="at least 1")
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise InputError("ε is out of range", got=epsilon, wanted="a finite number above 0")
    if radius is not None and not (math.isfinite(radius) and radius >= 0):
        raise InputError("the radius is out of range", got=radius, wanted="a number, at least 0")
    if risk.bn == "batch":
        raise InputError(
            "the bound is made of single examples, which BatchNorm's batches mix",
            got="bn='batch'",
            wanted="bn='eval'",
        )
    empirical_loss = decomposition.gradient().loss
    probes = Probes(
        risk.layout.size,
        seed=stream(seed, "pac-bayes"),
        dtype=risk.dtype,
        device=risk.device,
    )
    screening = probes.rows(0, num_probes)
    loss_bound, largest, sharpest = 0.0, -math.inf, None
    for example in _examples(risk):
        loss, samples = _samples(risk, *example, screening)
        forms = samples[0]
        loss_bound = max(loss_bound, loss)
        if forms.mean() > largest:
            largest, sharpest = forms.mean(), example
        if decomposition.on_microbatch is not None:
            decomposition.on_microbatch()
    assert sharpest is not None
    fresh = probes.rows(num_probes, num_probes + max(num_probes, _FRESH_PROBES))
    _, (forms, squares) = _samples(risk, *sharpest, fresh)
    low, high = (float(end) for end in form_interval(forms, squares, 0.05))
    estimate = estimate_mean(forms).bounded()
    alpha = Estimate(estimate.value, estimate.stderr, (low, high), len(forms))
    if radius is None:
        theta = risk.layout.flatten(list(risk.parameters.values())).detach()
        radius = float(theta.norm(dtype=torch.float64))
    return PacBayes(empirical_loss, alpha, loss_bound, radius, num_train, epsilon)


def _examples(risk: EmpiricalRisk) -> Iterator[tuple[Any, Tensor | Targets]]:
    """Cut the microbatches into batches of one."""
    for x, y in risk.microbatches():
        for index in range(len(y)):
            yield _one(x, index), y[index : index + 1]


def _one(x: Any, index: int) -> Any:
    if isinstance(x, Tensor):
        return x[index : index + 1]
    if isinstance(x, Mapping):
        return {key: _one(value, index) for key, value in x.items()}
    return [_one(value, index) for value in x] if isinstance(x, Sequence) else x


def _samples(
    risk: EmpiricalRisk, x: Any, y: Tensor | Targets, probes: Tensor
) -> tuple[float, Array]:
    """Compute the loss of a batch of one, and vᵀHv and ‖Hv‖² for each probe, ``(2, k)``."""
    with exact_kernels():
        local = Linearisation(risk, x, y)
        samples = torch.zeros(2, len(probes), dtype=torch.float64)
        for index, probe in enumerate(probes):
            gn, nme = local.products(risk.layout.unflatten(probe), gn=True, nme=True)
            assert gn is not None
            assert nme is not None
            product = (risk.layout.flatten(gn) + risk.layout.flatten(nme)).double()
            samples[0, index] = (probe * product).sum()
            samples[1, index] = product.square().sum()
    if not all_finite(samples):
        raise NotFinite(
            "the curvature of an example is not finite",
            got="NaN or Inf in vᵀHv",
            hint="try --dtype float64",
        )
    weight = local.at_output.weight or 1.0  # an ignored target has neither loss nor curvature
    return local.total / weight, (samples / samples.new_tensor([[weight], [weight**2]])).numpy()
