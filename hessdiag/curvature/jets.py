"""Second-order Taylor mode: what a network computes at θ + t v, with d/dt and d²/dt² at t = 0.

The network runs once, as it is, on plain tensors. Beside every tensor x that depends on θ a table
holds ẋ and ẍ, which the rules of ``jet_rules`` carry through each torch function. They are plain
tensors, with a graph to θ where one reverse pass is to differentiate ``vᵀHv = d²/dt² L(θ + t v)``.

Nothing loses its derivatives unseen: a tensor depends on θ if and only if it requires a gradient,
and one that does but is not in the table, or was changed since, is :class:`Unsupported`.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from hessdiag.curvature.attention import COMPOSED
from hessdiag.curvature.example_signs import Signed
from hessdiag.curvature.jet_rules import (
    SIGNED,
    Derivatives,
    Jet,
    Rule,
    Unsupported,
    find_rule,
    shared,
)
from hessdiag.errors import is_out_of_memory


class Jets(TorchFunctionMode):
    """Within the block, all that torch computes from θ is differentiated twice along v.

    Normalisation by a batch has no rule of its own: enter ``Composed(order=3)`` within.

    Cost: where x takes one convolution, ẋ and ẍ take two each, and the reverse pass through all of
    them eight: 13/3 gradients. Some seven times the memory of a gradient.

    Args:
        parameters: θ; nothing else that the block uses may require a gradient.
        v: the direction, one tensor per parameter, of its shape and dtype; or one an example, see
            :mod:`hessdiag.curvature.example_signs`.
        graph: whether ẋ and ẍ have one.

    Raises:
        Unsupported: within the block, where something depends on a function without a rule.
    """

    def __init__(
        self, parameters: Sequence[Tensor], v: Sequence[Tensor | Signed], *, graph: bool = True
    ) -> None:
        super().__init__()
        self._graph = graph
        self._table: Any = WeakTensorKeyDictionary()  # x: its version, ẋ and ẍ
        for parameter, direction in zip(parameters, v, strict=True):
            self._keep(parameter, direction, None)

    def of(self, tensor: Tensor) -> Jet:
        """Give the derivatives of a tensor that depends on θ.

        Raises:
            Unsupported: a function without a rule made it or changed it.
        """
        version, first, second = self._table.get(tensor, (None, None, None))
        if version != tensor._version:
            raise Unsupported("a function without a rule, which made or changed a tensor")
        return Jet(tensor, first, second)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name: str = func.__name__
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)  # a constant
        if name in COMPOSED:
            with self:
                result = COMPOSED[name](*args, **kwargs)
            if result is not None:
                return result
        in_place = _is_in_place(name, kwargs)
        rule = find_rule(func, args, kwargs)
        if rule is None or not _takes(rule, func, args, kwargs):
            if self._graph or name in _COPYING:
                return func(*args, **kwargs)  # not in the table, if it depends on θ
            rule = _by_forward_mode
        before = (self._copied(args[0]), *args[1:]) if in_place and args else args
        lifted = self._lifted if rule in SIGNED else self._plain
        given = _mapped(lifted, (before, kwargs)) if in_place else None
        result = func(*args, **kwargs)
        outputs = [output for output in _tensors(result) if output.requires_grad]
        if not outputs:
            return result
        jets, options = given or _mapped(lifted, (before, kwargs))
        with torch.set_grad_enabled(self._graph):
            first, second = (list(_tensors(d)) for d in rule(func, *jets, **options))
        for i, output in enumerate(outputs):
            self._keep(output, first[i], second[i] if second else None)
        return result

    def _keep(self, tensor: Tensor, first: Tensor | Signed, second: Tensor | None) -> None:
        first = first if isinstance(first, Signed) else first.expand_as(tensor)
        second = None if second is None else second.expand_as(tensor)
        self._table[tensor] = tensor._version, first, second

    def _lifted(self, tensor: Tensor) -> Jet | Tensor:
        return self.of(tensor) if tensor.requires_grad else tensor

    def _plain(self, tensor: Tensor) -> Jet | Tensor:
        return shared(self.of(tensor)) if tensor.requires_grad else tensor

    def _copied(self, tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        if tensor.requires_grad:
            jet = self.of(tensor)
            self._keep(copy, jet.first, jet.second)
        return copy


_COPYING = ("copy_", "__setitem__")


def _is_in_place(name: str, kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))


def _takes(rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tell whether a rule knows a function called in this way."""
    if isinstance(rule, functools.partial):  # of an elementwise function, found by its arguments
        return True
    try:
        _signature(rule).bind(func, *args, **kwargs)
    except TypeError:
        return False
    return True


_signature = functools.cache(inspect.signature)


def _by_forward_mode(func: Any, *args: Any, **options: Any) -> Derivatives:
    """Differentiate what has no rule of its own: forward mode within forward mode.

    Some twice the cost of a rule.
    """
    jets: list[Jet] = []
    _mapped(jets.append, (args, options), Jet)
    values = tuple(jet.value.detach() for jet in jets)
    firsts = tuple(torch.zeros_like(j.value) if j.first is None else j.first for j in jets)
    seconds = tuple(torch.zeros_like(j.value) if j.second is None else j.second for j in jets)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        given, named = _mapped(lambda _: next(left), (args, options), Jet)
        if _is_in_place(func.__name__, options):
            given = given[0].clone(), *given[1:]
        results = _tensors(func(*given, **named))
        return tuple(result for result in results if result.is_floating_point())

    def slope(at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.func.jvp(function, at, along)[1]

    try:
        with warnings.catch_warnings():  # of torch's own, the first time
            warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)
            first, second = torch.func.jvp(slope, (values, firsts), (firsts, seconds))[:2]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise Unsupported(f"{func.__name__}, which has no forward mode") from error
    return first, second


def _mapped(function: Callable[[Any], Any], value: Any, kind: type = Tensor) -> Any:
    """Map the tensors in arguments, or what is of another kind; all else stays."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(function, item, kind) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_mapped(function, item, kind) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """List the tensors in a result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
