"""Which module, and which of its operations, has a wrong second derivative."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessdiag.curvature.module import Network

_RADII = (1e-5, 1e-7)
_TOLERANCE = 1e-4


def find_culprit(network: Network, args: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
    """Find the innermost module whose second derivative is not that of its gradient.

    Each is tried by itself, on the inputs that it has in the network, children before parents.

    Args:
        network: in float64.
        args: of a call.
        kwargs: likewise.
    """
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def note(module: nn.Module, args: Any, kwargs: Any, _: Any) -> None:
        calls.append((module, _detached(args), _detached(kwargs)))

    names = {module: name for name, module in network.module.named_modules()}
    hooks = [m.register_forward_hook(note, with_kwargs=True) for m in names]
    network(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    with network.calling():
        for module, own_args, own_kwargs in calls:
            try:
                operations = _fault(module, own_args, own_kwargs)
            except Exception:  # modules that cannot be tried alone
                continue
            if operations is not None:
                name = names.get(module) or "the network itself"
                return f"{name} ({type(module).__name__}: {', '.join(operations)})"
    return None


def _fault(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str] | None:
    """Name the module's operations if its second derivative is wrong."""
    generator = torch.Generator().manual_seed(0)
    parameters = [p for p in module.parameters() if p.requires_grad]
    inputs = [t for t in _tensors((args, kwargs)) if t.is_floating_point()]
    v = [_like(t, generator) for t in (*inputs, *parameters)]
    c: list[Tensor] = []

    def evaluate(step: float) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Compute Jᵀc at a step along v, with a graph; the outputs; what is differentiated in."""
        moved = [(t + step * d).requires_grad_() for t, d in zip(inputs, v, strict=False)]
        swap = dict(zip(map(id, inputs), moved, strict=True))
        with torch.no_grad():
            for p, d in zip(parameters, v[len(inputs) :], strict=True):
                p += step * d
        result = module(*_replaced(args, swap), **_replaced(kwargs, swap))
        outputs = [t for t in _tensors(result) if t.requires_grad]
        c.extend(_like(t, generator) for t in outputs[len(c) :])
        at = [*moved, *parameters]
        s = torch.autograd.grad(outputs, at, c, create_graph=step == 0, materialize_grads=True)
        with torch.no_grad():
            for p, d in zip(parameters if step else (), v[len(inputs) :], strict=False):
                p -= step * d
        return list(s), outputs, at

    s, outputs, at = evaluate(0.0)
    used = [i for i, t in enumerate(s) if t.requires_grad]
    product = [torch.zeros_like(t) for t in at]
    if used:
        product = torch.autograd.grad(
            [s[i] for i in used],
            at,
            [v[i] for i in used],
            retain_graph=True,
            materialize_grads=True,
        )
    errors: list[float] = []
    for radius in _RADII:
        ahead, behind = evaluate(radius)[0], evaluate(-radius)[0]
        slope = [(a - b).detach() / (2 * radius) for a, b in zip(ahead, behind, strict=True)]
        gap = _norm([a - b for a, b in zip(slope, product, strict=True)])
        errors.append(gap / max(_norm(slope), _norm(product), 1e-6 * _norm(s)))
    return _operations(outputs) if min(errors) > _TOLERANCE else None


def _operations(outputs: Sequence[Tensor]) -> list[str]:
    """Name what made the outputs: functions of the user's own if there are any."""
    seen: set[Any] = set()
    pending: list[Any] = [tensor.grad_fn for tensor in outputs]
    own: list[str] = []
    torchs: list[str] = []
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = type(node).__name__
        names = own if isinstance(node, torch.autograd.function.BackwardCFunction) else torchs
        if name not in names and name != "AccumulateGrad":
            names.append(name)
        pending.extend(following for following, _ in node.next_functions)
    return [re.sub(r"Backward\d*$", "", name) for name in own or torchs[:4]]


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    size = float(tensor.detach().square().mean().sqrt()) if tensor.numel() else 0.0
    draw = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return (size or 1.0) * draw.to(tensor)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm([t.detach() for t in tensors]))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, (tuple, list)) else []


def _replaced(value: Any, swap: dict[int, Tensor]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(item, swap) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_replaced(item, swap) for item in value)
    return swap.get(id(value), value)


def _detached(value: Any) -> Any:
    tensors = _tensors(value)
    return _replaced(value, {id(t): t.detach().clone() for t in tensors})
