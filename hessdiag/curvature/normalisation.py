"""Normalisation layers composed of elementary operations.

They have derivatives of every order, and batch statistics over the examples of all processes.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hessdiag.linalg import processes


class ComposedNormalisation(TorchFunctionMode):
    """Within the block, BatchNorm, InstanceNorm and LayerNorm have third derivatives.

    Torch's BatchNorm by the batch refuses a third derivative, and its LayerNorm has a wrong one
    (torch 2.15: 8 to 102 % of a Hessian-trace step off). A plain step is some 5 % slower so.
    With several processes the batch of BatchNorm is all of theirs together.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (F.batch_norm, F.instance_norm, F.layer_norm):
            return func(*args, **kwargs)
        call = inspect.signature(func).bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        x: Tensor = given["input"]
        weight, bias, eps = given["weight"], given["bias"], given["eps"]
        if func is F.layer_norm:
            dims = tuple(range(x.ndim - len(given["normalized_shape"]), x.ndim))
            return _scaled(_standardised(x, x.mean(dims, keepdim=True), dims, eps), weight, bias)
        per_batch = func is F.batch_norm
        if not given["training" if per_batch else "use_input_stats"]:
            return func(*args, **kwargs)  # affine: all its derivatives are right
        spatial = tuple(range(2, x.ndim))
        shape = (1, -1) + (1,) * len(spatial)
        if per_batch:
            y = _by_batch(given, (0, *spatial))
        else:
            if given["running_mean"] is not None:
                with torch.no_grad():  # moves the running statistics as ever
                    func(*args, **kwargs)
            y = _standardised(x, x.mean(spatial, keepdim=True), spatial, eps)
        return _scaled(
            y,
            None if weight is None else weight.view(shape),
            None if bias is None else bias.view(shape),
        )


def batch_mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Average over ``dims`` of x and over the processes; the averaged dimensions stay, as 1."""
    return _batch_mean(x, dims)[0]


def _batch_mean(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Compute the mean and the number of elements behind each of its entries, in one exchange."""
    size = x.new_tensor([math.prod(x.shape[dim] for dim in dims)])
    if processes.count() == 1:
        return x.mean(dims, keepdim=True), size
    sums = x.sum(dims, keepdim=True)
    both = processes.total(torch.cat([sums.flatten(), size]))
    return (both[:-1] / both[-1]).view_as(sums), both[-1:].detach()


def _by_batch(given: dict[str, Any], dims: tuple[int, ...]) -> Tensor:
    """Standardise by the batch's moments, and move the running ones as torch does."""
    x: Tensor = given["input"]
    mean, size = _batch_mean(x, dims)
    centred = x - mean
    variance = batch_mean(centred.square(), dims)
    if given["running_mean"] is not None:
        moments = {"running_mean": mean, "running_var": variance * (size / (size - 1))}
        with torch.no_grad():
            for name, moment in moments.items():
                given[name].lerp_(moment.flatten().to(given[name]), given["momentum"])
    return centred * torch.rsqrt(variance + given["eps"])


def _standardised(x: Tensor, mean: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - mean
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
