"""The ten findings and one more, each with its grid and its statements at both scales.

Fixed before the seeds of ``docs/findings.md`` were run, which also says what was tried before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hessdiag.errors import unknown
from hessdiag.findings.finding import Choice, Design, Finding, Statement, Term
from hessdiag.findings.finding_grids import (
    by_sigma2,
    noise_stability,
    penalty_by_beta,
    penalty_by_rho,
    sam_beside_penalty,
    sparsity_by_beta,
    surrogates,
    traces_of_penalties,
    without_nme,
)
from hessdiag.findings.implicit_penalty import KINDS, SHARES, orders
from hessdiag.findings.kink_bands import bands

DAUPHIN = "Dauphin, Agarwala and Mobahi (2024)"
ZHANG = "Zhang, Li and Ju (2024)"
RHOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
BETAS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
SIGMA2S = (1e-5, 1e-4, 1e-3, 1e-2)
SMALL: dict[str, Any] = {
    "changes": {"model": "mlp-128-128", "epochs": 40, "lr": 0.1, "label_noise": 0.42},
    "options": {"num_samples": 1200},
}
"""1,200 digits, 42 % of their labels redrawn, and a perceptron that can learn them by heart."""
TUNED: dict[str, Any] = {
    "changes": {
        "model": "mlp-128-128",
        "epochs": 30,
        "batch_size": 32,
        "optimizer": "Adam",
        "amsgrad": True,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "schedule": "step",
        "step_epochs": 10,
    },
    "options": {"num_samples": 600},
}
"""600 digits with their own labels, and the optimiser of the recipe of fine-tuning."""
NORMALISED: dict[str, Any] = {
    "changes": {"model": "wrn16-1", "epochs": 30},
    "options": {"num_samples": 200},
}
"""Few digits with their own labels, and BatchNorm in training mode, as in the papers' networks."""
SMALL_RHO, NORMALISED_RHO, PAPER_RHO = 0.2, 0.3, 0.1
CIFAR, IMAGENET, FINETUNE = "cifar10-wrn28-10", "imagenet-resnet50", "finetune-resnet34"


def small(parts: Mapping[str, Any], scale: Mapping[str, Any] = SMALL) -> tuple[Design]:
    """Lay a study out at small scale."""
    own = dict(parts)
    options = {**scale["options"], **own.pop("options", {})}
    return (Design("digits-wrn10-1", **own, changes=scale["changes"], options=options),)


def paper(parts: Mapping[str, Any], *recipes: str) -> tuple[Design, ...]:
    """Lay a study out by the full recipes."""
    return tuple(Design(recipe, **parts) for recipe in recipes)


_ONE = Design(
    "digits-wrn10-1",
    choices={f"β {beta:g}": Choice("β-GELU", beta, {}) for beta in (5.0, 10.0, 20.0, 40.0)}
    | {"relu": Choice("ReLU", 80.0, {})},
    statements=(
        Statement("ReLU's N is 0 at every point off its kinks", (Term(1, "relu", "norm"),), "near"),
        Statement(
            "β-GELU's N lies on ReLU's kinks: its share there exceeds theirs of the plane",
            (Term(1, "β 40", "excess"),),
            "above",
        ),
        Statement(
            "the bands' width goes as 1/β: slope of log area over log β is −1 ± 0.35",
            (
                Term(1 / math.log(8), "β 40", "log-area"),
                Term(-1 / math.log(8), "β 5", "log-area"),
                Term(1, "β 5", "one"),
            ),
            "near",
            0.35,
        ),
    ),
    axis="β",
    shown="area",
    compute=bands,
)

_SGD = Design(
    "digits-wrn10-1",
    choices={f"{kind} {share:g}": Choice(kind, share, {}) for kind in KINDS for share in SHARES},
    statements=tuple(
        Statement(
            f"{kind}, ρ = {share:g} η: the paths part as η^{order}, to a power of 0.3",
            (Term(1, f"{kind} {share:g}", "order"), Term(-order, f"{kind} 0", "one")),
            "near",
            0.3,
        )
        for kind in KINDS
        for share, order in zip(SHARES, (1, 2, 1), strict=True)
    ),
    axis="ρ/η",
    shown="order",
    compute=orders,
)

_RISE, _FALL, _FLAT = (0.0, 0.5, 0.9, 1.0), (0.0, -0.1, -0.5, -1.2), (0.0, 0.0, 0.0, 0.0)

FINDINGS = {
    finding.number: finding
    for finding in (
        Finding(
            1,
            "kinks",
            "ReLU's NME lives on the kinks, β-GELU's in bands of width 1/β",
            f"{DAUPHIN}, fig. 1",
            {"area of the bands": (1.0, 0.5, 0.25, 0.12)},
            {"small": (_ONE,), "paper": (_ONE,)},
        ),
        Finding(
            2,
            "penalty",
            "the gradient penalty helps GELU up to ρ ≈ 0.1 and harms ReLU; equal without it",
            f"{DAUPHIN}, fig. 2",
            {"gelu": _RISE, "relu": _FALL},
            {
                "small": small(penalty_by_rho((0.1, 0.2, 0.5), SMALL_RHO))
                + small(penalty_by_rho((NORMALISED_RHO,), NORMALISED_RHO), NORMALISED),
                "paper": paper(penalty_by_rho(RHOS, PAPER_RHO), CIFAR, IMAGENET),
            },
        ),
        Finding(
            3,
            "beta",
            "at a fixed ρ accuracy falls with β, SGD's does not; large β is worse than ReLU",
            f"{DAUPHIN}, appendix",
            {"penalty": (1.0, 0.7, 0.2, -0.4), "SGD": _FLAT},
            {
                "small": small(penalty_by_beta((1.0, 5.0, 20.0, 100.0), SMALL_RHO)),
                "paper": paper(penalty_by_beta(BETAS, PAPER_RHO), CIFAR, IMAGENET),
            },
        ),
        Finding(
            4,
            "surrogates",
            "ReLU with an added φ'' does as GELU, GELU without its φ'' as ReLU",
            f"{DAUPHIN}, figs. 2 and 3",
            {"augmented relu": _RISE, "diminished gelu": _FALL},
            {
                "small": small(surrogates((SMALL_RHO,), SMALL_RHO)),
                "paper": paper(surrogates(RHOS, PAPER_RHO), CIFAR, IMAGENET),
            },
        ),
        Finding(
            5,
            "traces",
            "penalising tr G beats weight noise, which does as penalising tr H",
            f"{DAUPHIN}, figs. 4 and 5",
            {"GN trace": _RISE, "weight noise": (0.0, 0.2, 0.1, -0.5)},
            {
                "small": small(by_sigma2((1e-3, 1e-2), 1e-2))
                + small(by_sigma2((3e-3,), 3e-3), TUNED),
                "paper": paper(by_sigma2(SIGMA2S, 1e-4), CIFAR, IMAGENET),
            },
        ),
        Finding(
            6,
            "sam",
            "SAM does not mind the activation, the penalty does",
            f"{DAUPHIN}, fig. 2",
            {"SAM, gelu": _RISE, "SAM, relu": _RISE, "penalty, relu": _FALL},
            {
                "small": small(sam_beside_penalty((SMALL_RHO,), SMALL_RHO)),
                "paper": paper(sam_beside_penalty(RHOS, PAPER_RHO), CIFAR, IMAGENET),
            },
        ),
        Finding(
            7,
            "drift",
            "under its penalty tr H drifts negative and unstable; tr G stays near 0 under its own",
            f"{DAUPHIN}, fig. 6",
            {"tr H": (0.1, -0.1, -0.6, -1.0), "tr G": (0.1, 0.05, 0.03, 0.03)},
            {
                "small": small(traces_of_penalties(3e-3, 4)),
                "paper": paper(traces_of_penalties(1e-4, 10), CIFAR),
            },
        ),
        Finding(
            8,
            "sparsity",
            "the fraction of non-zero φ'' falls with β, before and after training",
            f"{DAUPHIN}, appendix",
            {"fraction": (1.0, 0.8, 0.4, 0.1)},
            {
                "small": small(sparsity_by_beta((1.0, 5.0, 20.0, 100.0), 40)),
                "paper": paper(sparsity_by_beta(BETAS, 200), CIFAR),
            },
        ),
        Finding(
            9,
            "ablation",
            "G in the place of H in the penalty's update does worse at every ρ, on GELU",
            f"{DAUPHIN}, appendix",
            {"H": _RISE, "G": (0.0, -0.1, -0.2, -0.4)},
            {
                "small": small(without_nme((0.1, 0.2, 0.5))),
                "paper": paper(without_nme(RHOS), CIFAR, IMAGENET),
            },
        ),
        Finding(
            10,
            "nso",
            "NSO lowers tr H and λ₁ against SGD and weight noise; the gap tracks (σ²/2) tr H",
            f"{ZHANG}, figs. 2 and 3",
            {"SGD": (1.0, 1.0, 1.0, 1.0), "NSO": (1.0, 0.8, 0.6, 0.5)},
            {
                "small": small(noise_stability(3e-3, 8, {"activation": "gelu"}))
                + small(noise_stability(1e-3, 30, {"activation": "gelu"}, read="log"), TUNED),
                "paper": paper(noise_stability(1e-4, 5, {}), FINETUNE),
            },
        ),
        Finding(
            11,
            "sgd",
            "steps η of SGD follow gradient flow with the penalty ρ‖∇L‖² at ρ = η/4",
            f"{DAUPHIN}, appendix B.4; Smith et al. (2021)",
            {"order": (1.0, 2.0, 1.0)},
            {"small": (_SGD,), "paper": (_SGD,)},
        ),
    )
}
"""By number."""


def chosen(names: Sequence[str]) -> list[Finding]:
    """Find findings by number or name; all of them for none.

    Raises:
        InputError: there is none of that name.
    """
    known = {key: f for f in FINDINGS.values() for key in (str(f.number), f.name)}
    for name in names:
        if name not in known:
            raise unknown("finding", name, [f"{f.number} {f.name}" for f in FINDINGS.values()])
    wanted = {known[name].number: known[name] for name in names}
    return [*(wanted or FINDINGS).values()]
