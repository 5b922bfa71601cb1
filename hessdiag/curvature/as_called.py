"""The user's module, called and differentiated as its user does it, on a few examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from hessdiag.curvature.batches import mapped, tensors_in
from hessdiag.curvature.calling import Widened, eager_calls
from hessdiag.curvature.copies import Memo, private_copy, unwrapped
from hessdiag.curvature.kernels import exact_kernels
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError
from hessdiag.losses.output_loss import Targets

_NUM_EXAMPLES = 4
_NUM_OUTPUTS = 1 << 23  # that few examples may have together


class AsCalled:
    """A copy of the user's module in float64, with nothing of ours in its way but θ's memory.

    Args:
        risk: what it is compared with, in float64.
        x: inputs of a few examples, in float64.
        y: their targets.
    """

    def __init__(self, risk: EmpiricalRisk, x: Any, y: Tensor | Targets) -> None:
        self.risk, self.x, self.y = risk, x, y
        source = unwrapped(risk.network.source)
        memo: Memo = {
            id(parameter): nn.Parameter(risk.parameters[name].detach())
            for name, parameter in source.named_parameters()
            if name in risk.parameters
        }
        self.module = private_copy(source, lambda t: doubled(t.detach()).clone(), memo)
        self.module.to(risk.device)
        for module in self.module.modules():
            module.training = risk.bn == "batch" and isinstance(module, _BatchNorm)
        named = dict(self.module.named_parameters())
        self.parameters = [named[name] for name in risk.layout.names]
        for name, parameter in zip(risk.layout.names, self.parameters, strict=True):
            parameter.data = risk.parameters[name].detach()  # those whose name a wrapper changed
        self._buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]

    def gradient(self) -> list[Tensor]:
        """Compute ∇ of the summed loss."""
        torch.manual_seed(0)  # so that noise is the same each time
        for buffer, first in self._buffers:
            buffer.copy_(first)
        with eager_calls(torch.float64), Widened(torch.float64):
            args, kwargs = self.risk.arguments(mapped(self.x, Tensor.clone))
            z = self.risk.select(self.module(*args, **kwargs))
            total = self.risk.loss.at(z, self.y).total
            # in two steps, so that no gradient reaches what the loss itself is made of
            z.backward(torch.autograd.grad(total, z, materialize_grads=True)[0])
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.module.zero_grad()
        return [gradient.to_dense() for gradient in found]


def few_examples(
    x: Any, y: Tensor | Targets, num_outputs: int = 1, *, at_most: int = _NUM_EXAMPLES
) -> tuple[Any, Tensor | Targets]:
    """Copy the first few examples of a microbatch; all of it where they cannot be told apart.

    Args:
        x: inputs.
        y: targets.
        num_outputs: of all these examples.
        at_most: how many.
    """
    parts = tensors_in(x)
    size = len(y)
    wanted = max(1, min(at_most, size * _NUM_OUTPUTS // max(num_outputs, 1)))
    if size <= wanted or any(t.ndim == 0 or len(t) != size for t in parts):
        return mapped(x, Tensor.clone), y.clone()
    return mapped(x, lambda t: t[:wanted].clone()), y[:wanted].clone()


def fitting_examples(
    risk: EmpiricalRisk, x: Any, y: Tensor | Targets, *, at_most: int
) -> tuple[Any, Tensor | Targets]:
    """Copy the first few examples; all of them where x counts something else first, as time.

    Cost: a forward pass of the few.
    """
    few = few_examples(x, y, at_most=at_most)
    with torch.no_grad():
        z = risk.outputs(mapped(few[0], Tensor.clone))
    try:
        risk.loss.at(z, few[1])
    except InputError:
        return mapped(x, Tensor.clone), y.clone()
    return few


def are_apart(risk: EmpiricalRisk) -> bool:
    """Tell whether the first examples have outputs of their own, whoever is beside them.

    Those of a recurrent network that counts time first, or of attention over the batch, do not.

    Cost: once, twice a forward pass of four examples.
    """
    if risk.cut.apart is None:
        x, y = next(iter(risk.microbatches()))
        count = min(_NUM_EXAMPLES, len(y))
        parts = [slice(count), *(slice(n, n + 1) for n in range(count))]
        if any(t.ndim == 0 or len(t) != len(y) for t in tensors_in(x)):
            return True  # which is never cut
        if count < 2:
            return False  # for all that is known
        try:
            with exact_kernels(), torch.no_grad():
                z = [risk.outputs(mapped(x, lambda t, at=at: t[at].clone())) for at in parts]
                together, alone = z[0], torch.cat(z[1:])
        except (InputError, RuntimeError):  # what is no example by itself
            risk.cut.apart = False
        else:
            same = together.shape == alone.shape
            off = float((together - alone).norm()) if same else torch.inf
            precise = risk.dtype == torch.float64
            risk.cut.apart = off <= (1e-9 if precise else 1e-4) * float(together.norm())
    return risk.cut.apart


def doubled(tensor: Any) -> Any:
    """Make a floating tensor float64, or those of targets with weights."""
    if isinstance(tensor, Targets):
        return Targets(doubled(tensor.values), doubled(tensor.weights))
    return tensor.double() if tensor.is_floating_point() else tensor
