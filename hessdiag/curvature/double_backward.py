"""Double backward passes of smooth activations and convolutions, with no more work than is asked.

What autograd records of GELU's backward pass takes some ten operations a vector, where φ' and φ''
once known take three; and its double backward pass of a convolution always computes the term of
the weight, which J v does not need. Here both are functions of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._C._functorch import (  # pyright: ignore[reportMissingImports]
    is_functorch_wrapped_tensor,  # pyright: ignore[reportUnknownVariableType]
)
from torch.autograd.forward_ad import unpack_dual
from torch.overrides import TorchFunctionMode

from hessdiag.curvature.functions import find_curve
from hessdiag.nets.curves import Curve, Elementwise


class DoubleBackward(TorchFunctionMode):
    """Within the block, what is computed can be differentiated twice at less cost.

    Everything else, all within transforms of torch.func or forward-mode differentiation, and the
    derivatives that the block itself takes, as a network for a differential equation does, are
    left to torch.

    Attributes:
        within: whether the block is being computed.
        bends: whether the second backward pass is to reach what the first was taken at, as N v
            needs; without it, J v alone, which is cheaper.
        num_bytes: memory of the φ' and g φ'' that are kept, or will be with the first N v.
    """

    def __init__(self) -> None:
        super().__init__()
        self.within = False
        self.bends = True
        self.num_bytes = 0

    def __enter__(self) -> Self:
        self.within = True
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.within = False
        super().__exit__(*error)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name: str = getattr(func, "__name__", "")
        if not torch.is_grad_enabled() or not args or not _is_plain(args[0]):
            return func(*args, **kwargs)
        if (
            name in _CONVOLUTIONS
            and "input" not in kwargs
            and (conv := _convolution(name, *args, **kwargs)) is not None
        ):
            x, weight, bias, shape = conv
            y = _Convolution.apply(x, weight, shape, self)
            return y if bias is None else y + bias.view(-1, *(1,) * (weight.ndim - 2))
        x = args[0]
        if x.requires_grad and not (kwargs.get("inplace") or name.endswith("_")):
            curve = find_curve(func, args, kwargs)
            if curve is not None and curve.second is not torch.zeros_like:
                return _Activation.apply(x, lambda x: func(x, *args[1:], **kwargs), curve, self)
        return func(*args, **kwargs)


def _is_plain(x: Any) -> bool:
    """Tell whether x is a tensor like any other: no subclass, nothing of torch.func's."""
    if type(x) not in (Tensor, nn.Parameter) or not x.is_floating_point():
        return False
    return not is_functorch_wrapped_tensor(x) and unpack_dual(x).tangent is None


class _Activation(torch.autograd.Function):
    """y = φ(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Elementwise, curve: Curve, mode: DoubleBackward) -> Any:
        ctx.save_for_backward(x)
        ctx.value, ctx.curve, ctx.mode, ctx.slope = value, curve, mode, None
        return value(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        if ctx.mode.within:
            with torch.enable_grad():
                along = torch.autograd.grad(ctx.value(x), x, g, create_graph=True)
            return *along, None, None, None
        if ctx.slope is None:
            with torch.no_grad():
                ctx.slope = ctx.curve.first(x)
            ctx.mode.num_bytes += 2 * ctx.slope.nbytes
        return _Sloped.apply(g, x, ctx.slope, ctx.curve, ctx.mode), None, None, None


class _Sloped(torch.autograd.Function):
    """g φ'(x), whose derivative along u is u φ'(x) in g and u g φ''(x) in x."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, slope: Tensor, curve: Curve, mode: DoubleBackward
    ) -> Any:
        ctx.save_for_backward(g, x)
        ctx.slope, ctx.curve, ctx.mode, ctx.bend = slope, curve, mode, None
        return g * slope

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        bent = None
        if ctx.mode.bends:
            if ctx.bend is None:
                g, x = ctx.saved_tensors
                with torch.no_grad():
                    ctx.bend = g * ctx.curve.second(x)
            bent = u * ctx.bend
        return u * ctx.slope, bent, None, None, None


@dataclass(frozen=True)
class _Shape:
    """How a convolution moves: all but its tensors."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        zeros = (0,) * len(self.stride)
        options = self.stride, self.padding, self.dilation, False, zeros, self.groups
        return torch.convolution(x, weight, None, *options)

    def back(
        self, g: Tensor, x: Tensor, weight: Tensor, into_x: bool, into_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Compute the gradients that g makes in x and in the weight."""
        if not (into_x or into_weight):
            return None, None
        zeros = (0,) * len(self.stride)
        options = self.stride, self.padding, self.dilation, False, zeros, self.groups
        found = torch.ops.aten.convolution_backward(
            g, x, weight, None, *options, (into_x, into_weight, False)
        )
        return (found[0] if into_x else None), (found[1] if into_weight else None)


class _Convolution(torch.autograd.Function):
    """y = x ∗ W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: _Shape, mode: DoubleBackward) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.shape, ctx.mode = shape, mode
        return shape.convolve(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        into = ctx.needs_input_grad[:2]
        if ctx.mode.within:
            return *ctx.shape.back(g, x, weight, *into), None, None
        return *_Correlation.apply(g, x, weight, into, ctx.shape, ctx.mode), None, None


class _Correlation(torch.autograd.Function):
    """The gradients of a convolution in x and W, linear in each of the three that make them."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        into: tuple[bool, bool],
        shape: _Shape,
        mode: DoubleBackward,
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, weight)
        ctx.shape, ctx.mode = shape, mode
        return shape.back(g, x, weight, *into)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, w: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, x, weight = ctx.saved_tensors
        shape: _Shape = ctx.shape
        along = None if u is None else shape.convolve(u, weight)
        if w is not None:
            turned = shape.convolve(x, w)
            along = turned if along is None else along + turned
        in_x = in_weight = None
        if ctx.mode.bends and w is not None and ctx.needs_input_grad[1]:
            in_x, _ = shape.back(g, x, w, into_x=True, into_weight=False)
        if ctx.mode.bends and u is not None and ctx.needs_input_grad[2]:
            _, in_weight = shape.back(g, u, weight, into_x=False, into_weight=True)
        return along, in_x, in_weight, None, None, None


_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


def _convolution(
    name: str,
    x: Any = None,
    weight: Any = None,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, _Shape] | None:
    """Read the arguments of a call; None where torch's own function serves."""
    num_dims = _CONVOLUTIONS[name]
    plain = _is_plain(x) and _is_plain(weight) and (bias is None or _is_plain(bias))
    if not plain or isinstance(padding, str) or x.ndim != num_dims + 2:
        return None
    if not (x.requires_grad or weight.requires_grad) or x.shape[1] % groups:
        return None
    moves = _each(stride, num_dims), _each(padding, num_dims), _each(dilation, num_dims)
    return x, weight, bias, _Shape(*moves, groups)


def _each(value: Any, num_dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * num_dims if len(values) == 1 else values
