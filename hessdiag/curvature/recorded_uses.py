"""What a network does with its parameters, written down, and pulled back example by example.

Layers have rules; every other function is differentiated by itself, for each example alone. What is
made of parameters alone, as a weight that is normalised, is a parameter until it is pulled back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hessdiag.curvature.attention import COMPOSED
from hessdiag.curvature.example_gradients import (
    OF_NONE,
    SECOND,
    Factors,
    dense,
    place_of,
)
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.curvature.layer_gradients import RULES
from hessdiag.errors import is_out_of_memory

_ADDING = ("add_", "sub_")
"""Whose derivatives do not depend on what they change."""
_EXPANDING = ("expand", "expand_as", "broadcast_to")

View = tuple[tuple[int, ...], tuple[int, ...], int]
"""Shape, strides and offset."""
Parts = Iterator[tuple[tuple[int, View], Factors | Tensor]]
Pull = Callable[[Tensor], Parts]
"""Turns the gradient at a function's output into what it is in each parameter, by key."""

Plan = list[tuple[str, tuple[str, ...]]]
"""Functions in their order, and where each of their tensors has its examples."""


@dataclass(frozen=True)
class Call:
    """A function called with parameters, with views of them, or with what is made of them alone.

    Attributes:
        name: the function's.
        func: itself.
        args: of the call.
        kwargs: likewise.
        leaves: the parameters among them.
        y: the result.
    """

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: list[Tensor]
    y: Tensor

    @property
    def others(self) -> list[Tensor]:
        """The other tensors among the arguments."""
        return [t for t in _tensors((self.args, self.kwargs)) if not _is_in(t, self.leaves)]

    def by_rule(self, places: dict[int, str], count: int) -> Pull | None:
        """Find how a layer with a rule pulls back."""
        if self.name not in RULES or (self.name == "embedding" and self.func is torch.embedding):
            return None
        names, rule = RULES[self.name]
        given = dict(zip(names.split(), self.args, strict=False)) | self.kwargs
        keys = {k: _key(t) for k, t in given.items() if _is_in(t, self.leaves)}
        place = places.get(id(given.get("input")), OF_NONE)
        if place == OF_NONE or not {"weight", "bias"}.issuperset(keys):
            return None
        given = {k: t.detach() if isinstance(t, Tensor) else t for k, t in given.items()}
        pull = rule(self.func, given, place, count)
        return pull and (lambda g: ((keys[k], part) for k, part in pull(g, keys) if k in keys))

    def pull_back(self, g: Tensor) -> Parts:
        """Pull gradients by example back to what y is made of."""
        parts = _mapped(self._vjp({}), g)
        yield from zip(map(_key, self.leaves), parts, strict=True)

    def pull_each(self, g: Tensor, places: Sequence[str], count: int) -> Parts:
        """Pull each example's gradient back through a call with that example alone.

        Args:
            g: at y.
            places: where y and the other tensors have their examples.
            count: N.
        """
        of_others = zip(self.others, places[1:], strict=True)
        apart = {id(t): _apart(t.detach(), p, count) for t, p in of_others if p != OF_NONE}

        def one(g_n: Tensor, *own: Tensor) -> tuple[Tensor, ...]:
            return self._vjp(dict(zip(apart, own, strict=True)))(g_n)

        parts = _mapped(one, _apart(g, places[0], count), *apart.values())
        yield from zip(map(_key, self.leaves), parts, strict=True)

    def pull_expanded(self, g: Tensor) -> Parts:
        """Pull back through a view that repeats a parameter for each example."""
        (leaf,) = self.leaves
        shape = (1,) * (g.ndim - leaf.ndim) + leaf.shape
        dims = [d for d in range(1, g.ndim) if shape[d] == 1 < g.shape[d]]
        yield _key(leaf), g.sum(dims, keepdim=True) if dims else g

    def _vjp(self, moved: dict[int, Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """Differentiate in the leaves, with other tensors in the place of some."""

        def again(*values: Tensor) -> Tensor:
            own = moved | {id(t): value for t, value in zip(self.leaves, values, strict=True)}
            args, kwargs = _replaced((self.args, self.kwargs), own)
            if self.y is self.args[0]:  # in place
                args = args[0].clone(), *args[1:]
            return self.func(*args, **kwargs)

        return torch.func.vjp(again, *(t.detach() for t in self.leaves))[1]


class Recorded(TorchFunctionMode):
    """Within the block, what functions do with parameters is written down.

    Args:
        parameters: all.
        count: N, examples of the batch.
        plan: where an earlier call found the examples of each tensor; None to find them now.

    Attributes:
        plan: what was found, or followed.
    """

    def __init__(self, parameters: Sequence[Tensor], count: int, plan: Plan | None = None) -> None:
        super().__init__()
        self.count, self.plan = count, [] if plan is None else plan
        self._follows = plan is not None
        self._uses: list[tuple[Any, Pull]] = []  # by the edge of its result in the graph
        self._num_calls = 0
        self._roots = {id(tensor): tensor for tensor in parameters}
        self._made: list[Call] = []  # whose results are made of parameters alone
        self._expanded: dict[int, Tensor] = {}
        self._reason = ""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name: str = getattr(func, "__name__", "")
        if name in COMPOSED:
            with self:
                result = COMPOSED[name](*args, **kwargs)
            if result is not None:
                return result
        leaves = [t for t in _tensors((args, kwargs)) if self._is_leaf(t)]
        if not leaves or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        versions = [t._version for t in _tensors((args, kwargs))]
        y = func(*args, **kwargs)
        changes = versions != [t._version for t in _tensors((args, kwargs))]
        if name in _EXPANDING and len(y) == self.count != len(leaves[0]):
            self._expanded[id(y)] = y  # a view, but one an example
        made = [t for t in _tensors(y) if t.requires_grad and not self._is_leaf(t)]
        if made and made[0] is y and (not changes or name in _ADDING):
            self._record(Call(name.rstrip("_"), func, args, kwargs, leaves, y))
        elif made or changes:
            self._give_up(f"{name} of a parameter")
        return y

    def pulled(self, z: Tensor, u: Tensor) -> Iterator[list[Factors | Tensor]]:
        """Differentiate ⟨z, u⟩: yield what each parameter's gradient is the sum of.

        Raises:
            Unsupported: a parameter is used in a way of which that is not known.
        """
        if self._reason:
            raise Unsupported(self._reason)
        if self._num_calls != len(self.plan):
            raise Unsupported("a network that does in one batch otherwise than in another")
        gradients = torch.autograd.grad(
            z, [edge for edge, _ in self._uses], u, retain_graph=True, allow_unused=True
        )
        found: dict[int, dict[View, list[Factors | Tensor]]] = {}

        def take(parts: Parts) -> None:
            for (root, view), part in parts:
                found.setdefault(root, {}).setdefault(view, []).append(part)

        with torch.no_grad():
            for (_, pull), gradient in zip(self._uses, gradients, strict=True):
                if gradient is not None:  # pyright: ignore[reportUnnecessaryComparison]
                    take(pull(gradient))
            for call in reversed(self._made):
                if (views := found.pop(id(call.y), None)) is not None:
                    take(call.pull_back(_joined(views, call.y)))
            for root, views in found.items():
                (parts, *more) = views.values()
                yield [_joined(views, self._roots[root])] if more else parts

    def _is_leaf(self, tensor: Tensor) -> bool:
        """Tell whether it is a parameter, a view of one, or made of such alone."""
        if not tensor.requires_grad or id(tensor) in self._expanded:
            return False
        return id(_root(tensor)) in self._roots

    def _record(self, call: Call) -> None:
        places = self._places(call)
        of_others = {id(t): place for t, place in zip(call.others, places[1:], strict=True)}
        if places[0] == OF_NONE:  # made of parameters alone, or of all examples
            if any(t.requires_grad for t in call.others):
                self._give_up(f"{call.name}, in which examples cannot be told apart")
            self._roots[id(call.y)] = call.y
            self._made.append(call)
        elif id(call.y) in self._expanded:
            self._use(call.y, call.pull_expanded)
        elif (pull := call.by_rule(of_others, self.count)) is not None:
            self._use(call.y, pull)
        else:
            self._use(call.y, lambda g: call.pull_each(g, places, self.count))

    def _use(self, y: Tensor, pull: Pull) -> None:
        self._uses.append((torch.autograd.graph.get_gradient_edge(y), pull))

    def _give_up(self, reason: str) -> None:
        self._reason = self._reason or reason

    def _places(self, call: Call) -> tuple[str, ...]:
        """Find where a call's result and other tensors have their examples, or follow the plan."""
        others = [place_of(t, self.count) for t in call.others]
        is_of_none = id(call.y) not in self._expanded and {OF_NONE}.issuperset(others)
        own = call.name, (OF_NONE if is_of_none else place_of(call.y, self.count), *others)
        if not self._follows:
            self.plan.append(own)
        planned = self.plan[self._num_calls] if self._num_calls < len(self.plan) else own
        self._num_calls += 1
        if planned[0] != own[0] or len(planned[1]) != len(own[1]):
            self._give_up("a network that does in one batch otherwise than in another")
            return own[1]
        return planned[1]


def _mapped(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """Apply to each example by itself."""
    try:
        return torch.func.vmap(function)(*tensors)
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise Unsupported("a function of parameters that takes no example by itself") from error


def _root(tensor: Tensor) -> Tensor:
    base: Tensor | None = tensor._base  # pyright: ignore[reportAssignmentType]
    return tensor if base is None else base


def _key(tensor: Tensor) -> tuple[int, View]:
    """Name a parameter, or what is made of some, and a view of it."""
    view = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
    return id(_root(tensor)), view


def _joined(views: dict[View, list[Factors | Tensor]], root: Tensor) -> Tensor:
    """Sum gradients by example in views into that in what they are views of, ``(N, …)``."""
    size = 1 + sum((n - 1) * step for n, step in zip(root.shape, root.stride(), strict=True))
    like = dense(next(iter(views.values()))[0])
    total = like.new_zeros(len(like), size)
    for (shape, strides, offset), parts in views.items():
        for part in map(dense, parts):
            own = part.reshape(len(part), *shape)
            repeated = [d for d, step in enumerate(strides, 1) if step == 0]
            own = own.sum(repeated, keepdim=True) if repeated else own
            start = offset - int(root.storage_offset())
            total.as_strided(own.shape, (size, *strides), start).add_(own)
    return total.as_strided((len(total), *root.shape), (size, *root.stride()))


def _apart(tensor: Tensor, place: str, count: int) -> Tensor:
    """Put examples first, each of them as a batch of one."""
    if place == SECOND:
        return tensor.movedim(1, 0).unsqueeze(2)
    return tensor.unflatten(0, (count, -1))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _replaced(value: Any, by: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return by.get(id(value), value.detach())
    if isinstance(value, dict):
        return {key: _replaced(item, by) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_replaced(item, by) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _is_in(value: Any, tensors: Sequence[Tensor]) -> bool:
    return any(value is tensor for tensor in tensors)
