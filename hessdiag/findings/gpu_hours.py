"""What a study costs, before it is run: runs, steps, images and hours of a GPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from hessdiag import factories
from hessdiag.findings.finding import Design
from hessdiag.findings.reproduction_run import Plan
from hessdiag.metadata import ModelSpec
from hessdiag.nets import models
from hessdiag.training.run_config import Config

SUSTAINED = 40e12
"""Operations a second that a large GPU is taken to sustain in float32 with TF32: an assumption."""

_SIZES: dict[str, tuple[int, int, tuple[int, ...]]] = {  # training images, classes, shape
    "digits": (1442, 10, (1, 8, 8)),
    "cifar10": (50_000, 10, (3, 32, 32)),
    "cifar100": (50_000, 100, (3, 32, 32)),
    "mnist": (60_000, 10, (1, 28, 28)),
    "fashion-mnist": (60_000, 10, (1, 28, 28)),
    "imagenet": (1_281_167, 1000, (3, 224, 224)),
}
_FOLDER = (5_000, 100, (3, 224, 224))
"""What a folder is taken to hold, as its size is not known before it is read."""


@dataclass(frozen=True)
class Estimate:
    """What one run takes.

    Attributes:
        choice: its name.
        steps: of the optimiser.
        images: seen in all.
        hours: of a GPU that sustains :data:`SUSTAINED`; tracking not counted.
    """

    choice: str
    steps: int
    images: int
    hours: float


def estimates(plan: Plan, design: Design) -> Iterator[Estimate]:
    """Estimate each choice's run of one seed.

    ``3 × forward × cost × images / SUSTAINED``, the method's ideal cost in gradients.
    """
    for name, config in plan.configs(design, plan.seeds[0]).items():
        recipe = config.recipe
        stored, classes, shape = _SIZES.get(recipe.data, _FOLDER)
        available = min(config.num_samples or stored, stored)
        trained = available - round(recipe.validation * available)
        steps = recipe.epochs * -(-trained // recipe.batch_size)
        images = recipe.epochs * trained
        work = 3 * _forward(_spec(config, classes, shape)) * config.method.cost * images
        yield Estimate(name, steps, images, work / SUSTAINED / 3600)


def _spec(config: Config, classes: int, shape: tuple[int, ...]) -> ModelSpec:
    recipe = config.recipe
    arguments = factories.arguments(recipe.model_arg)
    return ModelSpec(recipe.model, recipe.activation, recipe.beta, classes, shape, arguments)


@functools.cache
def _forward(spec: ModelSpec) -> int:
    """Count the operations of one image's forward pass, on no data."""
    assert spec.input_shape is not None
    with torch.device("meta"):
        model = models.skeleton(spec).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, *spec.input_shape))
    return counter.get_total_flops()
