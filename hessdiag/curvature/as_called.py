"""The user's module, called and differentiated as its user does it, on a few examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from hessdiag.curvature.calling import Widened, eager_calls
from hessdiag.curvature.copies import private_copy
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.losses.output_loss import Targets

_NUM_EXAMPLES = 4


class AsCalled:
    """A copy of the user's module in float64, with nothing of ours in its way.

    Args:
        risk: what it is compared with, in float64.
        x: inputs of a few examples, in float64.
        y: their targets.
    """

    def __init__(self, risk: EmpiricalRisk, x: Any, y: Tensor | Targets) -> None:
        self.risk, self.x, self.y = risk, x, y
        self.module = private_copy(risk.network.source, lambda t: doubled(t.detach()).clone(), {})
        self.module.to(risk.device)
        for module in self.module.modules():
            module.training = risk.bn == "batch" and isinstance(module, _BatchNorm)
        named = dict(self.module.named_parameters())
        self.parameters = [named[name] for name in risk.layout.names]

    def gradient(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Compute ∇ of the summed loss at ``values``."""
        torch.manual_seed(0)  # so that noise is the same each time
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)
        self.module.zero_grad()
        with eager_calls(torch.float64), Widened(torch.float64):
            args, kwargs = self.risk.arguments(mapped(self.x, Tensor.clone))
            z = self.risk.select(self.module(*args, **kwargs))
            self.risk.loss.at(z, self.y).total.backward()
        return [
            torch.zeros_like(p) if p.grad is None else p.grad.to_dense().clone()
            for p in self.parameters
        ]


def few_examples(x: Any, y: Tensor | Targets) -> tuple[Any, Tensor | Targets]:
    """Copy the first few examples of a microbatch; all of it where they cannot be told apart."""
    parts = _tensors(x)
    if len(y) <= _NUM_EXAMPLES or any(t.ndim == 0 or len(t) != len(y) for t in parts):
        return mapped(x, Tensor.clone), y.clone()
    return mapped(x, lambda t: t[:_NUM_EXAMPLES].clone()), y[:_NUM_EXAMPLES].clone()


def doubled(tensor: Any) -> Any:
    """Make a floating tensor float64, or those of targets with weights."""
    if isinstance(tensor, Targets):
        return Targets(doubled(tensor.values), doubled(tensor.weights))
    return tensor.double() if tensor.is_floating_point() else tensor


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Map the tensors in nested inputs."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [mapped(item, function) for item in value]
    return value


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(value, lambda tensor: found.append(tensor) or tensor)
    return found
