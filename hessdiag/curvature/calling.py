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
from torch.utils import checkpoint

from hessdiag.curvature.composition import Composed
from hessdiag.errors import InputError


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
        kwargs = kwargs or {}
        name: str = getattr(func, "__name__", "")
        if name in _NARROWING and args[0].is_floating_point():
            func, args = Tensor.to, (args[0], self._wide(_NARROWING[name]))
        for value in args:
            if isinstance(value, torch.dtype):
                args = tuple(map(self._wide, args))
            elif id(value) in self._foreign and name != "__get__":
                raise _kept(self._foreign[id(value)][1])
            elif isinstance(value, (tuple, list)) and not self._foreign.keys().isdisjoint(
                map(id, value)
            ):
                raise _kept("one of them, among several tensors")
        if "dtype" in kwargs:
            kwargs = {**kwargs, "dtype": self._wide(kwargs["dtype"])}
        with torch._C._DisableAutocast():  # pyright: ignore[reportPrivateUsage]
            return super().__torch_function__(func, types, args, kwargs)

    def _wide(self, dtype: Any) -> Any:
        """Widen a floating type to that of the network, as θ's derivatives are computed in it."""
        narrow = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        return self._dtype if narrow and dtype.itemsize < self._dtype.itemsize else dtype


_NARROWING = {"float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}


class _NotCheckpointed:
    """Stands for reentrant checkpointing: calls what it is given."""

    @staticmethod
    def apply(function: Callable[..., Any], _: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def plain_calls(dtype: torch.dtype) -> Generator[None]:
    """Run without compiler and activation checkpointing; new tensors are of the network's type.

    Checkpointing saves nothing here, as the graph of a derivative holds the recomputed tensors too.
    """
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(mock.patch.object(checkpoint, "CheckpointFunction", _NotCheckpointed))
        stack.enter_context(mock.patch.object(checkpoint, "_checkpoint_hook", nullcontext))
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(dtype)
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
    r"size|shape|dimension|channels|mat1": "check that the network and the data belong together",
}
"""What to do about an error of the network's, by what it says."""
