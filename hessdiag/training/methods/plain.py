"""No regulariser, and penalties of the gradient's norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hessdiag.settings import option
from hessdiag.training.methods.method import TINY, Method, added, scaled

if TYPE_CHECKING:
    from hessdiag.training.task import Step, Task

Rho = Annotated[float, option("Radius of the ascent, or weight of the penalty.", symbol="ρ", ge=0)]
Power = Annotated[int, option("Power of the gradient's norm.", symbol="p", ge=1, le=2)]
AblateNme = Annotated[bool, option("Put G in the place of H in the update.")]


@dataclass(frozen=True)
class Plain(Method):
    """The gradient, g = ∇L."""

    name = "none"
    descends = "L"

    @property
    def cost(self) -> float:
        """1."""
        return 1

    def step(self, task: Task) -> Step:
        """Compute ∇L."""
        z, loss = task.evaluate()
        return task.finished(task.derivative([loss]), z, loss)


@dataclass(frozen=True)
class GradientPenalty(Method):
    """∇(L + ρ‖g‖ᵖ): g + ρ H ĝ for p = 1, g + 2ρ H g for p = 2.

    With ``ablate_nme`` H is replaced by its Gauss-Newton part, which penalises nothing: it is the
    update without the NME.

    Source: Dauphin, Agarwala and Mobahi (2024), eqs. 7-8 (8 lacks ρ), and their ablation.
    """

    name = "grad-penalty"
    descends = "L + ρ‖g‖ᵖ"
    second_derivative = True
    is_mean = False

    rho: Rho = 0.1
    power: Power = 1
    ablate_nme: AblateNme = False

    @property
    def cost(self) -> float:
        """3; with G in forward mode 7/3."""
        return 7 / 3 if self.ablate_nme else 3

    def step(self, task: Task) -> Step:
        """Compute the gradient and a product with it."""
        z, loss = task.evaluate()
        ablate = self.ablate_nme
        gradient = task.derivative([loss], create_graph=not ablate, retain_graph=True)
        own = [tensor.detach() for tensor in gradient]
        g = task.summed(own)
        scale = 2 * self.rho if self.power == 2 else self.rho / (task.norm(g) + TINY)
        v = scaled(scale, g)
        curved = task.gn_product(z, v) if ablate else task.derivative(gradient, v)
        return task.finished(added(own, curved), z, loss)
