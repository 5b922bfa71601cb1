"""Penalties of the traces of H, of its Gauss-Newton part G and of N = H − G."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from hessdiag.errors import InputError
from hessdiag.settings import option
from hessdiag.training.methods.method import Method, added, scaled
from hessdiag.training.methods.noise import SIGMA2, Samples

if TYPE_CHECKING:
    from torch import Tensor

    from hessdiag.training.task import Step, Task

Kappa = Annotated[float | None, option("Weight of the trace, σ²/2.", symbol="κ", ge=0)]
Probe = Annotated[str, option("Entries of a probe of H.", choices=("gaussian", "rademacher"))]
Labels = Annotated[
    str,
    option(
        "exact: the gradient of tr G. detached: the paper's update, with labels drawn from the "
        "model and held fixed. straight-through: with p − ŷ held fixed.",
        choices=("exact", "detached", "straight-through"),
    ),
]
_OTHERWISE = "with other labels than exact, the paper's update, no gradient of it"


@dataclass(frozen=True)
class TracePenalty(Method):
    """L + κ times a trace.

    σ² stands for κ = σ²/2, so that weight noise and penalties of one σ² are comparable; κ itself
    may be given instead. Both are known afterwards.
    """

    second_derivative = True
    usual: ClassVar[float] = 1e-4

    sigma2: Annotated[float | None, SIGMA2] = None
    kappa: Kappa = None
    samples: Samples = 1

    def __post_init__(self) -> None:
        """Complete σ² and κ by each other.

        Raises:
            InputError: both are given, and disagree; an option out of range.
        """
        super().__post_init__()
        sigma2, kappa = self.sigma2, self.kappa
        if kappa is None:
            sigma2 = self.usual if sigma2 is None else sigma2
            kappa = sigma2 / 2
        elif sigma2 is None:
            sigma2 = 2 * kappa
        elif sigma2 != 2 * kappa and kappa != sigma2 / 2:
            raise InputError(
                "σ² and κ say the same thing",
                got=f"σ² = {sigma2} and κ = {kappa}",
                wanted="one of them; κ = σ²/2",
            )
        object.__setattr__(self, "sigma2", sigma2)
        object.__setattr__(self, "kappa", kappa)

    @property
    def weight(self) -> float:
        """κ."""
        return self.values["kappa"]


@dataclass(frozen=True)
class HessianTrace(TracePenalty):
    """∇[L + (κ/m) Σ vᵀHv], which in mean descends L + κ tr H.

    A sample costs 13/3 gradients by second-order Taylor mode: 5 convolutions forward and 8 back
    where a gradient has 1 and 2. Without a rule for some function of the network, 9.

    Source: Dauphin, Agarwala and Mobahi (2024), eq. 21 (which lacks a factor 2).
    """

    name = "hessian-trace"
    descends = "L + κ tr H"
    third_derivative = True

    probe: Probe = "gaussian"

    @property
    def cost(self) -> float:
        """13/3 for each probe."""
        return 13 / 3 * self.samples

    def step(self, task: Task) -> Step:
        """Differentiate the penalised loss."""
        z, loss, gradient = hessian_part(self, task, self.probe)
        return task.finished(gradient, z, loss)


@dataclass(frozen=True)
class GNTrace(TracePenalty):
    """L + κ tr G through cotangents c of the outputs with E c cᵀ = B, tr G = E ‖Jᵀc‖².

    ``labels`` says which c, and what of it is differentiated:

    * ``exact``: c = S(θ)u with B = S Sᵀ and random signs u, S differentiated: the mean of the step
      is ∇(L + κ tr G).
    * ``detached``: c = p(θ) − ŷ, labels ŷ drawn from the model and held fixed: the paper's update
      2κN H(ŷ)ḡ. With cross-entropy it is no gradient of κ tr G, not even in the mean: it lacks what
      the change of the labels' distribution adds, and of a linear network its mean is zero.
    * ``straight-through``: c = p − ŷ held fixed, so that only N of the sampled labels is left.

    Source: Dauphin, Agarwala and Mobahi (2024), sec. 5.2, with the factor N that eq. 20 hides.
    """

    name = "gn-trace"
    descends = f"L + κ tr G; {_OTHERWISE}"
    usual = 2e-3

    labels: Labels = "exact"

    @property
    def cost(self) -> float:
        """1, and 8/3 for each sample."""
        return 1 + 8 / 3 * self.samples

    def step(self, task: Task) -> Step:
        """Add a sample of κ ∇tr G to the gradient."""
        z, loss = task.evaluate()
        gradient = task.derivative([loss], retain_graph=True)
        return task.finished(added(gradient, gn_part(self, task, z, self.labels)), z, loss)


@dataclass(frozen=True)
class NMETrace(TracePenalty):
    """L + κ tr N, by the penalty of tr H less that of tr G; ``labels`` as in :class:`GNTrace`.

    Source: Dauphin, Agarwala and Mobahi (2024), sec. 5.2.
    """

    name = "nme-trace"
    descends = f"L + κ tr N; {_OTHERWISE}"
    third_derivative = True
    usual = 2e-3

    probe: Probe = "gaussian"
    labels: Labels = "exact"

    @property
    def cost(self) -> float:
        """7 for each sample."""
        return 7 * self.samples

    def step(self, task: Task) -> Step:
        """Subtract one penalty's gradient from the other's."""
        z, loss, gradient = hessian_part(self, task, self.probe, retain_graph=True)
        penalty = scaled(-1, gn_part(self, task, z, self.labels))
        return task.finished(added(gradient, penalty), z, loss)


def hessian_part(
    method: TracePenalty, task: Task, probe: str, *, retain_graph: bool = False
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Compute z, L and a sample of ∇[L + κ tr H]; z's graph stays if ``retain_graph``."""
    passes: list[tuple[Tensor, Tensor]] = []
    total = task.zeros()
    for _ in range(method.samples):
        v = task.noise(1.0)
        v = [tensor.sign() for tensor in v] if probe == "rademacher" else v
        z, loss, curvature = task.quadratic_form(v, move_statistics=not passes)
        penalised = loss + method.weight * curvature
        keep = retain_graph and not passes
        total = added(total, task.derivative([penalised], retain_graph=keep))
        passes.append((z, loss))
    return *passes[0], [tensor / len(passes) for tensor in total]


def gn_part(method: TracePenalty, task: Task, z: Tensor, labels: str) -> list[Tensor]:
    """Sample the gradient of κ tr G = κ N E⟨Jᵀa, Jᵀb⟩; the graph of z is kept.

    a and b are one cotangent of the mean loss, or two where the loss has no square root S.
    """
    total = task.zeros()
    for _ in range(method.samples):
        cotangents = task.cotangents(z, labels)
        pulled = [task.derivative([z], [c], create_graph=True) for c in cotangents]
        whole = [task.summed([tensor.detach() for tensor in one]) for one in pulled]
        weight = 2 * method.weight * task.num_examples / method.samples / len(pulled)
        for own, other in zip(pulled, reversed(whole), strict=True):
            total = added(total, task.derivative(own, scaled(weight, other), retain_graph=True))
    return total


def renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Read options as 0.1 wrote them: straight-through or detached labels, by a truth value."""
    options = dict(options)
    through, labels = options.pop("straight_through", None), options.get("labels")
    if through is not None:
        options["labels"] = "straight-through" if through else "detached"
        if labels not in (None, options["labels"]):
            raise InputError(
                "`labels` and `straight_through` disagree",
                got=f"`labels` {labels}",
                hint="leave `straight_through` out",
            )
    return options
