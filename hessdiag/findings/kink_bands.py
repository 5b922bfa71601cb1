"""Finding 1 in numbers: where over two weights the NME lies, for ReLU and for β-GELU."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_RESOLUTION = 161
_RADIUS = 1.0
_LOW = 0.1  # of the largest norm: what belongs to a band
_NEAR = 3  # cells of the grid, around a kink

BETAS = (5.0, 10.0, 20.0, 40.0)


def bands(seed: int) -> Mapping[str, Mapping[str, float]]:
    """Survey the plane of :mod:`hessdiag.landscapes.two_weights` for ReLU and four β.

    Returns:
        By choice: "norm", the largest ‖N‖_F; "area", the share of points whose norm exceeds a tenth
        of it, and its logarithm "log-area"; "excess", the share of ‖N‖_F near ReLU's kinks less the
        share of the plane that is near them; "one", 1.
    """
    from scipy import ndimage

    from hessdiag.landscapes import two_weights

    choices = [("relu", None), *(("beta_gelu", beta) for beta in BETAS)]
    survey = two_weights.compare(choices, resolution=_RESOLUTION, radius=_RADIUS, seed=seed)
    near = ndimage.binary_dilation(kinks(seed), iterations=_NEAR)
    found: dict[str, Mapping[str, float]] = {}
    for surface in survey.surfaces:
        norm = surface.nme_norm
        largest, total = float(norm.max()), float(norm.sum())
        area = float(np.mean(norm > _LOW * largest)) if largest else 0.0
        name = "relu" if surface.beta is None else f"β {surface.beta:g}"
        found[name] = {
            "norm": largest,
            "area": area,
            "log-area": math.log(area) if area else -math.inf,
            "excess": float(norm[near].sum()) / total - float(near.mean()) if total else 0.0,
            "one": 1.0,
        }
    return found


def kinks(seed: int) -> NDArray[np.bool_]:
    """Mark the points of the grid beside which a ReLU switches: ``(r, r)`` truth values."""
    import torch

    from hessdiag.landscapes import two_weights

    network = two_weights.make_network("relu", seed=seed)
    axis = np.linspace(-_RADIUS, _RADIUS, _RESOLUTION)
    grid = torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1))
    signs = two_weights.switches(network, grid.reshape(-1, 2)).reshape(*grid.shape[:2], -1)
    pattern = signs.numpy()
    marked = np.zeros(pattern.shape[:2], dtype=bool)
    across = (pattern[1:] != pattern[:-1]).any(-1)
    up = (pattern[:, 1:] != pattern[:, :-1]).any(-1)
    for half, place in ((across, np.s_[1:, :]), (across, np.s_[:-1, :])):
        marked[place] |= half
    for half, place in ((up, np.s_[:, 1:]), (up, np.s_[:, :-1])):
        marked[place] |= half
    return marked
