"""One small report, complete with layers, to be laid out in every form."""

import pytest

import hessdiag
from hessdiag import Report
from hessdiag.metadata import ModelSpec, Provenance
from tests.cases import BY_NAME


@pytest.fixture(scope="session")
def report() -> Report:
    model, batches, loss = BY_NAME["mlp-gelu"]
    return hessdiag.spectrum(
        model, batches, loss=loss, num_probes=8, top_k=3, per_layer=True, finite_radius=0.01
    )


@pytest.fixture(scope="session")
def sparse_report() -> Report:
    """One probe, one part, no density: what can be absent is absent."""
    model, batches, loss = BY_NAME["mlp-tanh-mse"]
    return hessdiag.spectrum(
        model, batches, loss=loss, parts=("nme",), num_probes=1, top_k=0, density=False
    )


@pytest.fixture(scope="session")
def provenance() -> Provenance:
    model = ModelSpec("mlp-5-4", "beta_gelu", 2.0, 3, (4,))
    return Provenance("run/model.safetensors", "c" * 64, model, "digits", "train", "d" * 64, 5)
