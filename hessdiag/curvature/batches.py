"""Batches of any form, read as inputs x, targets y and weights of the examples.

* ``(x, y)`` or ``(x, y, weight)``, as tuple, list, named tuple or dataclass; x is a tensor,
  several, or a mapping of arguments;
* a mapping, or a named tuple or dataclass with fields, one of which is ``labels``, ``label``,
  ``targets`` or ``target``: all else are inputs by name.

Tensors, numpy arrays, numbers and lists of numbers serve alike. Data sets of single examples, those
of torch and of the datasets library, are batched here.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hessdiag.errors import InputError
from hessdiag.losses.output_loss import Targets

TARGET_NAMES = ("labels", "label", "targets", "target")
_WANTED = "(x, y), (x, y, weight), or a mapping with 'labels'"
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # which torch can do little with
_ROWS = 32  # examples of a data set in a batch: the result does not depend on it


def repeatable(data: Iterable[Any]) -> Iterable[Any]:
    """Turn data into batches that can be read again and again.

    Args:
        data: an iterable of batches; an iterator, which is kept in memory; a data set of examples,
            torch's or of the datasets library.
    """
    if _is_arrow(data):
        return _Rows(data)
    if isinstance(data, Dataset):
        return DataLoader(cast("Dataset[Any]", data), batch_size=_ROWS)
    return list(data) if isinstance(data, Iterator) else data


class BatchReader:
    """Reads the batches for one network.

    Args:
        model: whose ``forward`` says which inputs it takes.
        one_step_ahead: labels in mappings are those of the inputs themselves, and the outputs at
            each position predict the next: a causal language model.
    """

    def __init__(self, model: nn.Module, *, one_step_ahead: bool = False) -> None:
        self.one_step_ahead = one_step_ahead
        try:
            parameters = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        kinds = inspect.Parameter
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self._names = {p.name for p in plain}
        self._num_needed = sum(p.default is kinds.empty for p in plain)
        self._takes_any = any(p.kind is kinds.VAR_KEYWORD for p in parameters) or not parameters

    def read(self, batch: Any) -> tuple[Any, Tensor | Targets]:
        """Split a batch into inputs and targets, as tensors.

        Raises:
            InputError: it has none of the forms above.
        """
        names: Sequence[str] = getattr(batch, "_fields", ()) if isinstance(batch, tuple) else ()
        if dataclasses.is_dataclass(batch) and not isinstance(batch, Mapping):
            names = [field.name for field in dataclasses.fields(batch)]
            batch = tuple(getattr(batch, name) for name in names)
        if names:
            named = dict(zip(names, batch, strict=True))
            batch = named if set(names) & set(TARGET_NAMES) and len(names) > 2 else tuple(batch)
        if isinstance(batch, Mapping):
            return self._of_mapping(batch)
        if not isinstance(batch, Sequence) or isinstance(batch, str) or len(batch) not in (2, 3):
            raise InputError(
                "a batch is not a pair (x, y)",
                got=_described(batch),
                wanted=_WANTED,
                hint="one batch alone is [(x, y)]",
            )
        x, y = _inputs(batch[0]), _targets(batch[1])
        return x, y if len(batch) == 2 else Targets(y, self._weights(batch, y))

    def _weights(self, batch: Sequence[Any], y: Tensor) -> Tensor:
        weights = _targets(batch[2])
        fits = weights.is_floating_point() and weights.shape == y.shape[:1] != ()
        if self._num_needed > 1 or not fits:
            raise InputError(
                "a batch of three is read as (x, y, weight)",
                got=f"{_described(batch)}, the last {_described(weights)}",
                wanted="one weight an example, floating (N,), and a network of one input",
                hint="several inputs are ((x1, x2), y)",
            )
        return weights

    def _of_mapping(self, batch: Mapping[Any, Any]) -> tuple[Any, Tensor]:
        name = next((name for name in TARGET_NAMES if name in batch), None)
        if name is None:
            raise InputError(
                "a batch has no targets",
                got=f"a mapping with {', '.join(map(str, batch))}",
                wanted=f"one of {', '.join(TARGET_NAMES)} in it",
                hint="one of the two at a time: labels=start_positions, output='start_logits'"
                if "start_positions" in batch
                else "a language model's labels are its input_ids, -100 where none counts",
            )
        y = _targets(batch[name])
        if self.one_step_ahead:
            y = torch.cat([y[:, 1:], torch.full_like(y[:, :1], -100)], dim=1)
        inputs: dict[str, Any] = {
            str(key): _inputs(value) for key, value in batch.items() if key != name
        }
        known = {key: value for key, value in inputs.items() if key in self._names}
        if known:
            return known, y
        tensors = {key: value for key, value in inputs.items() if isinstance(value, Tensor)}
        if len(tensors) == 1 and not self._takes_any:
            return next(iter(tensors.values())), y
        if not self._takes_any or not tensors:
            raise InputError(
                "the network takes none of a batch's inputs by their names",
                got=", ".join(inputs) or "none",
                wanted=", ".join(sorted(self._names)) or None,
                hint="give batches ((x1, x2), y), or name the inputs as forward does",
            )
        return tensors, y


class Cut:
    """Into what pieces microbatches are cut, where memory does not hold them as they come.

    Attributes:
        at_most: examples of a piece; None for microbatches as they come.
        ran_out: whether that was found out only when memory ran out.
        apart: whether examples are known to have nothing to do with each other.
    """

    def __init__(self) -> None:
        self.at_most: int | None = None
        self.ran_out = False
        self.apart: bool | None = None
        self._largest = 1  # of those that were met and can be cut

    def halve(self) -> bool:
        """Take half of the examples from now on; tells whether there is more than one to halve."""
        if self._largest < 2:
            return False
        self.at_most = self._largest = self._largest // 2
        self.ran_out = True
        return True

    def pieces(self, x: Any, y: Tensor | Targets) -> Iterator[tuple[Any, Tensor | Targets, slice]]:
        """Give (x, y) in pieces, each with its place among the examples; views, not copies."""
        count = len(y)
        size = count if self.at_most is None else min(count, self.at_most)
        if any(t.ndim == 0 or len(t) != count for t in tensors_in(x)):
            size = count  # some inputs are not of single examples
        else:
            self._largest = max(self._largest, size)
        for start in range(0, count, max(size, 1)):
            at = slice(start, start + size)
            whole = size == count
            yield (x, y, at) if whole else (mapped(x, lambda t, at=at: t[at]), y[at], at)

    @property
    def note(self) -> str | None:
        """What a report says of it."""
        if self.at_most is None:
            return None
        why = "memory ran out, and it went on" if self.ran_out else "as memory holds no more,"
        return f"{why} with microbatches of {self.at_most} at most; the numbers are the same"


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Map the tensors in nested inputs."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [mapped(item, function) for item in value]
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """List the tensors in nested inputs."""
    found: list[Tensor] = []
    mapped(value, lambda tensor: found.append(tensor) or tensor)
    return found


def _inputs(value: Any) -> Any:
    """Make tensors of arrays and lists of numbers, within tuples and mappings too."""
    if isinstance(value, (bool, int, float, np.generic)):
        return value  # an option of the call
    if isinstance(value, Mapping):
        return {str(key): _inputs(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not _all_numbers(value):
        return [_inputs(item) for item in value]
    return _tensor(value)


def _targets(value: Any) -> Tensor:
    """Make one tensor of targets.

    Raises:
        InputError: they are not numbers.
    """
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Tensor) for v in value):
        value = torch.stack(list(value))
    y = _tensor(value)
    if not isinstance(y, Tensor):
        raise InputError(
            "the targets are no tensor",
            got=_described(value),
            wanted="a tensor, an array or numbers",
            hint="heads whose targets are boxes or mappings need a wrapper with one output tensor",
        )
    if y.is_floating_point() and not bool(torch.isfinite(y).all()):
        raise InputError("the targets are not finite", got="NaN or Inf in y")
    return y


def _tensor(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_nested:
            kind = "a nested tensor" if value.is_nested else f"a tensor of {value.layout}"
            raise InputError("a batch holds no plain tensor", got=kind, hint="pass x.to_dense()")
        return value.long() if value.dtype in _UNSIGNED else value
    if isinstance(value, (np.ndarray, np.generic, bool, int, float)) or (
        isinstance(value, (list, tuple)) and _all_numbers(value)
    ):
        array = np.ascontiguousarray(value)
        array = array.astype(array.dtype.newbyteorder("="), copy=False).reshape(np.shape(value))
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        if array.dtype.kind in "biuf":
            return torch.tensor(array)
    return value


def _all_numbers(value: Any) -> bool:
    """Tell whether a list holds numbers only, however deep."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_all_numbers, value))
    return isinstance(value, (bool, int, float, np.generic))


class _Rows:
    """A data set of the datasets library: rows in a row whose arrays have the same shapes."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for row in self.data:
            tensors = {key: _tensor(value) for key, value in row.items()}
            tensors = {key: t for key, t in tensors.items() if isinstance(t, Tensor)}
            if rows and (len(rows) == _ROWS or _shapes(tensors) != _shapes(rows[0])):
                yield _stacked(rows)
                rows = []
            rows.append(tensors)
        if rows:
            yield _stacked(rows)


def _shapes(row: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in row.items()}


def _stacked(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def _is_arrow(data: Any) -> bool:
    """Recognise a data set of the datasets library without importing it."""
    return type(data).__module__.startswith("datasets.") and hasattr(data, "column_names")


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
