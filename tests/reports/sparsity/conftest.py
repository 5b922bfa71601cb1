"""One study of each kind, and what can be odd in them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from hessdiag.metadata import ModelSpec, Provenance
from hessdiag.nets import activations
from hessdiag.nets.profiles import profile
from hessdiag.sparsities.sparsity_run import Sparsity, sparsity
from hessdiag.sparsities.studies import Study
from tests.cases import labels, mlp, normal, seeded

HOSTILE = "[red]a[/red] [/] \x1b[31mb\x07\\"
BATCHES = [(normal(9, 4), labels(9))]


def network(name: str, beta: float | None = None, *, seed: int = 0, with_nme: bool = False):
    def build() -> nn.Module:
        return mlp(lambda: activations.make(name, beta), 4, 5, 4, 3)  # pyright: ignore

    return sparsity(seeded(build, seed), BATCHES, with_nme=with_nme, num_probes=4)


def make(name: str, beta: float | None = None, *, trained: bool = False) -> Study:
    initial = network(name, beta, with_nme=trained)
    after = network(name, beta, seed=1, with_nme=True) if trained else None
    return Study(name, beta, profile(name, beta), initial, after)


@pytest.fixture(scope="session")
def alone() -> list[Study]:
    return [make("beta_gelu", 50.0)]


@pytest.fixture(scope="session")
def sweep() -> list[Study]:
    return [make("beta_gelu", beta, trained=True) for beta in (1.0, 5.0, 100.0)]


@pytest.fixture(scope="session")
def checkpoint() -> list[Study]:
    return [make("beta_gelu", 2.0, trained=True)]


@pytest.fixture(scope="session")
def mixed() -> list[Study]:
    """A network that chooses for itself, with a function that has no closed form."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, 5), nn.Hardswish(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
        )

    found = sparsity(seeded(build), BATCHES)
    return [Study(None, None, None, found, found)]


@pytest.fixture(scope="session")
def hostile(checkpoint: list[Study]) -> list[Study]:
    """Names that are markup and steer terminals."""

    def spoil(found: Sparsity | None) -> Sparsity:
        assert found is not None
        assert found.block_norms is not None
        first, *rest = found.calls
        first = replace(first, name=HOSTILE, function=HOSTILE, layers=(HOSTILE,), closed_form=False)
        norms = {HOSTILE: next(iter(found.block_norms.values()))}
        return replace(found, calls=(first, *rest), block_norms=norms, notes=(HOSTILE,))

    (study,) = checkpoint
    return [replace(study, initial=spoil(study.initial), trained=spoil(study.trained))]


@pytest.fixture
def evil(provenance: Provenance) -> Provenance:
    model = ModelSpec(HOSTILE, "beta_gelu", 2.0)
    return replace(provenance, model=model, data=HOSTILE, checkpoint=HOSTILE)
