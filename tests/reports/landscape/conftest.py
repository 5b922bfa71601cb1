"""Two small landscapes: two activations side by side, and a network with full norms and gaps."""

from dataclasses import replace

import numpy as np
import pytest

import hessdiag
from hessdiag import Landscape
from hessdiag.landscapes import two_weights
from tests.cases import BY_NAME


@pytest.fixture(scope="session")
def pair() -> Landscape:
    return two_weights.compare(resolution=41)


@pytest.fixture(scope="session")
def single() -> Landscape:
    model, batches, loss = BY_NAME["mlp-gelu"]
    return hessdiag.landscape(
        model, batches, loss=loss, plane="gn", resolution=5, num_probes=3, params="fc*"
    )


@pytest.fixture(scope="session")
def gappy(single: Landscape) -> Landscape:
    """The same with one point that is not finite."""
    (surface,) = single.surfaces
    loss, nme_norm = surface.loss.copy(), surface.nme_norm.copy()
    loss[0, 1] = nme_norm[0, 1] = np.nan
    surface = replace(surface, loss=loss, nme_norm=nme_norm)
    return replace(single, surfaces=(surface,), notes=("the loss is not finite at 1 of 25: null",))


@pytest.fixture(scope="session")
def empty(single: Landscape) -> Landscape:
    """Nothing but θ itself is finite; the parts vanish."""
    (surface,) = single.surfaces
    nothing = np.full_like(surface.loss, np.nan)
    surface = replace(surface, loss=nothing, gn_norm=nothing, nme_norm=np.zeros_like(nothing))
    return replace(single, surfaces=(surface,))
