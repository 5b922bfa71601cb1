"""Gradients at noisy weights, one-sided or in opposite pairs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hessdiag.settings import option
from hessdiag.training.methods.method import Method, added, scaled

if TYPE_CHECKING:
    from torch import Tensor

    from hessdiag.training.task import Step, Task

SIGMA2 = option("Variance of the noise; of a trace penalty, κ = σ²/2.", symbol="σ²", ge=0)
Sigma2 = Annotated[float, SIGMA2]
Samples = Annotated[int, option("Draws a step.", flag="--reg-samples", ge=1)]
NumPairs = Annotated[int, option("Pairs of opposite noise a step.", symbol="pairs", ge=1)]


@dataclass(frozen=True)
class Noise(Method):
    """The mean gradient over displaced weights, for the same batch."""

    sigma2: Sigma2 = 1e-4

    @abstractmethod
    def moves(self, task: Task) -> Iterator[Sequence[Tensor]]:
        """Draw the displacements."""

    def step(self, task: Task) -> Step:
        """Average the gradients; outputs and loss are those of the first pass."""
        passes: list[tuple[Tensor, Tensor]] = []
        total = task.zeros()
        for move in self.moves(task):
            with task.displaced(move):
                z, loss = task.evaluate(move_statistics=not passes)
                total = added(total, task.derivative([loss]))
            passes.append((z.detach(), loss.detach()))
        return task.finished([tensor / len(passes) for tensor in total], *passes[0])


@dataclass(frozen=True)
class WeightNoise(Noise):
    """(1/m) Σ ∇L(θ + ε), ε ~ N(0, σ² I); in expectation ∇(L + (σ²/2) tr H) + O(σ⁴).

    m = 2k draws compare with the k pairs of NSO.
    """

    name = "weight-noise"
    descends = "E L(θ + ε)"

    samples: Samples = 1

    @property
    def cost(self) -> float:
        """One for each draw."""
        return self.samples

    def moves(self, task: Task) -> Iterator[Sequence[Tensor]]:
        """Draw ε m times."""
        for _ in range(self.samples):
            yield task.noise(math.sqrt(self.sigma2))


@dataclass(frozen=True)
class NSO(Noise):
    """The mean over k pairs of ½[∇L(θ + ε) + ∇L(θ − ε)].

    Source: Zhang, Li and Ju (2024), algorithm 1.
    """

    name = "nso"
    descends = "E ½[L(θ + ε) + L(θ − ε)]"

    num_pairs: NumPairs = 1

    @property
    def cost(self) -> float:
        """Two for each pair."""
        return 2 * self.num_pairs

    def moves(self, task: Task) -> Iterator[Sequence[Tensor]]:
        """Draw ε k times, and turn it round."""
        for _ in range(self.num_pairs):
            noise = task.noise(math.sqrt(self.sigma2))
            yield noise
            yield scaled(-1, noise)
