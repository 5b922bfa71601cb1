"""Examples in batches of the user's own form: mappings, tuples, whatever a network takes."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from hessdiag.data import preparation
from hessdiag.data.sources import reason, to_tensor
from hessdiag.errors import InputError

_TOGETHER = 32  # examples of a set without batches that are put into one


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples on the CPU, in batches that a network takes as they are.

    Attributes:
        spec: the ``--data`` value they come from.
        split: ``train`` or ``test``.
        parts: batches; the tensors of one have as many rows as it has examples.
    """

    spec: str
    split: str
    parts: tuple[Any, ...]

    num_classes = None
    input_shape = None

    @functools.cached_property
    def num_samples(self) -> int:
        """Number of examples."""
        return sum(map(num_rows, self.parts))

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the names, dtypes, shapes and bytes of all tensors, in order."""
        digest = hashlib.sha256()
        for name, leaf in leaves(self.parts):
            digest.update(f"{name}\0{leaf.dtype}\0{tuple(leaf.shape)}\0".encode())
            digest.update(leaf.contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def batches(self, size: int) -> list[Any]:
        """Cut the batches into ones of at most ``size`` examples; views, nothing is copied."""
        return [piece for part in self.parts for piece in cut(part, size)]


def gather(spec: str, split: str, found: object, wanted: int, seed: int) -> Examples:
    """Collect the first ``wanted`` examples of whatever a factory returned.

    Args:
        spec: the factory.
        split: named in reports.
        found: a data loader or other iterable of batches; a data set of examples, from which a
            random subset is drawn; a single batch.
        wanted: number of examples, or all if there are fewer.
        seed: of that subset, and of a loader's shuffling.

    Raises:
        InputError: it is nothing of the kind, fails, or is empty.
    """
    parts: list[Any] = []
    count = 0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for batch in _batches(spec, found, wanted, seed):
            part = _mapped(batch, lambda leaf: leaf.detach().cpu())
            if not num_rows(part):
                raise InputError(
                    f"a batch of the data factory {spec} has no examples",
                    got=f"{type(batch).__name__} without tensors of one length",
                    wanted="(inputs, targets), or a mapping of tensors, with an example a row",
                )
            pieces = cut(part, wanted - count)
            parts.append(pieces[0])
            count += num_rows(pieces[0])
            if count >= wanted:
                break
    if not parts:
        raise InputError(f"the data of the factory {spec} are empty")
    return Examples(spec, split, tuple(parts))


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """List the tensors of nested mappings and sequences, with their places."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in cast("Mapping[Any, Any]", tree).items():
            yield from leaves(value, f"{name}.{key}")
    elif isinstance(tree, tuple | list):
        for index, value in enumerate(cast("Sequence[Any]", tree)):
            yield from leaves(value, f"{name}.{index}")


def num_rows(batch: Any) -> int:
    """Count the examples of a batch: the rows of its first tensor."""
    return next((len(leaf) for _, leaf in leaves(batch) if leaf.ndim), 0)


def cut(batch: Any, size: int) -> list[Any]:
    """Cut a batch into ones of at most ``size`` rows; if its tensors differ in rows, it stays."""
    rows = num_rows(batch)
    if size >= rows or any(leaf.ndim and len(leaf) != rows for _, leaf in leaves(batch)):
        return [batch]
    return [_rows(batch, slice(start, start + size)) for start in range(0, rows, size)]


def _rows(tree: Any, rows: slice) -> Any:
    return _mapped(tree, lambda leaf: leaf[rows] if leaf.ndim else leaf)


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Copy nested mappings and sequences with their tensors changed; arrays become tensors."""
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biuf":
        tree = to_tensor(tree)
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        items = cast("Mapping[Any, Any]", tree).items()
        return {key: _mapped(value, change) for key, value in items}
    if isinstance(tree, tuple | list):
        values = [_mapped(value, change) for value in cast("Sequence[Any]", tree)]
        named: Any = type(tree)
        return named(*values) if hasattr(tree, "_fields") else tuple(values)
    return tree


def _batches(spec: str, found: Any, wanted: int, seed: int) -> Iterator[Any]:
    """List the batches of whatever a factory returned."""
    try:
        if isinstance(found, Mapping | tuple) or _is_pair(found):
            yield found
        elif isinstance(found, IterableDataset) or type(found).__name__ == "IterableDataset":
            yield from _collated(itertools.islice(iter(cast("Iterable[Any]", found)), wanted))
        elif hasattr(found, "__getitem__") and hasattr(found, "__len__") and not _is_list(found):
            chosen = preparation.select(len(found), min(wanted, len(found)), seed).tolist()
            yield from _collated(found[index] for index in chosen)
        elif hasattr(found, "__iter__"):
            yield from found
        else:
            raise InputError(
                f"the data factory {spec} returned no data",
                got=type(found).__name__,
                wanted="(inputs, targets), a DataLoader or other iterable of batches, or a Dataset",
            )
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"the examples of the data factory {spec} cannot be read", got=reason(error)
        ) from error


def _is_list(found: object) -> bool:
    return isinstance(found, list)


def _is_pair(found: object) -> bool:
    """Tell a batch written as a list from a list of batches."""
    return isinstance(found, list) and any(
        isinstance(item, Tensor | np.ndarray) for item in cast("list[Any]", found)
    )


def _collated(examples: Iterable[Any]) -> Iterator[Any]:
    """Put examples together; those of different shapes stay batches of one."""
    iterator = iter(examples)
    while some := list(itertools.islice(iterator, _TOGETHER)):
        numbers = [_numbers(example) for example in some]
        shapes = {tuple(tuple(leaf.shape) for _, leaf in leaves(one)) for one in numbers}
        together = [numbers] if len(shapes) == 1 else [[one] for one in numbers]
        yield from (_stacked(group) for group in together)


def _numbers(example: Any) -> Any:
    """Keep what is numeric of an example, under the names that networks of Hugging Face take."""
    if isinstance(example, Mapping):
        named = cast("Mapping[Any, Any]", example)
        kept = {
            "labels" if key in ("label", "label_ids") else key: _tensor(value)
            for key, value in named.items()
        }
        return {key: value for key, value in kept.items() if value is not None}
    if isinstance(example, tuple | list):
        return tuple(_tensor(value) for value in cast("Sequence[Any]", example))
    return _tensor(example)


def _tensor(value: Any) -> Any:
    try:
        return value.detach().cpu() if isinstance(value, Tensor) else to_tensor(value)
    except InputError:
        return None


def _stacked(examples: list[Any]) -> Any:
    """Stack like examples, leaf by leaf."""
    first = examples[0]
    if isinstance(first, Mapping):
        names = cast("Mapping[Any, Any]", first)
        return {name: torch.stack([example[name] for example in examples]) for name in names}
    if isinstance(first, tuple):
        return tuple(torch.stack(values) for values in zip(*examples, strict=True))
    return torch.stack(examples)
