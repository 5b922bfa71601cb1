"""Grids and statements of the findings, for any strengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hessdiag.findings.finding import Choice, Statement, Term

EQUAL = 0.02  # of accuracy: what counts as no difference


def penalised(
    activation: str, rho: float, *, regulariser: str = "grad-penalty", **more: Any
) -> Choice:
    """Train with a method of strength ρ; 0 stands for none."""
    beta = more.pop("beta", None)
    changes: dict[str, Any] = {"activation": activation} | ({"beta": beta} if beta else {})
    label = activation if regulariser == "grad-penalty" else f"{activation}, {regulariser}"
    if more:
        label += f", {', '.join(name.replace('_', ' ') for name in more)}"
    if rho == 0:
        return Choice(label, 0.0, changes | {"regulariser": "none"})
    chosen = changes | {"regulariser": regulariser}
    return Choice(label, rho, chosen, {"rho": rho, **more})


def gain(name: str, plain: str, weight: float = 1.0) -> tuple[Term, Term]:
    """What a choice's accuracy has over that without its penalty."""
    return Term(weight, name), Term(-weight, plain)


def penalty_by_rho(rhos: Sequence[float], at: float) -> dict[str, Any]:
    """Finding 2."""
    choices = {
        f"{activation} {rho:g}": penalised(activation, rho)
        for activation in ("gelu", "relu")
        for rho in (0.0, *rhos)
    }
    gelu, relu = (gain(f"{name} {at:g}", f"{name} 0") for name in ("gelu", "relu"))
    equal = (Term(1, "gelu 0"), Term(-1, "relu 0"))
    return {
        "choices": choices,
        "statements": (
            Statement(f"GELU gains by the penalty at ρ = {at:g}", gelu, "above"),
            Statement(f"ReLU loses by it at ρ = {at:g}", relu, "below"),
            Statement("without it both are equal, to 2 points", equal, "near", EQUAL),
        ),
    }


def penalty_by_beta(betas: Sequence[float], rho: float) -> dict[str, Any]:
    """Finding 3."""
    choices: dict[str, Choice] = {"relu": penalised("relu", rho)}
    logs = [math.log10(beta) for beta in betas]
    centre = sum(logs) / len(logs)
    size = sum((x - centre) ** 2 for x in logs)
    slopes: dict[float, list[Term]] = {0.0: [], rho: []}
    for strength in slopes:
        for beta, x in zip(betas, logs, strict=True):
            name = f"β {beta:g}, ρ {strength:g}"
            found = penalised("beta_gelu", strength, beta=beta)
            curve = f"ρ = {strength:g}" if strength else "SGD"
            choices[name] = Choice(curve, beta, found.changes, found.strengths)
            slopes[strength].append(Term((x - centre) / size, name))
    last = (Term(1, f"β {betas[-1]:g}, ρ {rho:g}"), Term(-1, "relu"))
    choices["relu"] = Choice("ReLU", 2 * betas[-1], choices["relu"].changes, {"rho": rho})
    return {
        "choices": choices,
        "statements": (
            Statement("accuracy falls with log β under the penalty", slopes[rho], "below"),
            Statement("SGD is flat in log β, to 2 points a decade", slopes[0.0], "near", EQUAL),
            Statement(f"β = {betas[-1]:g} is worse than ReLU", last, "below"),
        ),
        "axis": "β",
    }


def surrogates(rhos: Sequence[float], at: float) -> dict[str, Any]:
    """Finding 4."""
    names = ("gelu", "relu", "augmented_relu", "diminished_gelu")
    choices = {f"{a} {rho:g}": penalised(a, rho) for a in names for rho in (0.0, *rhos)}
    own = {name: gain(f"{name} {at:g}", f"{name} 0") for name in names}
    less = {name: gain(f"{name} {at:g}", f"{name} 0", -1.0) for name in names}
    return {
        "choices": choices,
        "statements": (
            Statement(
                f"augmented ReLU gains more than ReLU at ρ = {at:g}",
                own["augmented_relu"] + less["relu"],
                "above",
            ),
            Statement(
                f"diminished GELU gains less than GELU at ρ = {at:g}",
                own["diminished_gelu"] + less["gelu"],
                "below",
            ),
        ),
    }


def by_sigma2(sigma2s: Sequence[float], at: float, activation: str = "gelu") -> dict[str, Any]:
    """Finding 5."""
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "GN trace": ("gn-trace", {}),
        "weight noise": ("weight-noise", {}),
        "Hessian trace": ("hessian-trace", {}),
        "Hessian trace, 5 samples": ("hessian-trace", {"samples": 5}),
    }
    choices = {
        f"{label} {sigma2:g}": Choice(
            label,
            sigma2,
            {"activation": activation, "regulariser": method},
            {"sigma2": sigma2, **more},
        )
        for label, (method, more) in kinds.items()
        for sigma2 in sigma2s
        if not more or sigma2 == at
    }
    noise, trace, five = (
        Term(-1, f"{label} {at:g}")
        for label in ("weight noise", "Hessian trace", "Hessian trace, 5 samples")
    )
    gn = Term(1, f"GN trace {at:g}")
    like = (Term(1, f"weight noise {at:g}"), trace)
    return {
        "choices": choices,
        "statements": (
            Statement(f"GN trace beats weight noise at σ² = {at:g}", (gn, noise), "above"),
            Statement("GN trace beats Hessian trace", (gn, trace), "above"),
            Statement("weight noise is like Hessian trace, to 2 points", like, "near", EQUAL),
            Statement("5 samples do not mend Hessian trace", (gn, five), "above"),
        ),
        "axis": "σ²",
    }


def sam_beside_penalty(rhos: Sequence[float], at: float) -> dict[str, Any]:
    """Finding 6."""
    choices = {
        f"{activation} {method} {rho:g}": penalised(activation, rho, regulariser=method)
        for activation in ("gelu", "relu")
        for method in ("grad-penalty", "sam")
        for rho in (0.0, *rhos)
    }

    def apart(method: str) -> tuple[Term, ...]:
        gelu = gain(f"gelu {method} {at:g}", f"gelu {method} 0")
        return gelu + gain(f"relu {method} {at:g}", f"relu {method} 0", -1.0)

    return {
        "choices": choices,
        "statements": (
            Statement("SAM gains alike on GELU and ReLU, to 2 points", apart("sam"), "near", EQUAL),
            Statement("the penalty gains more on GELU", apart("grad-penalty"), "above"),
        ),
    }


def traces_of_penalties(sigma2: float, every: int) -> dict[str, Any]:
    """Finding 7."""
    track = ("hessian.trace", "gn.trace")
    choices = {
        method: Choice(method, sigma2, {"activation": "gelu", "regulariser": method}, strengths)
        for method, strengths in (
            ("none", {}),
            ("hessian-trace", {"sigma2": sigma2}),
            ("gn-trace", {"sigma2": sigma2}),
        )
    }
    h, g = "asinh:hessian.trace", "asinh:gn.trace"
    unstable = (
        Term(1, "hessian-trace", "log-spread:hessian.trace"),
        Term(-1, "gn-trace", "log-spread:gn.trace"),
    )
    larger = (Term(1, "hessian-trace", h), Term(1, "gn-trace", g))
    return {
        "choices": choices,
        "statements": (
            Statement("asinh tr H < 0 under its own penalty", (larger[0],), "below"),
            Statement("log: it varies more than tr G under the GN trace", unstable, "above"),
            Statement("asinh: tr G there is closer to 0", larger, "below"),
        ),
        "options": {"track": track, "track_every": every},
        "axis": "σ²",
        "shown": h,
    }


def sparsity_by_beta(betas: Sequence[float], every: int) -> dict[str, Any]:
    """Finding 8."""
    choices = {
        f"β {beta:g}": Choice(
            "after training", beta, {"activation": "beta_gelu", "beta": beta, "regulariser": "none"}
        )
        for beta in betas
    }
    first, last = f"β {betas[0]:g}", f"β {betas[-1]:g}"

    def fall(when: str) -> tuple[Term, Term]:
        name = f"{when}:sparsity.nonzero"
        return Term(1, last, name), Term(-1, first, name)

    ends = f"from {first} to {last}"
    return {
        "choices": choices,
        "statements": (
            Statement(f"the fraction falls {ends} before training", fall("initial"), "below"),
            Statement(f"it falls {ends} after training", fall("final"), "below"),
        ),
        "options": {"track": ("sparsity.nonzero",), "track_every": every},
        "axis": "β",
        "shown": "final:sparsity.nonzero",
    }


def without_nme(rhos: Sequence[float]) -> dict[str, Any]:
    """Finding 9."""
    choices = {f"H {rho:g}": penalised("gelu", rho) for rho in (0.0, *rhos)}
    choices |= {f"G {rho:g}": penalised("gelu", rho, ablate_nme=True) for rho in rhos}
    return {
        "choices": choices,
        "statements": tuple(
            Statement(
                f"H beats G at ρ = {rho:g}",
                (Term(1, f"H {rho:g}"), Term(-1, f"G {rho:g}")),
                "above",
            )
            for rho in rhos
        ),
    }


def noise_stability(
    sigma2: float, every: int, shared: Mapping[str, Any], *, read: str = "final"
) -> dict[str, Any]:
    """Finding 10; ``read`` says how, "final" or "log" for ratios."""
    methods: dict[str, dict[str, Any]] = {
        "none": {},
        "weight-noise": {"sigma2": sigma2},
        "nso": {"sigma2": sigma2, "num_pairs": 1},
    }
    choices = {
        method: Choice(method, sigma2, {**shared, "regulariser": method}, strengths)
        for method, strengths in methods.items()
    }

    def less(metric: str, than: str) -> tuple[Term, Term]:
        return Term(1, "nso", f"{read}:{metric}"), Term(-1, than, f"{read}:{metric}")

    gap = (Term(1, "nso", "log-gap"),)
    return {
        "choices": choices,
        "statements": (
            Statement("NSO lowers tr H against SGD", less("hessian.trace", "none"), "below"),
            Statement("and λ₁", less("hessian.lambda_max", "none"), "below"),
            Statement(
                "NSO lowers tr H against weight noise",
                less("hessian.trace", "weight-noise"),
                "below",
            ),
            Statement("and λ₁", less("hessian.lambda_max", "weight-noise"), "below"),
            Statement("the gap is (σ²/2) tr H, to a factor of 1.5", gap, "near", math.log(1.5)),
        ),
        "options": {
            "track": ("hessian.trace", "hessian.lambda_max", "perturbation.trace"),
            "track_every": every,
        },
        "axis": "σ²",
        "shown": "final:hessian.trace",
    }
