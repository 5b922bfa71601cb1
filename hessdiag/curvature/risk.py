"""The empirical risk L(θ) = (1/N) Σ ℓ(z(θ, x_n), y_n), one microbatch at a time.

This file alone touches the user's module. It is called functionally, on views of its parameters
and copies of its buffers, so that weights, buffers, gradients and flags stay as they were.
"""

from __future__ import annotations

import copy
import fnmatch
import inspect
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.overrides import TorchFunctionMode

from hessdiag.curvature.losses import LossSpec, resolve
from hessdiag.errors import InputError, is_out_of_memory, unknown
from hessdiag.linalg import processes
from hessdiag.linalg.vectors import Layout

BN_MODES = ("eval", "batch")


class EmpiricalRisk:
    """A module, its data and its loss, as a function of the flat parameter vector θ.

    Args:
        model: any module that maps a batch x to one tensor z; it is never changed.
        batches: any iterable of (x, y) that gives the same examples each time it is iterated; an
            iterator, which can be read only once, is kept in memory. x is a tensor, or a tuple or
            mapping of tensors passed on as arguments.
        loss: see :func:`hessdiag.curvature.losses.resolve`.
        params: glob or globs over parameter names; None for all. Frozen ones are left out.
        bn: "eval" uses BatchNorm's running statistics, "batch" those of each batch as given.
        dtype: floating type to compute in; None for that of the parameters.
        device: None for that of the parameters.

    Raises:
        InputError: no parameter left, unknown mode, non-finite weights.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        loss: LossSpec = "cross-entropy",
        *,
        params: str | Sequence[str] | None = None,
        bn: str = "eval",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if bn not in BN_MODES:
            raise unknown("BatchNorm mode", bn, BN_MODES)
        self.model: nn.Module = getattr(model, "_orig_mod", model)  # of torch.compile
        self.batches = list(batches) if isinstance(batches, Iterator) else batches
        self.loss = resolve(loss)
        self.bn = bn
        self._check_batch_norm()
        self.parameters, self._constants = self._select(params, dtype, device)
        self._places = _places(self.model)
        first = next(iter(self.parameters.values()))
        self.dtype, self.device = first.dtype, first.device
        self.layout = Layout.of(self.parameters)

    def displaced(self, vector: Tensor) -> EmpiricalRisk:
        """Make the same risk at θ + ``vector``, flat ``(n,)``; this one stays as it is."""
        steps = self.layout.unflatten(vector.to(self.device, self.dtype))
        moved = copy.copy(self)
        moved.parameters = {
            name: (tensor.detach() + step).requires_grad_()
            for (name, tensor), step in zip(self.parameters.items(), steps, strict=True)
        }
        return moved

    def microbatches(self, *, shared: bool = False) -> Iterator[tuple[Any, Tensor]]:
        """Yield (x, y) on the device, floating inputs in the dtype.

        Args:
            shared: take turns with the other processes, so that each batch is one's alone.
        """
        empty = True
        for index, batch in enumerate(self.batches):
            if not isinstance(batch, Sequence) or len(batch) != 2:
                raise InputError(
                    "a batch is not a pair (x, y)",
                    got=type(batch).__name__,
                    wanted="(inputs, targets)",
                )
            empty = False
            if shared and index % processes.count() != processes.rank():
                continue
            y = batch[1]
            if not isinstance(y, Tensor):
                raise InputError("the targets are no tensor", got=type(y).__name__)
            yield self._moved(batch[0]), y.to(self.device)
        if empty:
            raise InputError("there is no data", got="no batches", wanted="at least one (x, y)")

    def outputs(self, x: Any) -> Tensor:
        """Compute z(θ, x) with a graph that leads to :attr:`parameters`.

        Raises:
            InputError: the module cannot take x, or does not return one tensor.
        """
        z = self.forward(x)
        if not isinstance(z, Tensor):
            raise InputError(
                "the network's output is not one tensor",
                got=type(z).__name__,
                wanted="a tensor (N, ...)",
                hint="wrap the network in a module that returns its logits",
            )
        if not z.requires_grad:
            raise InputError(
                "the network's output does not depend on the chosen parameters",
                got=", ".join(self.layout.names[:5]),
            )
        return z

    def forward(self, x: Any) -> Any:
        """Call the module on x, whatever it returns, with a graph if gradients are enabled.

        Raises:
            InputError: the module cannot take x.
        """
        own = {**self.parameters}
        own.update((name, tensor.clone()) for name, tensor in self._constants.items())
        tensors = {place: own[name] for place, name in self._places.items()}
        args = tuple(x) if isinstance(x, (tuple, list)) else () if isinstance(x, Mapping) else (x,)
        kwargs = dict(x) if isinstance(x, Mapping) else {}
        with self._evaluation_mode(), _AffineBatchNorm():
            try:
                return functional_call(self.model, tensors, args, kwargs, tie_weights=False)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                if is_out_of_memory(error):
                    raise
                shapes = [
                    tuple(v.shape) for v in (*args, *kwargs.values()) if isinstance(v, Tensor)
                ]
                raise InputError(
                    "the network cannot take this input",
                    got=f"inputs of shape {', '.join(map(str, shapes))}: {error}",
                    hint="check that the network and the data belong together",
                ) from error

    def _select(
        self, params: str | Sequence[str] | None, dtype: torch.dtype | None, device: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Split the module's tensors into θ (leaves that require a gradient) and constants."""
        if dtype is not None and not dtype.is_floating_point:
            raise InputError("unusable dtype", got=dtype, wanted="torch.float32 or torch.float64")
        try:
            device = None if device is None else torch.device(device)
        except RuntimeError as error:
            raise InputError("unknown device", got=device, wanted="cpu, cuda or cuda:i") from error
        globs = ["*"] if params is None else [params] if isinstance(params, str) else list(params)
        chosen: dict[str, Tensor] = {}
        constants: dict[str, Tensor] = {}
        trainable: list[str] = []
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            floating = tensor.is_floating_point()
            if floating and not bool(torch.isfinite(tensor).all()):
                raise InputError(f"the weights of {name} are not finite", got="NaN or Inf")
            moved = tensor.detach().to(device or tensor.device, dtype if floating else None)
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                trainable.append(name)
                if any(fnmatch.fnmatchcase(name, glob) for glob in globs):
                    chosen[name] = moved.requires_grad_()
                    continue
            constants[name] = moved
        idle = [
            glob for glob in globs if not any(fnmatch.fnmatchcase(name, glob) for name in trainable)
        ]
        if idle:
            raise InputError(
                "no trainable parameter is left to differentiate"
                if not chosen
                else "a pattern matches no trainable parameter",
                got=f"params={', '.join(idle)}",
                wanted=f"names such as {', '.join(trainable[:4])}" if trainable else None,
                hint=None if trainable else "every parameter of the network is frozen",
            )
        kinds = {(tensor.dtype, tensor.device) for tensor in chosen.values()}
        if len(kinds) > 1:
            raise InputError(
                "the parameters differ in type or device",
                got=", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)),
                hint="pass dtype= and device=",
            )
        return chosen, constants

    def _moved(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            if x.is_floating_point() and not bool(torch.isfinite(x).all()):
                raise InputError("the inputs are not finite", got="NaN or Inf in x")
            x = x.detach().to(self.device, self.dtype if x.is_floating_point() else None)
            return x.clone()  # an in-place first layer must not reach the user's data
        if isinstance(x, Mapping):
            return {key: self._moved(value) for key, value in x.items()}
        if isinstance(x, (tuple, list)):
            return [self._moved(value) for value in x]
        return x

    def _check_batch_norm(self) -> None:
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is None and self.bn == "eval":
                raise InputError(
                    f"BatchNorm layer {name} keeps no running statistics",
                    got="track_running_stats=False with bn='eval'",
                    wanted="bn='batch', which normalises each batch by itself",
                )

    @contextmanager
    def _evaluation_mode(self) -> Generator[None]:
        """Dropout off, BatchNorm as asked; every module's own flag comes back afterwards."""
        flags = [(module, module.training) for module in self.model.modules()]
        try:
            for module, _ in flags:
                module.training = self.bn == "batch" and isinstance(module, _BatchNorm)
            yield
        finally:
            for module, flag in flags:
                module.training = flag


def _places(model: nn.Module) -> dict[str, str]:
    """Say which tensor belongs where: each place of a module once, with the tensor's first name.

    A tensor may be at home in several modules, and a module have several names; torch's own tying
    of weights would swap the tensors of such a module twice and never bring them back.
    """
    names = {id(tensor): name for name, tensor in model.named_buffers()}
    names |= {id(tensor): name for name, tensor in model.named_parameters()}
    return {
        f"{path}.{own}".removeprefix("."): names[id(tensor)]
        for path, module in model.named_modules()
        for own, tensor in (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        )
    }


class _AffineBatchNorm(TorchFunctionMode):
    """Computes BatchNorm with running statistics as the affine map that it is.

    Its second derivatives are then those of a product, a few passes over memory cheaper than those
    of torch's kernel: measured, 3 % of all three products of a WideResNet.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.batch_norm:
            return func(*args, **kwargs)
        call = inspect.signature(func).bind(*args, **kwargs)
        call.apply_defaults()
        x, mean, variance = (call.arguments[n] for n in ("input", "running_mean", "running_var"))
        if call.arguments["training"] or mean is None:
            return func(*args, **kwargs)
        weight, bias = call.arguments["weight"], call.arguments["bias"]
        scale = torch.rsqrt(variance + call.arguments["eps"])
        scale = scale if weight is None else weight * scale
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * scale.view(shape) + shift.view(shape)
