"""One comparison of two small networks, and one of their reports, to be laid out in every form."""

from dataclasses import replace

import pytest
from torch import nn

import hessdiag
from hessdiag import Comparison
from hessdiag.comparisons.comparison_run import compare_reports
from hessdiag.metadata import Provenance
from hessdiag.reports.comparison.schema import Provenances
from tests.cases import BY_NAME, mlp, seeded


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    model, batches, loss = BY_NAME["mlp-gelu"]
    other = seeded(lambda: mlp(nn.GELU, 4, 5, 4, 3), seed=1).eval()
    return hessdiag.compare(model, other, batches, loss=loss, num_probes=16, top_k=3)


@pytest.fixture(scope="session")
def unpaired(comparison: Comparison) -> Comparison:
    return compare_reports(comparison.a, comparison.b)


@pytest.fixture(scope="session")
def sparse() -> Comparison:
    """One probe, one part, no density, no accuracy: what can be absent is absent."""
    model, batches, loss = BY_NAME["mlp-tanh-mse"]
    chosen = {"parts": ("nme",), "num_probes": 1, "top_k": 0, "density": False}
    return hessdiag.compare(model, model, batches, loss=loss, **chosen)


@pytest.fixture(scope="session")
def provenances(provenance: Provenance) -> Provenances:
    return provenance, replace(provenance, checkpoint="run/other.safetensors")
