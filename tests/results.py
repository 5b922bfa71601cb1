"""A small result of every kind, as commands make them."""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from msgspec import structs
from torch import nn

import hessdiag
from hessdiag import Blocks, Comparison, Landscape, Report, Sparsity
from hessdiag.comparisons.compare_run import compare_reports
from hessdiag.findings.finding import Statement, Term
from hessdiag.findings.reproduction_result import (
    Point,
    Reproduced,
    Reproduction,
    StudyReport,
)
from hessdiag.findings.reproduction_run import judge
from hessdiag.landscapes import two_weights
from hessdiag.linalg.paired import Difference
from hessdiag.metadata import ModelSpec, Provenance
from hessdiag.nets import activations
from hessdiag.results import Result
from hessdiag.sparsities.sparsity_result import Study, qualified
from hessdiag.training import sweep_result, train_result
from hessdiag.training.sensing import sensing
from hessdiag.training.sensing_result import Sensing, Settings
from tests import runs, sweeps
from tests.cases import BY_NAME, labels, mlp, normal, seeded
from tests.gates import verdict_cases

PROVENANCE = Provenance(
    "run/model.safetensors",
    "c" * 64,
    ModelSpec("mlp-5-4", "beta_gelu", 2.0, 3, (4,)),
    "digits",
    "train",
    "d" * 64,
    5,
)


@functools.cache
def spectrum() -> Report:
    """Complete: with layers and the curvature at a finite radius."""
    model, batches, loss = BY_NAME["mlp-gelu"]
    return hessdiag.spectrum(
        model, batches, loss=loss, num_probes=16, top_k=3, per_layer=True, finite_radius=0.01
    )


@functools.cache
def sparse_spectrum() -> Report:
    """One probe, one part, no density: what can be absent is absent."""
    model, batches, loss = BY_NAME["mlp-tanh-mse"]
    return hessdiag.spectrum(
        model, batches, loss=loss, parts=("nme",), num_probes=1, top_k=0, density=False
    )


@functools.cache
def network(name: str, beta: float | None = None, *, seed: int = 0) -> Sparsity:
    """Look at a perceptron of 5 and 4 neurons with this activation, the blocks of N included."""

    def build() -> nn.Module:
        return mlp(lambda: activations.make(name, beta), 4, 5, 4, 3)  # pyright: ignore

    batches = [(normal(9, 4), labels(9))]
    return hessdiag.sparsity(seeded(build, seed), batches, with_nme=True, num_probes=4)


def sparsity(name: str, *betas: float | None, trained: bool = True) -> Sparsity:
    """Make what the command makes of an activation, alone or by β, before and after training."""
    studies = tuple(
        Study(
            name,
            beta,
            hessdiag.profile(name, beta),
            network(name, beta).network,
            network(name, beta, seed=1).network if trained else None,
        )
        for beta in betas
    )
    return qualified(structs.replace(network(name, betas[0]), activations=studies)).of(PROVENANCE)


@functools.cache
def mixed() -> Sparsity:
    """Look at a network of its own activations, one of which has no closed form."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, 5), nn.Hardswish(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
        )

    return hessdiag.sparsity(seeded(build), [(normal(9, 4), labels(9))])


@functools.cache
def landscape() -> Landscape:
    """Survey the plane of two eigenvectors, with the norms of all of G and N."""
    model, batches, loss = BY_NAME["mlp-gelu"]
    return hessdiag.landscape(
        model, batches, loss=loss, plane="gn", resolution=5, num_probes=3, params="fc*"
    )


@functools.cache
def two_activations() -> Landscape:
    """Survey two weights of a perceptron, ReLU beside β-GELU."""
    return two_weights.compare(resolution=41)


def gappy() -> Landscape:
    """One point is not finite."""
    (surface,) = landscape().surfaces
    loss, nme_norm = surface.loss.copy(), surface.nme_norm.copy()
    loss[0, 1] = nme_norm[0, 1] = np.nan
    return structs.replace(
        landscape(), surfaces=(structs.replace(surface, loss=loss, nme_norm=nme_norm),)
    )


def empty() -> Landscape:
    """Nothing but θ itself is finite; the parts vanish."""
    (surface,) = landscape().surfaces
    nothing = np.full_like(surface.loss, np.nan)
    tables = {"loss": nothing, "gn_norm": nothing, "nme_norm": np.zeros_like(nothing)}
    return structs.replace(landscape(), surfaces=(structs.replace(surface, **tables),))


@functools.cache
def descents(lr: float) -> Sensing:
    """Recover a small matrix by all three methods."""
    return sensing(Settings(6, 2, 12, lr=lr, steps=40, num_pairs=2, dtype="float32", device="cpu"))


@functools.cache
def blocks() -> Blocks:
    """Some layers multiplied out, some sampled."""
    model, batches, loss = BY_NAME["mlp-gelu"]
    return hessdiag.blocks(model, batches, loss=loss, num_probes=14)


@functools.cache
def reproduction() -> Reproduction:
    """Judge made-up numbers: shown, contradicted, not told, and a choice that is not known."""
    numbers = {
        seed: {"a": {"accuracy": 0.5 + 0.01 * seed}, "b": {"accuracy": 0.4}} for seed in (0, 1)
    }
    points = tuple(
        Point(name, name, at, value)
        for name, at, value in (
            ("a", 0.0, Difference.of((0.5, 0.51))),
            ("b", 0.1, Difference.of((0.4,))),
            ("c", 0.2, None),
        )
    )
    statements = tuple(
        judge(Statement(words, (Term(weight, name),), claim, 0.7), numbers, 0.95)
        for words, weight, name, claim in (
            ("a is above 0", 1.0, "a", "above"),
            ("b is below 0", 1.0, "b", "below"),
            ("a is near 0", 10.0, "a", "near"),
            ("c is above 0", 1.0, "c", "above"),
        )
    )
    told = ("recipe", "in a line", "ρ", "accuracy")
    study = StudyReport(*told, 6, 4, 61.5, statements, points, "shown", ("c",))
    sketch = {"a": (0.0, 1.0), "b": (1.0, 0.0)}
    finding = Reproduced(3, "toy", "a beats b", "nobody", sketch, (study,))
    return Reproduction(scale="small", seeds=(0, 1), findings=(finding,))


def comparison() -> Comparison:
    """Two networks that meet the same probes."""
    model, batches, loss = BY_NAME["mlp-gelu"]
    other = seeded(lambda: mlp(nn.GELU, 4, 5, 4, 3), seed=1).eval()
    return hessdiag.compare(model, other, batches, loss=loss, num_probes=16, top_k=3)


@functools.cache
def sparse_comparison() -> Comparison:
    """One probe, one part, no density, no accuracy: what can be absent is absent."""
    model, batches, loss = BY_NAME["mlp-tanh-mse"]
    chosen = {"parts": ("nme",), "num_probes": 1, "top_k": 0, "density": False}
    return hessdiag.compare(model, model, batches, loss=loss, **chosen)


OTHER = replace(PROVENANCE, checkpoint="run/other.safetensors")

RESULTS: dict[str, Callable[[], Result]] = {
    "spectrum": lambda: spectrum().of(PROVENANCE),
    "spectrum, of a network without a name": spectrum,
    "spectrum, sparse": sparse_spectrum,
    "sparsity": lambda: sparsity("beta_gelu", 2.0),
    "sparsity, by β": lambda: sparsity("beta_gelu", 1.0, 5.0, 100.0),
    "sparsity, alone": lambda: sparsity("beta_gelu", 50.0, trained=False),
    "sparsity, without φ''": lambda: sparsity("relu", None, trained=False),
    "sparsity, unbounded": lambda: sparsity("squared_relu", None, trained=False),
    "sparsity, of a network without a name": mixed,
    "landscape": lambda: landscape().of(PROVENANCE),
    "landscape, two activations": two_activations,
    "landscape, with a gap": gappy,
    "landscape, empty": empty,
    "blocks": lambda: blocks().of(PROVENANCE),
    "blocks, of a network without a name": blocks,
    "reproduction": reproduction,
    "train": lambda: train_result.report(runs.finished()),
    "train, bare": lambda: train_result.report(runs.bare()),
    "train, under way": lambda: train_result.unfinished(runs.finished().config, runs.EPOCHS[:2]),
    "sweep": lambda: sweep_result.report(sweeps.complete()),
    "sweep, broken": lambda: sweep_result.report(sweeps.broken()),
    "sweep, of one choice": lambda: sweep_result.report(sweeps.constant()),
    "sensing": lambda: descents(0.01),
    "sensing, diverged": lambda: descents(1.0),
    "gate": lambda: verdict_cases.gate().of(PROVENANCE).on("run/model.safetensors"),
    "gate, of a report": lambda: verdict_cases.gate().on("r.json"),
    "gate, without limits": verdict_cases.gate_of,
    "compare": lambda: comparison().located(PROVENANCE, OTHER),
    "compare, of networks in memory": comparison,
    "compare, of reports": lambda: compare_reports(comparison().a, comparison().b),
    "compare, sparse": sparse_comparison,
}
"""By name; each test of a medium takes all of them."""
