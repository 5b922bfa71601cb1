"""tr G without sampling, where a network has few outputs and the usual layers.

``tr G = (1/N) Σ_n Σ_k ‖J_nᵀ S_n e_k‖²`` with ``S Sᵀ = B``: for each output one backward pass, no
further than to the outputs of the layers. With a layer's input x and the gradient g at its output,
an example's gradient in the weight is ``Σ_t g_t x_tᵀ``, whose squared norm is
``Σ ⟨x_t, x_t'⟩⟨g_t, g_t'⟩``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hessdiag.curvature.batches import mapped
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.forms import two_examples
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.curvature.kernels import exact_kernels, undisturbed
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.losses.output_loss import Targets

MOST_OUTPUTS = 32
_TOLERANCE = 1e-8  # in float64
_AT_ONCE = 1 << 24  # numbers of the gradients by example that are made at once


@undisturbed()
def gn_trace(decomposition: Decomposition) -> float:
    """Compute tr G exactly, up to rounding.

    Cost: of C outputs about C/2 gradients, and the memory of one.

    Args:
        decomposition: of network, data and loss.

    Raises:
        Unsupported: more than 32 outputs, a weight that is used twice or otherwise than by the
            usual layers, examples that meet, a loss of which no S is known.
    """
    risk = decomposition.risk
    if risk.sharding is not None or risk.bn == "batch":
        raise Unsupported("examples that meet, or parameters spread over processes")
    _check(decomposition)
    sums = torch.zeros(3, dtype=torch.float64, device=risk.device)
    reason = "what another process met"
    with exact_kernels():
        for x, y in risk.microbatches(shared=True):
            try:
                sums += sums.new_tensor([*_squares(risk, x, y), 0])
            except Unsupported as error:  # which all processes have to know
                reason = str(error)
                sums[2] = 1
                break
            if decomposition.on_microbatch is not None:
                decomposition.on_microbatch()
    processes.add_up(sums)
    squares, weight, failures = sums.tolist()
    if failures:
        raise Unsupported(reason)
    return squares / weight


def _check(decomposition: Decomposition) -> None:
    """Compare two examples together with the gradients of each by itself, in float64."""
    risk = decomposition.in_type(torch.float64).risk
    x, y = two_examples(*next(iter(risk.microbatches())))
    alone = 0.0
    with exact_kernels():
        for n in range(2):
            own = mapped(x, lambda t, n=n: t[n : n + 1].clone()), y[slice(n, n + 1)]
            z = risk.outputs(own[0])
            at = risk.loss.at(z.detach(), own[1])
            for u in _directions(at, z):
                found = torch.autograd.grad(
                    z, list(risk.parameters.values()), u, retain_graph=True, materialize_grads=True
                )
                alone += sum(float(g.square().sum()) for g in found)
        together, _ = _squares(risk, x, y)
    if abs(together - alone) > _TOLERANCE * alone:
        raise Unsupported("a weight that is used otherwise than by the usual layers")


def _directions(at: Any, z: Tensor) -> list[Tensor]:
    if z.ndim != 2 or z.shape[1] > MOST_OUTPUTS:
        raise Unsupported(f"outputs of shape {tuple(z.shape)}, not one row of few an example")
    units = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    try:
        return [at.factor(unit.expand_as(z)).to(z.dtype) for unit in units]
    except InputError as error:
        raise Unsupported("a loss of which no S is known") from error


def _squares(risk: EmpiricalRisk, x: Any, y: Tensor | Targets) -> tuple[float, float]:
    """Sum the squared norms of one microbatch; tell its weight."""
    with Recorded(risk) as layers, torch.enable_grad():
        z = risk.outputs(mapped(x, Tensor.clone))
    at = risk.loss.at(z.detach(), y)
    uses = [use for use in layers.uses if use.output.requires_grad]
    total = 0.0
    for u in _directions(at, z):
        gradients = torch.autograd.grad(
            z, [use.output for use in uses], u, retain_graph=True, materialize_grads=True
        )
        with torch.no_grad():
            total += sum(
                float(use.squares(_by_example(g, len(z))).sum(dtype=torch.float64))
                for use, g in zip(uses, gradients, strict=True)
            )
    return total, at.weight


@dataclass(frozen=True)
class Use:
    """A layer's output, and the squared norms of its weights' gradients from that at the output."""

    output: Tensor
    squares: Callable[[Tensor], Tensor]


class Recorded(TorchFunctionMode):
    """Within the block, what layers do with parameters is written down.

    Attributes:
        uses: what has been used.
    """

    def __init__(self, risk: EmpiricalRisk) -> None:
        super().__init__()
        self.uses: list[Use] = []
        self._left = {id(tensor) for tensor in risk.parameters.values()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name: str = getattr(func, "__name__", "")
        if name not in _RULES:
            return func(*args, **kwargs)
        given = dict(zip(_RULES[name][0].split(), args, strict=False)) | kwargs
        weight, bias = (self._taken(given.get(key)) for key in ("weight", "bias"))
        y = func(*args, **kwargs)
        if weight or bias:
            squares = _RULES[name][1](func, given, weight, bias)
            if squares is not None:
                self.uses.append(Use(y, squares))
        return y

    def _taken(self, tensor: Any) -> bool:
        """Tell whether it is a parameter, which may be used once."""
        if id(tensor) not in self._left:
            return False
        self._left.remove(id(tensor))
        return True


def _by_example(tensor: Tensor, count: int) -> Tensor:
    """Put the examples first, ``(N, …)``, where it is plain which dimension is theirs."""
    if len(tensor) == count and (tensor.ndim < 3 or tensor.shape[1] != count):
        return tensor
    if tensor.ndim == 3 and len(tensor) != count and tensor.shape[1] == count:
        return tensor.transpose(0, 1)
    if len(tensor) == count and tensor.ndim > 3:
        return tensor
    raise Unsupported("layers in which one cannot tell the examples apart")


def _linear(_: Any, given: dict[str, Any], weight: bool, bias: bool) -> Any:
    x = given["input"].detach()

    def squares(g: Tensor) -> Tensor:
        own = _by_example(x, len(g)).reshape(len(g), -1, x.shape[-1])
        return _outer(own, g.reshape(len(g), -1, g.shape[-1]), weight, bias)

    return squares


def _outer(x: Tensor, g: Tensor, weight: bool, bias: bool) -> Tensor:
    """Give ‖Σ_t g_t x_tᵀ‖² and ‖Σ_t g_t‖² of each example, x ``(N, t, i)``, g ``(N, t, o)``."""
    total = g.new_zeros(len(g))
    if bias:
        total += g.sum(1).square().sum(1)
    if weight and x.shape[1] * (x.shape[2] + g.shape[2]) < x.shape[2] * g.shape[2]:
        total += ((x @ x.mT) * (g @ g.mT)).sum((1, 2))
    elif weight:
        rows = max(1, _AT_ONCE // (x.shape[2] * g.shape[2]))
        products = [
            (a.mT @ b).square().sum((1, 2))
            for a, b in zip(x.split(rows), g.split(rows), strict=True)
        ]
        total += torch.cat(products)
    return total


def _convolution(_: Any, given: dict[str, Any], weight: bool, bias: bool) -> Any:
    x, kernel = given["input"].detach(), given["weight"]
    if kernel.ndim != 4 or isinstance(given.get("padding"), str) or x.ndim != 4:
        return None
    groups = given.get("groups", 1)
    moves = {key: given[key] for key in ("stride", "padding", "dilation") if key in given}

    def squares(g: Tensor) -> Tensor:
        total: list[Tensor] = []
        rows = max(1, _AT_ONCE // (kernel[0].numel() * groups * g[0, 0].numel()))
        for own, back in zip(x.split(rows), g.flatten(2).split(rows), strict=True):
            patches = F.unfold(own, kernel.shape[2:], **moves)
            each = patches.reshape(len(own) * groups, -1, patches.shape[-1]).mT
            g_each = back.reshape(len(own) * groups, -1, back.shape[-1]).mT
            total.append(_outer(each, g_each, weight, bias).view(len(own), groups).sum(1))
        return torch.cat(total)

    return squares


def _norm(func: Any, given: dict[str, Any], weight: bool, bias: bool) -> Any:
    if given.get("training"):
        return None
    x = given["input"].detach()
    bare = {key: value for key, value in given.items() if key not in ("input", "weight", "bias")}
    own_shape = given.get("normalized_shape")

    def summed(terms: Tensor) -> Tensor:
        if own_shape is None:  # by channel
            return terms.reshape(*terms.shape[:2], -1).sum(2)
        return terms.reshape(len(terms), -1, math.prod(own_shape)).sum(1)

    def squares(g: Tensor) -> Tensor:
        taken = [_by_example(func(x, **bare), len(g)) * g] * weight + [g] * bias
        return sum((summed(terms).square().sum(1) for terms in taken), g.new_zeros(len(g)))

    return squares


def _embedding(_: Any, given: dict[str, Any], weight: bool, bias: bool) -> Any:
    del weight, bias
    indices, padding = given["input"], given.get("padding_idx")
    if indices.ndim != 2:
        return None

    def squares(g: Tensor) -> Tensor:
        own = _by_example(indices, len(g))
        same = own[:, :, None] == own[:, None, :]
        if padding is not None:
            same &= (own != padding)[:, :, None]
        return ((g @ g.mT) * same).sum((1, 2))

    return squares


_CONVOLUTION = "input weight bias stride padding dilation groups", _convolution
_RULES = {
    "linear": ("input weight bias", _linear),
    "conv2d": _CONVOLUTION,
    "running_norm": ("input mean variance weight bias eps", _norm),
    "batch_norm": ("input running_mean running_var weight bias training momentum eps", _norm),
    "layer_norm": ("input normalized_shape weight bias eps", _norm),
    "group_norm": ("input num_groups weight bias eps", _norm),
    "embedding": ("input weight padding_idx", _embedding),
}
