"""Optimizers by name, the learning rate as a function of the step, and a network's start."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from hessdiag.errors import InputError, unknown

if TYPE_CHECKING:
    from hessdiag.training.recipes import Recipe

_OPTIONS = ("momentum", "nesterov", "amsgrad", "weight_decay")
_REFUSED = {
    "LBFGS": "it evaluates the loss several times a step, through a closure",
    "SparseAdam": "it takes sparse gradients only",
}
OPTIMIZERS = tuple(
    name
    for name, value in sorted(vars(torch.optim).items(), key=lambda item: item[0].lower())
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer
    and name not in _REFUSED
)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def find(name: str) -> type[torch.optim.Optimizer]:
    """Look up a class of torch.optim; upper and lower case are one.

    Raises:
        InputError: there is none of that name, or none that steps along a given dense gradient.
    """
    named = {known.lower(): known for known in (*OPTIMIZERS, *_REFUSED)}
    if name.lower() not in named:
        raise unknown("optimizer", name, OPTIMIZERS)
    name = named[name.lower()]
    if name in _REFUSED:
        raise InputError(
            f"the optimizer {name} cannot be used", got=_REFUSED[name], wanted=", ".join(OPTIMIZERS)
        )
    return getattr(torch.optim, name)


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Make the recipe's optimizer over the weights of ``model`` that are trained.

    Of momentum, Nesterov, AMSGrad and weight decay it is given those that its class has; Nesterov
    needs a momentum. Its learning rate is ``recipe.lr``, to be set anew before every step.

    Args:
        recipe: names the optimizer and its options.
        model: on its device; where BatchNorm and biases do not decay, they are a second group.

    Returns:
        An optimizer without state.

    Raises:
        InputError: an unknown optimizer, one that cannot be used, or one that refuses its options
            or these weights; nothing to train.
    """
    kind = find(recipe.optimizer)
    groups = _groups(model, decay_all=recipe.decay_norm_and_bias)
    taken = inspect.signature(kind).parameters
    options: dict[str, Any] = {name: getattr(recipe, name) for name in _OPTIONS if name in taken}
    if "nesterov" in options:
        options["nesterov"] = recipe.nesterov and recipe.momentum > 0
    try:
        return kind(groups, lr=recipe.lr, **options)  # pyright: ignore[reportCallIssue]
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"the optimizer {kind.__name__} refuses its options or this network", got=error
        ) from error


def adaptive_scale(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensor | None:
    """Compute √v̂ + ε of the next step of an optimizer such as Adam, by the weights that it trains.

    With AMSGrad v̂ is the largest so far.

    Returns:
        Flat ``(n,)``, in the model's order and in float64; None of other optimizers, and before
        their first step.
    """
    scales: list[Tensor] = []
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        memory, group = optimizer.state[parameter], groups[id(parameter)]
        moment = memory.get("max_exp_avg_sq", memory.get("exp_avg_sq"))
        if moment is None or "betas" not in group:
            return None
        correction = 1 - group["betas"][1] ** float(memory["step"])
        scales.append((moment.double() / correction).sqrt().flatten() + group["eps"])
    return torch.cat(scales)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Compute the learning rate of a step, η(t); so resuming needs no state of a scheduler.

    With T steps in all, W of warm-up, peak η and start s = ``warmup_factor``::

        t < W:      η(t) = η (s + (1 − s) t/W)           × the step factors below
        cosine:     η(t) = η ½ (1 + cos π (t − W)/(T − W))
        step:       η(t) = η · factorᵏ,  k = ⌊epoch / step_epochs⌋
        constant:   η(t) = η

    Epochs count from the start of the run, warm-up included. Where warm-up is longer than the run,
    the peak is not reached.

    Args:
        recipe: schedule.
        step: t, from 0 to T − 1.
        steps_per_epoch: T / epochs.

    Source:
        Loshchilov & Hutter, "SGDR" (2017), eq. 5, without restarts; Goyal et al. (2018), 2.2.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    rate = recipe.lr
    if recipe.schedule == "step":
        rate *= recipe.step_factor ** (step // steps_per_epoch // recipe.step_epochs)
    if step < warmup:
        return rate * (recipe.warmup_factor + (1 - recipe.warmup_factor) * step / warmup)
    if recipe.schedule == "cosine":
        total = recipe.epochs * steps_per_epoch
        rate *= (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return rate


def initialise(recipe: Recipe, model: nn.Module, seed: int = 0) -> None:
    """Set what the recipe says of a fresh network's start, in place.

    ``zero_gamma`` sets γ of the last BatchNorm of every residual block to 0, so that every block
    starts as the identity; ``head_std`` draws the weight of the classifier, the last linear layer,
    from N(0, head_std²). Everything else, its bias too, stays.

    Args:
        recipe: the two choices.
        model: in any mode, on any device; the draw is the same on all.
        seed: of the draw.

    Raises:
        InputError: the network has no such block, or no linear layer.

    Source:
        Goyal et al., "Accurate, Large Minibatch SGD" (2018), section 5.1.
    """
    if recipe.zero_gamma:
        scales = _last_scales(model)
        if not scales:
            raise InputError(
                "`zero_gamma` needs residual blocks that end in BatchNorm",
                got=f"the network {recipe.model}, which has none",
                wanted="one of torchvision's ResNets",
                hint="set zero_gamma = false",
            )
        for scale in scales:
            nn.init.zeros_(scale)
    if recipe.head_std is not None:
        heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if not heads:
            raise InputError(
                "`head_std` needs a classifier that is a linear layer",
                got=f"the network {recipe.model}, which has none",
                hint="leave head_std out",
            )
        weight = heads[-1].weight
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            weight.copy_(drawn * recipe.head_std)


def _groups(model: nn.Module, *, decay_all: bool) -> list[dict[str, Any]]:
    """Group the trained weights, in the model's order: what decays, then what does not."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise InputError("the network has no weights to train")
    spared: set[int] = set()
    if not decay_all:
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                if name == "bias" or isinstance(module, _NORMS):
                    spared.add(id(weight))
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if id(weight) not in spared]},
        {"params": [weight for weight in weights if id(weight) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _last_scales(model: nn.Module) -> list[Tensor]:
    """Find γ of the BatchNorm that ends each residual block of torchvision's ResNets."""
    from torchvision.models import resnet  # slow to import, and most networks do without

    ends: list[nn.Module] = [
        module.bn3 if isinstance(module, resnet.Bottleneck) else module.bn2
        for module in model.modules()
        if isinstance(module, resnet.Bottleneck | resnet.BasicBlock)
    ]
    return [end.weight for end in ends if isinstance(end, _NormBase) and end.affine]
