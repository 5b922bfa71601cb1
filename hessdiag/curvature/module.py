"""The user's module as a function of θ.

This file, with ``copies`` and ``calling`` under it, is the only one that touches the user's module:
a private copy of it is called, whose modes, types, hooks and weights are ours.
Every call starts from the same state and computes in one floating type, without autocast, compiler
or activation checkpointing.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from hessdiag.curvature.calling import OneType, eager_calls, refusal, without_checkpointing
from hessdiag.curvature.copies import Memo, memories, private_copy
from hessdiag.curvature.kernels import undisturbed
from hessdiag.errors import InputError, is_out_of_memory, unknown
from hessdiag.linalg import devices

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from hessdiag.curvature.shards import Sharding

BN_MODES = ("eval", "batch")
_EVERY = (1, 2, 3, 5)
_MEMBERS = ("_parameters", "_buffers", "_modules")
_OF_MODULES = {*vars(nn.Module())}  # attributes that every module has


class Network:
    """A module called as a function of its chosen parameters θ.

    Args:
        model: the user's; it is copied and never changed.
        params: glob or globs over parameter names; None for all. Frozen ones are left out.
        bn: "eval" uses BatchNorm's running statistics, "batch" those of each batch as given.
        dtype: float32 or float64; None for that of the parameters, or float32 for a narrower one.
        device: None for that of the parameters.
        shard: mesh over whose last dimension each parameter is cut; None for a network that every
            process holds whole, or whose parameters are DTensors.

    Attributes:
        source: the module as it was given.
        sharding: how parameters lie over processes; None where they are whole.
        module: the copy, with dropout off.
        parameters: θ by name.
        notes: what its user should know of the copy.

    Raises:
        InputError: no parameter left, unknown mode, non-finite weights, a module that cannot be
            copied, weights that share their memory.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        params: str | Sequence[str] | None = None,
        bn: str = "eval",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shard: DeviceMesh | None = None,
        sharding: Sharding | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(
                "the model is no torch.nn.Module",
                got=f"the class {model.__name__}"
                if isinstance(model, type)
                else type(model).__name__,
                hint="its method module() makes one" if hasattr(model, "graph_module") else None,
            )
        if bn not in BN_MODES:
            raise unknown("BatchNorm mode", bn, BN_MODES)
        self.bn, self.params = bn, params
        if dtype not in (None, torch.float32, torch.float64):
            raise InputError("unusable dtype", got=dtype, wanted="torch.float32 or torch.float64")
        try:
            device = None if device is None else torch.device(device)
        except RuntimeError as error:
            raise InputError("unknown device", got=device, wanted="cpu, cuda or cuda:i") from error
        for of in (p.device for p in model.parameters()) if device is None else (device,):
            devices.check(of.type)
        narrow: set[str] = set()

        def place(tensor: Tensor) -> Tensor:
            kind = dtype
            if tensor.is_floating_point() and kind is None and tensor.dtype.itemsize < 4:
                narrow.add(str(tensor.dtype).removeprefix("torch."))
                kind = torch.float32
            if tensor.is_complex() and kind is not None:
                kind = torch.promote_types(kind, torch.complex64)
            elif not tensor.is_floating_point():
                kind = None
            if self.sharding is not None:
                tensor = self.sharding.local(tensor)
            return tensor.detach().to(device, kind).clone()

        self.source, self.shard = model, shard
        self.sharding = sharding or _sharding(model, shard)
        with undisturbed():
            self._copy(model, place, {})
            self.parameters = self._choose(params)
        self.notes = tuple(f"the network is in {name}, computed in float32" for name in narrow)
        first = next(iter(self.parameters.values()))
        self.dtype, self.device = first.dtype, first.device
        if self.sharding is not None and self.sharding.mesh.device_type != self.device.type:
            raise InputError(
                "the network is not where the processes of the mesh compute",
                got=f"{self.device}, and a mesh of {self.sharding.mesh.device_type}",
                hint="say where as they join: hessdiag.joined(torch.device('cpu'))",
            )
        _check_batch_norm(self.module, bn)
        for module in self.module.modules():
            module.training = bn == "batch" and isinstance(module, _BatchNorm)
        self._keep_state()

    def displaced(self, steps: Sequence[Tensor]) -> Network:
        """Make the same network at θ + ``steps``, one tensor per parameter; this one stays."""
        moved = copy.copy(self)
        memo: Memo = {id(tensor): tensor for tensor in self.module.parameters()}
        with undisturbed():
            moved.parameters = {
                name: nn.Parameter(tensor.detach() + step)
                for (name, tensor), step in zip(self.parameters.items(), steps, strict=True)
            }
            for name, tensor in self.parameters.items():
                memo[id(tensor)] = moved.parameters[name]
            moved._copy(self.module, lambda tensor: tensor.detach().clone(), memo)
        moved._keep_state()
        return moved

    def in_type(self, dtype: torch.dtype) -> Network:
        """Make the same network computed in another floating type; this one stays."""
        return Network(self.module, bn=self.bn, dtype=dtype, sharding=self.sharding)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module, with a graph to :attr:`parameters` if gradients are enabled.

        Raises:
            InputError: the module cannot take these arguments, or changes its own weights.
        """
        first = not self._sums
        if first:
            self._sums = self._weight_sums()
        with self._same_state(), self.calling():
            try:
                result = self.module(*args, **kwargs)
                self._check_bindings()
            except InputError:
                raise
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise refusal(error, (*args, *kwargs.values())) from error
        if first:
            self.check_weights()
        return result

    @contextmanager
    def calling(self) -> Generator[None]:
        """Within the block, a module of the network computes as it does in a call."""
        with (
            eager_calls(self.dtype),
            without_checkpointing(),
            OneType(self.dtype, self.foreign),
            self.sharding.gathering() if self.sharding else nullcontext(),
        ):
            yield

    def gathering(self) -> AbstractContextManager[None]:
        """Within the block, graphs of calls keep shards, and gather them again as they go back."""
        return self.sharding.gathered.again() if self.sharding else nullcontext()

    def _copy(self, model: nn.Module, place: Callable[[Tensor], Tensor], memo: Memo) -> None:
        """Copy the module; note which tensors must not be used in a call."""
        registered = {id(tensor) for tensor in model.parameters()}
        shared = memories(model)
        kept = dict(getattr(self, "foreign", {}))
        foreign: dict[int, tuple[Tensor, str]] = {}

        def placed(tensor: Tensor) -> Tensor:
            result = place(tensor)
            if id(tensor) in kept:
                foreign[id(result)] = result, kept[id(tensor)][1]
            elif id(tensor) not in registered:
                name = shared.get(tensor.untyped_storage().data_ptr()) if tensor.numel() else None
                if name or tensor.grad_fn is not None:
                    foreign[id(result)] = result, f"a tensor made from {name or 'the weights'}"
            return result

        self.module = private_copy(model, placed, memo)
        if self.sharding is not None:
            self.sharding = self.sharding.follow((t, memo[id(t)]) for t in model.parameters())
        for own in map(vars, self.module.modules()):  # no part of the function that the module is
            own["_backward_hooks"].clear()
            own["_backward_pre_hooks"].clear()
        for name, tensor in model.named_parameters():
            if tensor.requires_grad and memo[id(tensor)] is not tensor:
                foreign[id(tensor)] = tensor, f"{name}, by a function outside of the module"
        self.foreign = foreign
        self._sums: dict[str, list[float]] = {}  # before the first call

    def _choose(self, params: str | Sequence[str] | None) -> dict[str, Tensor]:
        """Make leaves of the chosen parameters and constants of all others.

        A tied weight goes by its first name, and is chosen by any of its names.
        """
        names: dict[int, list[str]] = {}
        for name, tensor in self.module.named_parameters(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
        globs = ["*"] if params is None else [params] if isinstance(params, str) else list(params)
        chosen: dict[str, Tensor] = {}
        trainable: list[str] = []
        for name, tensor in [*self.module.named_parameters(), *self.module.named_buffers()]:
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InputError(f"the weights of {name} are not finite", got="NaN or Inf")
            if not isinstance(tensor, nn.Parameter) or not tensor.requires_grad:
                continue
            trainable += names[id(tensor)]
            if any(fnmatch.fnmatchcase(own, glob) for own in names[id(tensor)] for glob in globs):
                chosen[name] = tensor
            else:
                tensor.requires_grad_(False)
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
        if len(kinds) > 1 or next(iter(kinds))[0].is_complex:
            raise InputError(
                "the parameters differ in type or device"
                if len(kinds) > 1
                else "the parameters are complex numbers",
                got=", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)),
                hint="pass dtype= and device=" if len(kinds) > 1 else None,
            )
        return chosen

    def _keep_state(self) -> None:
        self._state = [
            (own, dict(own), {name: dict(own[name]) for name in _MEMBERS})
            for own in map(vars, self.module.modules())
        ]
        self._containers: list[tuple[Any, Any]] = []  # that attributes hold, with what they hold
        seen: set[int] = set()
        pending: list[Any] = [
            value
            for _, attributes, _ in self._state
            for name, value in attributes.items()
            if name not in _OF_MODULES
        ]
        while pending:
            value = pending.pop()
            if isinstance(value, tuple):
                pending.extend(cast("tuple[Any, ...]", value))
            elif isinstance(value, (dict, list, set)) and id(value) not in seen:
                seen.add(id(value))
                self._containers.append((value, value.copy()))
                pending.extend(value.values() if isinstance(value, dict) else value)

    @contextmanager
    def _same_state(self) -> Generator[None]:
        """Let a call start from the state that was copied, with buffers of its own."""
        try:
            for own, _, members in self._state:
                for name, buffer in members["_buffers"].items():
                    if buffer is not None and id(buffer) not in self.foreign:
                        own["_buffers"][name] = buffer.clone()
            yield
        finally:
            for own, attributes, members in self._state:
                own.clear()
                own.update(attributes)
                for name, kept in members.items():
                    own[name].clear()
                    own[name].update(kept)
            for container, held in self._containers:
                if not _holds(container, held):
                    container.clear()
                    container.extend(held) if isinstance(container, list) else container.update(
                        held
                    )

    def check_weights(self) -> None:
        """Refuse a module whose calls have moved its weights: what is then its derivative?

        Raises:
            InputError: they have.
        """
        for name, sums in self._weight_sums().items():
            known = self._sums.get(name, sums)
            if not np.array_equal(sums, known, equal_nan=True):  # far away they are not finite
                raise _moves(name, "moved")

    def _weight_sums(self) -> dict[str, list[float]]:
        """Sum each parameter up, and parts of it, so that no rearrangement goes unseen."""
        with torch.no_grad():
            return {
                name: [float(t.flatten()[::n].sum(dtype=torch.float64)) for n in _EVERY]
                for name, t in self.module.named_parameters()
            }

    def _check_bindings(self) -> None:
        for own, _, members in self._state:
            for name, tensor in members["_parameters"].items():
                if own["_parameters"].get(name) is not tensor:
                    raise _moves(name, "replaced")


def _moves(name: str, got: str) -> InputError:
    return InputError(
        "the network changes its own weights as it runs",
        got=f"{name} {got} within forward",
        wanted="weights that meet their constraint before the call",
        hint="run the network once on its data, so that its weights are settled",
    )


def _holds(container: Any, held: Any) -> bool:
    """Tell whether a container holds the same things still."""
    if len(container) != len(held) or isinstance(container, set):
        return container == held
    if isinstance(container, dict):
        return all(key in container and container[key] is held[key] for key in held)
    return all(a is b for a, b in zip(container, held, strict=True))


def _sharding(model: nn.Module, shard: DeviceMesh | None) -> Sharding | None:
    if shard is None and not any(type(p).__name__ == "DTensor" for p in model.parameters()):
        return None
    from hessdiag.curvature.shards import Sharding  # seconds to import

    return Sharding.of(model, shard)


def _check_batch_norm(model: nn.Module, bn: str) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None and bn == "eval":
            raise InputError(
                f"BatchNorm layer {name} keeps no running statistics",
                got="track_running_stats=False with bn='eval'",
                wanted="bn='batch', which normalises each batch by itself",
            )
