"""A private copy of the user's module, so that nothing done to it reaches theirs.

The copy keeps what the module keeps: two names of one tensor stay one tensor, in lists and other
attributes too, and functions that hold on to the module are bound to its copy.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hessdiag.errors import InputError

Memo = dict[int, Any]
"""Copies by the ``id`` of what they are copies of, as ``copy.deepcopy`` keeps them."""
_WITHIN = ("_orig_mod", "_forward_module")  # of torch.compile and of Lightning Fabric
_SHARDED = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Take off what compiles a module or spreads it over devices.

    Raises:
        InputError: it is spread so that no process holds it whole.
    """
    while True:
        kinds = {kind.__name__ for kind in type(model).__mro__}
        if kinds.intersection(_SHARDED):
            raise _sharded(type(model).__name__)
        if isinstance(model, torch.jit.ScriptModule):  # it is refused where it is copied
            return model
        inner = model.module if isinstance(model, _PARALLEL) else None
        for name in _WITHIN:
            inner = inner or vars(model)["_modules"].get(name)
        if inner is None:
            return model
        model = inner


def private_copy(model: nn.Module, place: Callable[[Tensor], Tensor], memo: Memo) -> nn.Module:
    """Copy a module with all that belongs to it.

    Args:
        model: the module; it stays as it is.
        place: makes the copy of a tensor, sharing no memory with it.
        memo: filled with the copies; those that it has already are taken as they are.

    Raises:
        InputError: weights that are not there to be copied.
    """
    model = unwrapped(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                "the network is compiled by TorchScript, which hides what it computes",
                got=name or type(module).__name__,
                wanted="the module that it was made from",
            )
    for name, parameter in model.named_parameters():
        _check_there(name, parameter)
        if id(parameter) not in memo:
            moved = place(parameter)
            memo[id(parameter)] = nn.Parameter(moved, parameter.requires_grad)
    with _Placing(place):
        for module in reversed(list(model.modules())):  # wrappers within, from the inside out
            if unwrapped(module) is not module:
                memo[id(module)] = copy.deepcopy(unwrapped(module), memo)
        before = dict(memo)
        try:
            result = copy.deepcopy(model, memo)
        except Exception:  # locks, files, streams: the copy has to do with the same ones
            memo.clear()
            memo.update(before)
            for module in model.modules():
                for value in vars(module).values():
                    if id(value) not in memo and not _can_be_copied(value, memo):
                        memo[id(value)] = value
            try:
                result = copy.deepcopy(model, memo)
            except Exception as error:
                raise InputError(
                    "the network cannot be copied",
                    got=f"{type(error).__name__}: {error}",
                    wanted="a module that copy.deepcopy can copy",
                ) from error
    for own in map(vars, result.modules()):
        values: dict[Any, Any]
        for values in (own, own["_forward_hooks"], own["_forward_pre_hooks"]):
            for key, value in list(values.items()):
                if values is not own and _spreads(value):
                    del values[key]
                    continue
                if isinstance(value, (FunctionType, MethodType, functools.partial)):
                    values[key] = _rebound(value, memo)
    return result


def memories(model: nn.Module) -> dict[int, str]:
    """Name the trainable parameter that lives in a storage.

    Raises:
        InputError: two of them share their memory, so that they cannot move apart.
    """
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for name, tensor in model.named_parameters():
        _check_there(name, tensor)
        if tensor.requires_grad and tensor.numel():
            if (whole := getattr(tensor, "to_local", None)) is not None:  # of a DTensor
                tensor = whole()
            start = int(tensor.storage_offset())
            extent = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
            span = start, start + extent, name
            spans.setdefault(tensor.untyped_storage().data_ptr(), []).append(span)
    for within in spans.values():
        within.sort()
        for (_, end, name), (start, _, other) in pairwise(within):
            if start <= end:
                raise InputError(
                    "two parameters share one memory",
                    got=f"{name} and {other}",
                    wanted="one nn.Parameter under both names, or two apart",
                )
    return {pointer: within[0][2] for pointer, within in spans.items()}


class _Placing(TorchFunctionMode):
    """Within the block, ``copy.deepcopy`` copies tensors as asked, with or without a graph."""

    def __init__(self, place: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._place = place

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self._place(tensor)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _can_be_copied(value: Any, memo: Memo) -> bool:
    """Tell whether a value can be copied; nothing is kept of the copy."""
    if isinstance(value, (nn.Module, Tensor)) or (
        isinstance(value, dict) and any(isinstance(v, nn.Module) for v in value.values())
    ):
        return True
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        return False
    return True


def _spreads(hook: Any) -> bool:
    """Tell whether a hook makes DTensors of what passes; here layers are called whole."""
    hook = hook.func if isinstance(hook, functools.partial) else hook
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.tensor.")


def _rebound(value: Any, memo: Mapping[int, Any]) -> Any:
    """Bind a function that closes over the module or its tensors to their copies, uncompiled."""
    value = getattr(value, "_torchdynamo_orig_callable", value)
    if isinstance(value, MethodType):
        own = value.__self__
        return MethodType(_rebound(value.__func__, memo), memo.get(id(own), own))
    if isinstance(value, functools.partial):
        return functools.partial(_rebound(value.func, memo), *value.args, **value.keywords)
    if isinstance(value, (nn.Module, Tensor)):
        return memo.get(id(value), value)
    if not isinstance(value, FunctionType) or not value.__closure__:
        return value
    cells: list[CellType] = []
    for cell in value.__closure__:
        try:
            within = cell.cell_contents
            bound = value if within is value else _rebound(within, memo)
        except ValueError:  # not filled yet
            cells.append(cell)
        else:
            cells.append(cell if bound is within else CellType(bound))
    if all(new is old for new, old in zip(cells, value.__closure__, strict=True)):
        return value
    result = FunctionType(
        value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells)
    )
    result.__kwdefaults__ = value.__kwdefaults__
    return functools.update_wrapper(result, value)


def _check_there(name: str, parameter: Tensor) -> None:
    if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
        raise InputError(
            "a weight has no shape yet",
            got=f"{name}, of a lazy module",
            hint="call the network once on a batch before",
        )
    if parameter.is_meta:
        raise InputError(
            "a weight is not in memory",
            got=f"{name} on the meta device",
            hint="load the weights, without offloading them",
        )


def _sharded(got: str) -> InputError:
    return InputError(
        "the network is wrapped by what hides its weights and their derivatives",
        got=got,
        wanted="the module within, or one whose parameters are plain DTensors",
        hint="load its full state dict into the module, and pass that with shard=True",
    )
