"""Whole parameters within graphs, which hold shards in their place."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_flatten, tree_unflatten

from hessdiag.curvature.spread import Spread


class Gathered:
    """Whole parameters within graphs: not kept, but gathered again where a backward pass asks."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, Tensor, Spread]] = {}
        self._last: tuple[Tensor | None, Tensor | None] = None, None

    def of(self, shard: Tensor, spread: Spread) -> Tensor:
        """Gather a parameter, with a graph that leads to its shard."""
        whole = spread.whole(shard)
        self._remember(whole, shard, spread)
        return whole

    def layer(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        spreads: Mapping[int, tuple[Tensor, Spread]],
    ) -> Tensor:
        """Call a layer whose parameters are gathered anew in the backward pass, as a part of it.

        In a product, a parameter's gradient is the sum of what the way forth and the way back
        bring. Both would lead to one gathering, where a whole gradient of every layer would wait
        for the second part; so each part is cut to its shard at once.
        """
        items, form = tree_flatten((args, kwargs))
        at = [place for place, item in enumerate(items) if isinstance(item, Tensor)]
        tensors = [items[place] for place in at]
        lies = [spreads.get(id(tensor), (None, None))[1] for tensor in tensors]
        if not any(lies):
            return func(*args, **kwargs)
        rest = [None if isinstance(item, Tensor) else item for item in items]

        def call(*given: Tensor) -> Tensor:
            filled = list(rest)
            for place, tensor, spread in zip(at, given, lies, strict=True):
                filled[place] = tensor if spread is None else self.of(tensor, spread)
            own_args, own_kwargs = tree_unflatten(filled, form)
            return func(*own_args, **own_kwargs)

        return _Layer.apply(call, *tensors)  # pyright: ignore[reportReturnType]

    def shard_of(self, whole: Any) -> Any:
        """Give the shard that a whole parameter was gathered from; anything else as it is."""
        known = isinstance(whole, Tensor) and self._known.get(_key(whole.untyped_storage()))
        return known[1] if known and not known[0].expired() else whole

    def _remember(self, whole: Tensor, shard: Tensor, spread: Spread) -> None:
        storage = whole.untyped_storage()
        if len(self._known) > 1000:
            self._known = {k: v for k, v in self._known.items() if not v[0].expired()}
        self._known[_key(storage)] = StorageWeakRef(storage), shard, spread

    @contextmanager
    def again(self, saw: Callable[[Tensor], Any] = lambda _: None) -> Generator[None]:
        """Within the block, graphs hold shards in place of whole parameters.

        Args:
            saw: called with each of the other tensors that they hold.
        """
        self._saw = saw
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self._last = None, None

    def _pack(self, tensor: Tensor) -> Any:
        if tensor.is_sparse or tensor.is_conj() or tensor.is_neg():
            return tensor
        known = self._known.get(_key(tensor.untyped_storage()))
        if known is None or known[0].expired() or tensor.dtype != known[1].dtype:
            self._saw(tensor)
            return tensor, tensor._version
        return _View(
            known[1], known[2], tensor.shape, tensor.stride(), int(tensor.storage_offset())
        )

    def _unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        if not isinstance(kept, _View):
            tensor, version = kept
            if tensor._version != version:
                raise RuntimeError(
                    "a tensor needed for the gradient has been modified by an inplace operation"
                )
            return tensor
        shard, whole = self._last
        if shard is not kept.shard or whole is None:
            self._last = None, None  # its memory first
            with torch.no_grad():
                whole = kept.spread.whole(kept.shard)
            self._remember(whole, kept.shard, kept.spread)
            self._last = kept.shard, whole
        return whole.as_strided(kept.shape, kept.stride, kept.offset)


class _Layer(torch.autograd.Function):
    """A call that is repeated in the backward pass, which thereby has derivatives of its own."""

    @staticmethod
    def forward(ctx: Any, call: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        return call(*tensors)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        again, needed = torch.is_grad_enabled(), ctx.needs_input_grad[1:]
        tensors: list[Tensor] = list(ctx.saved_tensors)
        with torch.enable_grad():
            for place, tensor in enumerate(tensors):
                if needed[place]:  # a name of its own: its history has no part in this
                    of = tensor if again else tensor.detach().requires_grad_()
                    tensors[place] = of.view_as(of)
            wanted = [t for t, own in zip(tensors, needed, strict=True) if own]
            result = ctx.call(*tensors)
            grads = iter(torch.autograd.grad(result, wanted, along, create_graph=again))
        return None, *(next(grads) if own else None for own in needed)


@dataclass(frozen=True)
class _View:
    shard: Tensor
    spread: Spread
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


def _key(storage: torch.UntypedStorage) -> int:
    return storage._cdata  # pyright: ignore[reportPrivateUsage]
