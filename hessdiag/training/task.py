"""What a training step is given, and what it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hessdiag.training.objective import Objective


@dataclass(frozen=True)
class Strengths:
    """The options of all methods; each method reads its own.

    Attributes:
        rho: ρ, radius of the ascent step or weight of the gradient penalty.
        power: p of the penalty ρ‖g‖ᵖ, 1 or 2.
        ablate_nme: replace H by G in the gradient penalty's update.
        sigma2: σ², variance of the weight noise.
        kappa: κ, weight of a trace penalty.
        samples: m, draws of weight noise, Hutchinson or label samples of a trace penalty.
        probe: "gaussian" or "rademacher", of the Hessian-trace penalty.
        straight_through: let the gradient pass the sampling of labels.
        num_pairs: k, pairs of opposite perturbations.
    """

    rho: float = 0.0
    power: int = 1
    ablate_nme: bool = False
    sigma2: float = 0.0
    kappa: float = 0.0
    samples: int = 1
    probe: str = "gaussian"
    straight_through: bool = False
    num_pairs: int = 1


@dataclass(frozen=True)
class Streams:
    """Independent random streams on the parameters' device.

    Attributes:
        perturbation: of noise and probes.
        labels: of sampled labels.
    """

    perturbation: torch.Generator
    labels: torch.Generator


@dataclass(frozen=True)
class Step:
    """What a step is made of.

    Attributes:
        gradient: one tensor per parameter, to descend along; of the whole batch.
        outputs: z of the first pass, ``(n, C)``, detached; of this process's share of the batch.
        loss: mean loss of that pass over the whole batch, a scalar, detached; without the penalty.
    """

    gradient: list[Tensor]
    outputs: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Task:
    """A batch to take a step on; of several processes, each holds some of its examples.

    Attributes:
        objective: the loss.
        x: inputs ``(n, …)``.
        y: labels ``(n,)``.
        strengths: of the regulariser.
        streams: of its randomness, the same in all processes.
        size: N, examples in the whole batch; None for n.
        first: index in the whole batch of the first one here.
    """

    objective: Objective
    x: Tensor
    y: Tensor
    strengths: Strengths
    streams: Streams
    size: int | None = None
    first: int = 0

    @property
    def parameters(self) -> list[Tensor]:
        """The weights, live."""
        return self.objective.parameters

    @property
    def num_examples(self) -> int:
        """N."""
        return len(self.y) if self.size is None else self.size

    def evaluate(self, *, move_statistics: bool = True) -> tuple[Tensor, Tensor]:
        """Compute outputs and this process's part of the mean loss, at the weights as they are."""
        return self.objective.evaluate(
            self.x, self.y, self.num_examples, move_statistics=move_statistics
        )

    def sampled_cotangent(self, z: Tensor) -> Tensor:
        """Draw labels ŷ from the model; the cotangent of the mean loss at them, ``(n, C)``.

        For the mean over N examples it is ``c/N`` with ``E c cᵀ = B``, so that
        ``tr G = N E‖(1/N) Σ Jᵀc‖²``; for one over W targets, c/√(N W). It depends on z, the draw
        does not.
        """
        at = self.objective.loss.at(z, self.y)
        drawn = at.draw(self.num_examples, self.streams.labels)
        here = drawn[self.first : self.first + len(z)]
        weight = self.objective.weight(z, self.y, self.num_examples)
        return at.sampled_cotangent(here) / math.sqrt(self.num_examples * weight)

    def output_hessian(self, z: Tensor, u: Tensor) -> Tensor:
        """Compute B u for the mean loss, ``(n, C)``."""
        weight = self.objective.weight(z, self.y, self.num_examples)
        return self.objective.loss.at(z.detach(), self.y).hessian(u) / weight
