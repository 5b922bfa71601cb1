"""SAM and its kin: the gradient at weights moved up the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hessdiag.training.methods.method import TINY, Method, scaled
from hessdiag.training.methods.plain import Plain, Rho

if TYPE_CHECKING:
    from torch import Tensor

    from hessdiag.training.task import Step, Task

_ASAM_ETA = 0.01


@dataclass(frozen=True)
class Ascent(Method):
    """The gradient at θ + δ, where δ climbs along g."""

    is_mean = False

    rho: Rho = 0.05

    @property
    def cost(self) -> float:
        """2."""
        return 2

    @abstractmethod
    def ascent(self, task: Task, g: Sequence[Tensor]) -> list[Tensor]:
        """Compute δ from the gradient."""

    def step(self, task: Task) -> Step:
        """Take the gradient at the displaced weights; loss and outputs are those before."""
        step = Plain().step(task)
        with task.displaced(self.ascent(task, step.gradient)):
            _, loss = task.evaluate(move_statistics=False)
            return replace(step, gradient=task.summed(task.derivative([loss])))


@dataclass(frozen=True)
class SAM(Ascent):
    """∇L(θ + ρ ĝ). Source: Foret et al. (2021), eq. 3."""

    name = "sam"
    descends = "L(θ + ρ ĝ)"

    def ascent(self, task: Task, g: Sequence[Tensor]) -> list[Tensor]:
        """Compute ρ ĝ."""
        return scaled(self.rho / (task.norm(g) + TINY), g)


@dataclass(frozen=True)
class USAM(Ascent):
    """∇L(θ + ρ g), SAM without normalisation."""

    name = "usam"
    descends = "L(θ + ρ g)"

    def ascent(self, task: Task, g: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Compute ρ g."""
        return scaled(self.rho, g)


@dataclass(frozen=True)
class ASAM(Ascent):
    """∇L(θ + ρ T² g/‖T g‖), T = |θ| + 0.01 for weights and 1 for biases and scales.

    Source: Kwon, Kim, Park and Choi (2021), eq. 4.
    """

    name = "asam"
    descends = "L(θ + ρ T²g/‖Tg‖), T = |θ|"

    rho: Rho = 0.5

    def ascent(self, task: Task, g: Sequence[Tensor]) -> list[Tensor]:
        """Compute ρ T² g/‖T g‖."""
        scales = [
            tensor.detach().abs() + _ASAM_ETA if tensor.ndim > 1 else tensor.new_ones(tensor.shape)
            for tensor in task.parameters
        ]
        tg = [t * tensor for t, tensor in zip(scales, g, strict=True)]
        size = self.rho / (task.norm(tg) + TINY)
        return [size * t * tensor for t, tensor in zip(scales, tg, strict=True)]
