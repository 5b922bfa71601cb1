"""Regularisers by name: what each takes, by default how much of it, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from hessdiag.errors import InputError, unknown
from hessdiag.training import gradients
from hessdiag.training.gradients import Method
from hessdiag.training.task import Strengths

OPTIONS = {
    "rho": "--rho",
    "power": "--power",
    "ablate_nme": "--ablate-nme",
    "sigma2": "--sigma2",
    "kappa": "--kappa",
    "samples": "--reg-samples",
    "probe": "--probe",
    "straight_through": "--straight-through",
    "num_pairs": "--num-pairs",
}
"""Fields of Strengths and the options that set them."""


@dataclass(frozen=True)
class Regulariser:
    """One line of the table.

    Attributes:
        gradient: computes the step.
        does: what the step descends, in a few words.
        cost: of a step in gradients, at best, with the defaults.
        defaults: the options it takes, with their default values.
        second_derivative: whether it differentiates the gradient.
        third_derivative: whether it differentiates φ''.
    """

    gradient: Method
    does: str
    cost: float
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    second_derivative: bool = False
    third_derivative: bool = False


_PENALTY = {"rho": 0.1, "power": 1, "ablate_nme": False}
_HESSIAN = {"sigma2": 1e-4, "kappa": None, "samples": 1, "probe": "gaussian"}
_LABELS = {"sigma2": 2e-3, "kappa": None, "samples": 1, "straight_through": False}

_SECOND = {"second_derivative": True}
_THIRD = {"second_derivative": True, "third_derivative": True}

REGULARISERS = {
    "none": Regulariser(gradients.plain, "L", 1),
    "grad-penalty": Regulariser(gradients.grad_penalty, "L + ρ‖g‖ᵖ", 3, _PENALTY, **_SECOND),
    "sam": Regulariser(gradients.sam, "L(θ + ρ ĝ)", 2, {"rho": 0.05}),
    "usam": Regulariser(gradients.usam, "L(θ + ρ g)", 2, {"rho": 0.05}),
    "asam": Regulariser(gradients.asam, "L(θ + ρ T²g/‖Tg‖), T = |θ|", 2, {"rho": 0.5}),
    "weight-noise": Regulariser(
        gradients.weight_noise, "E L(θ + ε)", 1, {"sigma2": 1e-4, "samples": 1}
    ),
    "nso": Regulariser(
        gradients.nso, "E ½[L(θ + ε) + L(θ − ε)]", 2, {"sigma2": 1e-4, "num_pairs": 1}
    ),
    "hessian-trace": Regulariser(gradients.hessian_trace, "L + κ tr H", 13 / 3, _HESSIAN, **_THIRD),
    "gn-trace": Regulariser(gradients.gn_trace, "L + κ tr G", 11 / 3, _LABELS, **_SECOND),
    "nme-trace": Regulariser(gradients.nme_trace, "L + κ tr N", 7, _HESSIAN | _LABELS, **_THIRD),
}
SURROGATES = ("augmented_relu", "diminished_gelu")
"""Activations without a third derivative."""


def find(name: str) -> Regulariser:
    """Look a regulariser up by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in REGULARISERS:
        raise unknown("regulariser", name, REGULARISERS)
    return REGULARISERS[name]


def settle(
    name: str, *, activation: str | None = None, precision: str = "float32", **given: Any
) -> Strengths:
    """Complete the options of the regulariser ``name`` by its defaults; None is not given.

    σ² stands for κ = σ²/2 in the trace penalties, so that weight noise and penalties of one σ² are
    comparable; κ itself may be given instead.

    Args:
        name: of the regulariser.
        activation: of the network, to refuse those without the derivatives that are needed.
        precision: of the network, to refuse second derivatives in bf16.
        **given: fields of :class:`Strengths`.

    Raises:
        InputError: unknown regulariser; an option that it does not take; a value out of range;
            an activation without a third derivative, or second derivatives in bf16.
    """
    regulariser = find(name)
    chosen = {key: value for key, value in given.items() if value is not None}
    for key, value in chosen.items():
        if key not in regulariser.defaults:
            takes = ", ".join(OPTIONS[option] for option in regulariser.defaults) or "no options"
            raise InputError(
                f"the regulariser {name} does not take {OPTIONS[key]}",
                got=f"{OPTIONS[key]} {value}",
                wanted=takes,
            )
        _check(key, value)
    if "sigma2" in chosen and "kappa" in chosen:
        raise InputError(
            "σ² and κ say the same thing",
            got=f"--sigma2 {chosen['sigma2']} and --kappa {chosen['kappa']}",
            wanted="one of them; κ = σ²/2",
        )
    if regulariser.third_derivative and activation in SURROGATES:
        raise InputError(
            f"the regulariser {name} needs the third derivative of the activation",
            got=f"{activation}, which has none",
            hint="choose gelu, relu or another activation",
        )
    if regulariser.second_derivative and precision != "float32":
        raise InputError(
            f"the regulariser {name} needs second derivatives",
            got=f"--precision {precision}, too coarse for them",
            hint="use --precision float32",
        )
    values = {**regulariser.defaults, **chosen}
    if "kappa" in values and values["kappa"] is None:
        values["kappa"] = values["sigma2"] / 2
    return dataclasses.replace(Strengths(), **values)


def _check(key: str, value: Any) -> None:
    option = OPTIONS[key]
    if key in ("rho", "sigma2", "kappa") and not (math.isfinite(value) and value >= 0):
        raise InputError(f"{option} is out of range", got=value, wanted="a number, at least 0")
    if key in ("samples", "num_pairs") and value < 1:
        raise InputError(f"{option} is too small", got=value, wanted="at least 1")
    if key == "power" and value not in (1, 2):
        raise InputError(f"{option} is out of range", got=value, wanted="1 or 2")
    if key == "probe" and value not in ("gaussian", "rademacher"):
        raise unknown("kind of probe", str(value), ("gaussian", "rademacher"))
