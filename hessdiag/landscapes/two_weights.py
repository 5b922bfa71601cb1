"""Two weights of one hidden layer: where the NME lives, for one activation beside another.

A perceptron with two hidden layers sees one example; the plane is spanned by a weight of each of
two neurons of its first layer. With ReLU the output is piecewise linear in them, so N vanishes
away from the kinks; with β-GELU it fills bands of width 1/β along those.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hessdiag.curvature.memory import peak_bytes
from hessdiag.landscapes.landscape_result import (
    Array,
    Axes,
    Landscape,
    LandscapeCost,
    LandscapePlane,
    LandscapeSettings,
    Point,
    Surface,
    qualified,
)
from hessdiag.landscapes.surfaces import finite_or_nan, make_axis
from hessdiag.metadata import ModelSpec
from hessdiag.nets import models
from hessdiag.nets.models import MLP
from hessdiag.progress import Progress, Watch
from hessdiag.results import CheckpointOrigin, DataOrigin, LossName
from hessdiag.seeds import stream

Choice = tuple[str, float | None]
"""An activation's name, and its β where it takes one."""

DEFAULT = (("relu", None), ("beta_gelu", 10.0))
INPUT = (1.5, 1.5)
TARGET = -1.5
WEIGHTS = ("layers.0.weight[0,0]", "layers.0.weight[1,1]")
_ENTRIES = ((0, 0), (1, 1))  # neuron and input of the two weights
_WIDTHS = (2, 8, 8, 1)
_DRAW = 83  # with which ReLU's plane shows kinks of both layers
_CHUNK = 1 << 14  # points evaluated at once: some ten MiB
_LOSS = "mse"


def compare(
    choices: Sequence[Choice] = DEFAULT,
    *,
    resolution: int = 161,
    radius: float = 1.0,
    seed: int = 0,
    on_point: Watch | None = None,
) -> Landscape:
    """Survey loss, ‖G‖_F and ‖N‖_F of the two weights, one surface for each activation.

    All are exact: ``G = 2 ∇z ∇zᵀ`` and ``N = 2 (z − y) ∇²z`` are 2 × 2, of the loss (z − y)².

    Cost: three vectorised backward passes over the grid; 161² points take a tenth of a second.

    Args:
        choices: activations and their β.
        resolution: points a side.
        radius: both weights move by up to this much.
        seed: of the network's weights.
        on_point: called after each chunk with the points done and to do.

    Returns:
        Landscape in float64 on the CPU.

    Raises:
        InputError: unknown activation, β or grid out of range.

    Source: Dauphin, Agarwala and Mobahi (2024), fig. 1.
    """
    began = time.perf_counter()
    axis = make_axis(resolution, radius, num_values=3 * len(choices))
    networks = [make_network(name, beta, seed=seed) for name, beta in choices]
    a, b = np.meshgrid(axis, axis, indexing="ij")
    grid = torch.from_numpy(np.stack([a.ravel(), b.ravel()], axis=1))
    num_points = len(choices) * len(grid)
    surfaces: list[Surface] = []
    for (name, beta), network in zip(choices, networks, strict=True):
        rows: list[Array] = []
        for chunk in grid.split(_CHUNK):
            rows.append(evaluate(network, chunk))
            if on_point is not None:
                done = len(surfaces) * len(grid) + sum(map(len, rows))
                on_point(Progress(done, num_points, f"point {done}"))
        loss, gn_norm, nme_norm = np.concatenate(rows).T.reshape(3, resolution, resolution)
        origin = Point(*evaluate(network, torch.zeros(1, 2, dtype=grid.dtype))[0].tolist())
        surfaces.append(Surface(name, beta, origin, loss, gn_norm, nme_norm))
    count = sum(tensor.numel() for tensor in networks[0].parameters())
    found = Landscape(
        checkpoint=CheckpointOrigin(num_parameters=count),
        data=DataOrigin(num_samples=1),
        risk=LossName(_LOSS),
        settings=LandscapeSettings(
            resolution=resolution,
            radius=float(radius),
            num_probes=0,
            seed=seed,
            dtype="float64",
            device="cpu",
            bn="eval",
        ),
        span=LandscapePlane("weights", WEIGHTS),
        axes=Axes(axis, axis),
        surfaces=tuple(surfaces),
        cost=LandscapeCost(
            time.perf_counter() - began, num_points, peak_bytes(torch.device("cpu"))
        ),
    )
    return qualified(found)


def make_network(activation: str, beta: float | None = None, *, seed: int = 0) -> MLP:
    """Make the perceptron in float64; activations differ, weights do not.

    Raises:
        InputError: unknown activation, or a β that is missing, out of range or not wanted.
    """
    num_inputs, *hidden, num_outputs = _WIDTHS
    name = "-".join(map(str, ("mlp", *hidden)))
    spec = ModelSpec(name, activation, beta, num_outputs, (num_inputs,))
    network = models.build(spec).double()
    assert isinstance(network, MLP)
    generator = torch.Generator().manual_seed(stream(seed, "two weights", _DRAW))
    with torch.no_grad():
        for key, tensor in network.named_parameters():
            draw = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            first = key == "layers.0.weight"
            scale = 0.3 if tensor.ndim == 1 else 1.0 if first else (2 / tensor.shape[1]) ** 0.5
            tensor.copy_(scale * draw)
    return network


def evaluate(network: MLP, steps: Tensor) -> Array:
    """Compute loss, ‖G‖_F and ‖N‖_F where the two weights are moved by ``steps``.

    The points are independent, so one backward pass of a sum gives the derivatives at all of them.

    Args:
        network: from :func:`make_network`.
        steps: ``(P, 2)`` float64 displacements.

    Returns:
        ``(P, 3)``; NaN where not finite.
    """
    with torch.enable_grad():
        moved = steps.detach().requires_grad_()
        z = network.layers[1:](_first_layer(network, moved))[:, 0]
        (slope,) = torch.autograd.grad(z.sum(), moved, create_graph=True)
        curvature = [
            torch.autograd.grad(column.sum(), moved, retain_graph=True, materialize_grads=True)[0]
            if slope.requires_grad  # not where the activation's derivative counts as constant
            else torch.zeros_like(moved)
            for column in slope.unbind(1)
        ]
    z, slope = z.detach(), slope.detach()
    gn_norm = 2 * slope.square().sum(1)
    nme_norm = 2 * (z - TARGET).abs() * torch.stack(curvature, 1).flatten(1).norm(dim=1)
    values = torch.stack([(z - TARGET).square(), gn_norm, nme_norm], dim=1)
    return finite_or_nan(values.numpy())


def switches(network: MLP, steps: Tensor) -> Tensor:
    """Tell which neurons of both hidden layers are on: ``(P, 16)`` truth values."""
    with torch.no_grad():
        first = _first_layer(network, steps)
        return torch.cat([first, network.layers[1:3](first)], 1) > 0


def _first_layer(network: MLP, steps: Tensor) -> Tensor:
    """Compute the first layer's neurons before their activation, ``(P, 8)``."""
    x = torch.tensor(INPUT, dtype=steps.dtype)
    lift = torch.zeros(2, _WIDTHS[1], dtype=steps.dtype)  # what a step does to the neurons' inputs
    for row, (neuron, column) in zip(lift, _ENTRIES, strict=True):
        row[neuron] = x[column]
    return network.layers[0](x).detach() + steps @ lift
