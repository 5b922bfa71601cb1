"""A method's step in a loop of the user's own: any module, any batch, any loss."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hessdiag.curvature.calling import eager_calls, without_checkpointing
from hessdiag.curvature.kernels import exact_kernels
from hessdiag.errors import InputError
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.training.methods import Method
from hessdiag.training.objective import Objective
from hessdiag.training.task import Step, Streams, Task

_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "DataParallel")


class UsersObjective(Objective):
    """The loss of a module that may return and keep what ours do not."""

    def outputs(self, x: Any) -> Tensor:
        """Call the module on a tensor, or on a tuple or mapping of arguments."""
        if isinstance(x, Mapping):
            result = self.model(**x)
        else:
            result = self.model(*x) if isinstance(x, (tuple, list)) else self.model(x)
        z = getattr(result, "logits", result)
        if not isinstance(z, Tensor):
            raise InputError(
                "the network's output is not one tensor",
                got=type(z).__name__,
                wanted="a tensor (N, …), or something with one as its logits",
                hint="wrap the network in a module that returns its logits",
            )
        return z.float() if z.dtype.itemsize < 4 else z  # as autocast computes a loss

    @contextmanager
    def frozen_statistics(self) -> Generator[None]:
        """Leave all buffers as they are, BatchNorm's and others."""
        before = [(buffer, buffer._version, buffer.clone()) for buffer in self.model.buffers()]
        with super().frozen_statistics():
            yield
        with torch.no_grad():
            for buffer, version, value in before:
                if buffer._version != version:
                    buffer.copy_(value)


def backward(
    method: Method,
    model: nn.Module,
    batch: Any,
    loss: LossSpec,
    *,
    scale: float,
    generator: torch.Generator | None,
) -> Step:
    """See :meth:`hessdiag.training.methods.Method.backward`."""
    if not isinstance(batch, Sequence) or len(batch) != 2:
        raise InputError(
            "a batch is not a pair (x, y)", got=type(batch).__name__, wanted="(inputs, targets)"
        )
    weights = [tensor for tensor in model.parameters() if tensor.requires_grad]
    _check(method, model, weights)
    if generator is None:
        seed = int(torch.randint(2**62, ()))
        generator = torch.Generator(weights[0].device).manual_seed(seed)
    with ExitStack() as stack:
        stack.enter_context(eager_calls(torch.get_default_dtype()))
        stack.enter_context(without_checkpointing())
        stack.enter_context(exact_kernels() if method.second_derivative else torch.enable_grad())
        objective = UsersObjective(model, loss)
        x, y = batch
        try:
            step = method.step(Task(objective, x, y, method, Streams(generator, generator)))
        except RuntimeError as error:
            if "not implemented" not in str(error) or not method.second_derivative:
                raise
            raise InputError(
                f"the method {method.name} needs derivatives that the network or its loss lacks",
                got=str(error).splitlines()[0],
                hint="choose a method of first order, or other layers",
            ) from error
    for tensor, gradient in zip(weights, step.gradient, strict=True):
        own = gradient if scale == 1 else scale * gradient
        tensor.grad = own if tensor.grad is None else tensor.grad + own
    return step


def _check(method: Method, model: nn.Module, weights: Sequence[Tensor]) -> None:
    """Refuse what would give a gradient other than that of the method."""
    if not weights:
        raise InputError("the network has no weights to train")
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if wrapper := next((name for name in _WRAPPERS if name in kinds), None):
        raise InputError(
            "the network is wrapped to work with other processes or devices",
            got=wrapper,
            wanted="the module itself",
            hint="give the module inside, and average the gradients over the processes yourself",
        )
    if not method.is_mean and any(t.grad is not None and bool(t.grad.any()) for t in weights):
        raise InputError(
            f"gradients cannot be accumulated with the method {method.name}",
            got="a .grad that is not zero",
            wanted="the whole batch at once: the step of a batch is not the mean of its parts'",
            hint="call optimizer.zero_grad() before every step",
        )
    device, narrow = weights[0].device.type, {t.dtype for t in weights if t.dtype.itemsize < 4}
    if method.second_derivative and narrow:
        raise InputError(
            f"the method {method.name} needs second derivatives",
            got=f"weights of {', '.join(map(str, narrow))}, too coarse for them",
            hint="keep the weights in float32; autocast may stay on around the call",
        )
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    if torch.float16 in narrow or (half and not method.second_derivative):
        raise InputError(
            "gradients vanish in float16 unless the loss is scaled",
            got="weights or autocast of float16",
            wanted="bfloat16 or float32",
        )
