"""Functions of torch whose own derivatives are wrong or missing, composed of elementary operations.

One table, whoever calls them: modules, ``F.layer_norm`` or ``torch.layer_norm``, hooks.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import (
    TorchFunctionMode,
    handle_torch_function,
    has_torch_function_unary,
)

from hessdiag.errors import InputError
from hessdiag.linalg import processes


class Composed(TorchFunctionMode):
    """Within the block, what a network computes has right derivatives of the order asked for.

    Of second order (torch 2.15): ``_weight_norm`` has wrong ones, ``hardsigmoid``, embedding bags
    and sparse embeddings have none. Of third order, BatchNorm by the batch has none and LayerNorm
    wrong ones (8 to 102 % of a Hessian-trace step off); a plain step is some 5 % slower with both
    composed. BatchNorm by running statistics is composed because it is cheaper: an affine map, it
    saves 3 % of all three products of a WideResNet. With several processes the batch of BatchNorm
    is all of theirs together, if of third order.

    Args:
        order: 2 or 3.
    """

    def __init__(self, order: int = 2) -> None:
        super().__init__()
        self.order = order

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = _arguments(func, args, kwargs)
        if given is None:
            return func(*args, **kwargs)
        order, compose = _TABLE[func.__name__]
        result = compose(given, self.order >= order)
        if result is None:
            return func(*args, **kwargs)
        return given["input"].copy_(result) if given.get("inplace") else result


def batch_mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Average over ``dims`` of x and over the processes; the averaged dimensions stay, as 1."""
    return _batch_mean(x, dims)[0]


def running_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise by running statistics, an affine map; modes see one function, not its inside."""
    if has_torch_function_unary(x):
        given = (x, mean, variance, weight, bias)
        return handle_torch_function(running_norm, (x,), *given, eps=eps)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else weight * scale
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return x * scale.view(shape) + shift.view(shape)


def _batch_mean(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Compute the mean and the number of elements behind each of its entries, in one exchange."""
    size = x.new_tensor([math.prod(x.shape[dim] for dim in dims)])
    if processes.count() == 1:
        return x.mean(dims, keepdim=True), size
    sums = x.sum(dims, keepdim=True)
    both = processes.total(torch.cat([sums.flatten(), size]))
    return (both[:-1] / both[-1]).view_as(sums), both[-1:].detach()


# each takes the arguments of a call by name, and gives None where torch's own function serves


def _batch_norm(given: dict[str, Any], by_batch: bool) -> Tensor | None:
    x: Tensor = given["input"]
    mean, variance = given["running_mean"], given["running_var"]
    if not given["training"] and mean is None:
        return None
    if not given["training"]:
        return running_norm(x, mean, variance, given["weight"], given["bias"], eps=given["eps"])
    if not by_batch:
        return None
    weight, bias = (_by_channel(given[name], x.ndim) for name in ("weight", "bias"))
    dims = (0, *range(2, x.ndim))
    own_mean, size = _batch_mean(x, dims)
    centred = x - own_mean
    own_variance = batch_mean(centred.square(), dims)
    if mean is not None:
        moments = ((mean, own_mean), (variance, own_variance * (size / (size - 1))))
        with torch.no_grad():  # the running moments move as torch moves them
            for running, moment in moments:
                running.lerp_(moment.flatten().to(running), given["momentum"])
    return _scaled(centred * torch.rsqrt(own_variance + given["eps"]), weight, bias)


def _instance_norm(given: dict[str, Any], by_batch: bool) -> Tensor | None:
    if not given["use_input_stats"] or not by_batch:
        return None  # affine, or right to second order
    x: Tensor = given["input"]
    if given["running_mean"] is not None:
        with torch.no_grad():  # moves the running statistics as ever
            F.instance_norm(
                x, given["running_mean"], given["running_var"], momentum=given["momentum"]
            )
    weight, bias = (_by_channel(given[name], x.ndim) for name in ("weight", "bias"))
    return _scaled(_standardised(x, tuple(range(2, x.ndim)), given["eps"]), weight, bias)


def _layer_norm(given: dict[str, Any], composed: bool) -> Tensor | None:
    if not composed:
        return None
    x: Tensor = given["input"]
    dims = tuple(range(x.ndim - len(given["normalized_shape"]), x.ndim))
    return _scaled(_standardised(x, dims, given["eps"]), given["weight"], given["bias"])


def _weight_norm(given: dict[str, Any], _: bool) -> Tensor:
    """Compute ``g v/‖v‖``, the norm over all dimensions but one."""
    v, g, dim = given["v"], given["g"], given["dim"]
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _embedding(given: dict[str, Any], _: bool) -> Tensor | None:
    if given["scale_grad_by_freq"]:
        raise InputError(
            "an embedding scales its gradient, which is then no derivative",
            got="scale_grad_by_freq=True",
            wanted="scale_grad_by_freq=False",
        )
    if not given["sparse"]:
        return None
    if given.get("max_norm") is not None:
        with torch.no_grad():
            torch.embedding_renorm_(
                given["weight"], given["input"].contiguous(), given["max_norm"], given["norm_type"]
            )
    return F.embedding(given["input"], given["weight"], given["padding_idx"])


def _embedding_bag(given: dict[str, Any], _: bool) -> Tensor | None:
    """Sum, average or maximise embeddings over bags of equal or given lengths."""
    tokens, offsets, weights = given["input"], given["offsets"], given["per_sample_weights"]
    padding, mode, width = given["padding_idx"], given["mode"], given["weight"].shape[1]
    options = {name: given[name] for name in ("max_norm", "norm_type", "scale_grad_by_freq")}
    x = F.embedding(tokens, given["weight"], **options).reshape(-1, width)
    if tokens.ndim == 2:
        offsets = torch.arange(0, tokens.numel(), tokens.shape[1], device=tokens.device)
    elif given["include_last_offset"]:
        offsets = offsets[:-1]
    places = torch.arange(len(x), device=x.device)
    bags = torch.searchsorted(offsets.to(places), places, right=True) - 1
    counted = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if padding is not None:
        counted = tokens.flatten() != padding % len(given["weight"])
    bags, x = bags[counted], x[counted]
    if weights is not None:
        x = x * weights.flatten()[counted, None]
    if mode == "max":
        reached = x.new_zeros(len(offsets), width)
        return reached.scatter_reduce(0, bags[:, None].expand_as(x), x, "amax", include_self=False)
    total = x.new_zeros(len(offsets), width).index_add(0, bags, x)
    if mode == "sum":
        return total
    sizes = torch.bincount(bags, minlength=len(offsets)).clamp(min=1)
    return total / sizes[:, None]


def _grouped_mm(given: dict[str, Any], _: bool) -> Tensor | None:
    """Multiply rows by the matrix of their group; torch's own knows no float64."""
    x, matrices, ends = given["mat_a"], given["mat_b"], given["offs"]
    if x.dtype != torch.float64 or x.ndim != 2 or matrices.ndim != 3:
        return None
    groups = torch.tensor_split(x, ends[:-1].cpu().long())
    return torch.cat([rows @ matrix for rows, matrix in zip(groups, matrices, strict=True)])


def _hard_sigmoid(given: dict[str, Any], _: bool) -> Tensor:
    return F.hardtanh(given["input"] / 6 + 0.5, 0.0, 1.0)


# what they are made of


def _standardised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _by_channel(tensor: Tensor | None, num_dims: int) -> Tensor | None:
    return None if tensor is None else tensor.view(1, -1, *(1,) * (num_dims - 2))


_TABLE: dict[str, tuple[int, Callable[[dict[str, Any], bool], Tensor | None]]] = {
    "batch_norm": (3, _batch_norm),
    "instance_norm": (3, _instance_norm),
    "layer_norm": (3, _layer_norm),
    "_weight_norm": (2, _weight_norm),
    "embedding": (2, _embedding),
    "embedding_bag": (2, _embedding_bag),
    "grouped_mm": (2, _grouped_mm),
    "_grouped_mm": (2, _grouped_mm),
    "hardsigmoid": (2, _hard_sigmoid),
    "hardsigmoid_": (2, _hard_sigmoid),
}
"""By name: the order from which torch's own derivatives are wrong or missing, the composition."""


_BUILTINS = {
    "batch_norm": "input weight bias running_mean running_var training momentum eps",
    "instance_norm": "input weight bias running_mean running_var use_input_stats momentum eps",
    "layer_norm": "input normalized_shape weight bias eps",
    "_weight_norm": "v g dim",
    "embedding": "weight input padding_idx scale_grad_by_freq sparse",
    "grouped_mm": "mat_a mat_b offs bias out_dtype",
    "_grouped_mm": "mat_a mat_b offs bias out_dtype",
}
"""Names of the arguments of ``torch.batch_norm`` and others, in their order, which is not F's."""
_DEFAULTS: dict[str, Any] = {
    **{"weight": None, "bias": None, "eps": 1e-5, "dim": 0, "padding_idx": -1},
    **{"scale_grad_by_freq": False, "sparse": False},
}


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Name the arguments of a call as F names them; None for a function not in the table."""
    name = getattr(func, "__name__", "")
    if name not in _TABLE:
        return None
    if isinstance(func, FunctionType):
        try:
            call = inspect.signature(func).bind(*args, **kwargs)
        except TypeError:  # called wrongly: its own error says so best
            return None
        call.apply_defaults()
        return call.arguments
    names = _BUILTINS.get(name)
    if names is None:
        return {"input": args[0], "inplace": name.endswith("_")} if name in _IN_PLACE else None
    renamed = {"input" if key == "indices" else key: value for key, value in kwargs.items()}
    given = {**_DEFAULTS, **dict(zip(names.split(), args, strict=False)), **renamed}
    if name == "embedding" and given["padding_idx"] == -1:  # none, where F means the last
        given["padding_idx"] = None
    return given


_IN_PLACE = ("hardsigmoid", "hardsigmoid_")
