"""A small result of every kind, as commands make them."""

import functools
from collections.abc import Callable

import hessdiag
from hessdiag import Report
from hessdiag.metadata import ModelSpec, Provenance
from hessdiag.results import Result
from tests.cases import BY_NAME

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
        model, batches, loss=loss, num_probes=8, top_k=3, per_layer=True, finite_radius=0.01
    )


@functools.cache
def sparse_spectrum() -> Report:
    """One probe, one part, no density: what can be absent is absent."""
    model, batches, loss = BY_NAME["mlp-tanh-mse"]
    return hessdiag.spectrum(
        model, batches, loss=loss, parts=("nme",), num_probes=1, top_k=0, density=False
    )


RESULTS: dict[str, Callable[[], Result]] = {
    "spectrum": lambda: spectrum().of(PROVENANCE),
    "spectrum, of a network without a name": spectrum,
    "spectrum, sparse": sparse_spectrum,
}
"""By name; each test of a medium takes all of them."""
