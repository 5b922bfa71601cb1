"""How a network is called: in one floating type, eagerly, and with words for what goes wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from hessdiag.curvature.composition import Composed
from hessdiag.curvature.kernels import ONE_AT_A_TIME
from hessdiag.errors import InputError


class Widened(TorchFunctionMode):
    """Within the block, nothing is computed in a floating type narrower than ``dtype``."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        func, args, kwargs = widened(self._dtype, func, args, kwargs or {})
        return func(*args, **kwargs)


def widened(
    dtype: torch.dtype, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Replace the floating types that a call names by ``dtype`` where they are narrower."""

    def wide(given: Any) -> Any:
        narrow = isinstance(given, torch.dtype) and given.is_floating_point
        return dtype if narrow and given.itemsize < dtype.itemsize else given

    name = getattr(func, "__name__", "")
    if name in _NARROWING:
        return Tensor.to, (args[0], wide(_NARROWING[name])), kwargs
    if any(isinstance(value, torch.dtype) for value in args):
        args = tuple(map(wide, args))
    if "dtype" in kwargs:
        kwargs = {**kwargs, "dtype": wide(kwargs["dtype"])}
    return func, args, kwargs


class OneType(Composed):
    """Within the block, a module's calls of torch compute in one floating type, or a wider one.

    Args:
        dtype: the type.
        foreign: tensors that no call may use, with what they are, by ``id``.
    """

    def __init__(self, dtype: torch.dtype, foreign: Mapping[int, tuple[Tensor, str]]) -> None:
        super().__init__()
        self._dtype, self._foreign = dtype, foreign

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        func, args, kwargs = widened(self._dtype, func, args, kwargs or {})
        if self._foreign and getattr(func, "__name__", "") != "__get__":
            self._check(args)
        with torch._C._DisableAutocast():  # pyright: ignore[reportPrivateUsage]
            return super().__torch_function__(func, types, args, kwargs)

    def _check(self, args: Sequence[Any]) -> None:
        for value in args:
            if isinstance(value, (tuple, list)):
                self._check(value)
            elif id(value) in self._foreign:
                raise _kept(self._foreign[id(value)][1])


_NARROWING = {"float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}


class _NotCheckpointed:
    """Stands for reentrant checkpointing: calls what it is given."""

    @staticmethod
    def apply(function: Callable[..., Any], _: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def eager_calls(dtype: torch.dtype) -> Generator[None]:
    """Run without compiler; new tensors are of the network's type."""
    with ONE_AT_A_TIME, ExitStack() as stack:
        default = torch.get_default_dtype()
        if "torch._dynamo" in sys.modules:  # else nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(dtype)
        yield


@contextmanager
def without_checkpointing() -> Generator[None]:
    """Keep what activation checkpointing would compute again.

    It would save nothing, as the graph of a derivative holds what is computed again, too.
    """
    with (
        ONE_AT_A_TIME,
        mock.patch.object(checkpoint, "CheckpointFunction", _NotCheckpointed),
        mock.patch.object(checkpoint, "_checkpoint_hook", nullcontext),
    ):
        yield


def _kept(what: str) -> InputError:
    return InputError(
        "a weight is used where the network's parameters do not reach",
        got=what,
        wanted="weights that are used as the module's own parameters",
        hint="compute what is made from them within forward",
    )


def refusal(error: Exception, args: Sequence[Any]) -> InputError:
    """Say why a call failed, with the hint that fits."""
    text = str(error).split("\n")[0]
    shapes = ", ".join(str(tuple(v.shape)) for v in args if isinstance(v, Tensor))
    hint = "the error is the network's own: call it on a batch by itself to see where"
    for pattern, remedy in _HINTS.items():
        if re.search(pattern, f"{type(error).__name__}: {text}"):
            hint = remedy
            break
    return InputError(
        "the network cannot take this input",
        got=f"inputs of shape {shapes or 'unknown'}: {type(error).__name__}: {text}",
        hint=hint,
    )


_HINTS = {
    r"positional argument|unexpected keyword|required argument": "inputs are passed on as the "
    "network's arguments: a tuple in order, a mapping by name",
    r"index out of range|IndexError": "inputs that are indices must lie within the embedding",
    r"dtype|scalar type|Long|Expected .* type": "inputs of whole numbers are taken as indices, all "
    "others as real numbers",
    r"same device|on device": "pass device=, so that network and data are on one",
    r"to have \d+ channels, but got": "the images have another number of channels: give the "
    "network theirs (timm's by `model_arg` in_chans=1), or convert the images",
    r"size|shape|dimension|channels|mat1": "check that the network and the data belong together",
}
"""What to do about an error of the network's, by what it says."""
