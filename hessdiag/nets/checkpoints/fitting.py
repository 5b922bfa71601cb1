"""Bringing a checkpoint's tensors and a network's together, whatever either calls them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hessdiag.errors import InputError
from hessdiag.nets.checkpoints.checkpoint import Checkpoint
from hessdiag.nets.checkpoints.names import (
    is_idle,
    own_tensors,
    plain,
    prefixes_before,
    shared_prefixes,
    twins,
)

_SAMPLED = 3  # names at each end of a network, looked for to find what stands before all of them


@dataclass(frozen=True, eq=False)
class Fit:
    """Which tensor of a checkpoint belongs to which of a network.

    Attributes:
        sources: name in the network to name in the checkpoint.
        prefix: what stands before the network's names in the checkpoint.
        rest: names in the checkpoint that the network does not have.
        faults: what keeps them from belonging together; empty if nothing does.
        notes: what was renamed or left out, in plain words.
    """

    sources: Mapping[str, str]
    prefix: str
    rest: tuple[str, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def fit(module: nn.Module, checkpoint: Checkpoint) -> Fit:
    """Match the names of a network and a checkpoint.

    Prefixes of wrappers and the spelling of weight normalisation do not matter; of tied weights one
    name is enough; ``num_batches_tracked`` may be missing, as it is from old files. A network may
    be a part of what the checkpoint holds, if one part only fits.

    Args:
        module: the network, or a skeleton of it.
        checkpoint: the tensors.

    Raises:
        InputError: several parts of the checkpoint fit, or the network has no shapes yet.
    """
    own, given = own_tensors(module), checkpoint.tensors
    if lazy := [name for name, tensor in own.items() if is_lazy(tensor)]:
        raise InputError(
            f"the network {type(module).__name__} has layers without a shape",
            got=", ".join(lazy[:4]),
            hint="let its factory call it once, on an example",
        )
    fits = [_fit(own, given, *prefixes) for prefixes in _prefixes(own, given)]
    good = [one for one in fits if not one.faults]
    exact = [one for one in good if all(map(is_idle, one.rest))]
    if not exact and len({tuple(one.sources.values()) for one in good}) > 1:
        raise InputError(
            f"several parts of the checkpoint {checkpoint.path} fit the network",
            got=", ".join(sorted({one.prefix.removesuffix(".") for one in good})),
            hint="choose one with --key",
        )
    return next(iter(exact or good), max(fits, key=lambda one: len(one.sources)))


def check_fit(module: nn.Module, checkpoint: Checkpoint) -> Fit:
    """Match names, shapes and kinds; ``module`` may be a skeleton.

    Raises:
        InputError: tensors that are missing, unexpected or differ in shape or kind.
    """
    match = fit(module, checkpoint)
    if match.faults:
        raise InputError(
            f"the checkpoint {checkpoint.path} does not fit the network {type(module).__name__}",
            got="; ".join(match.faults),
            hint="name the network that was trained with --model",
        )
    return match


def load_into(module: nn.Module, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Copy the checkpoint's tensors into ``module``; every name, shape and kind must match.

    Returns:
        What was renamed or left out, in plain words.

    Raises:
        InputError: see :func:`check_fit`; parameters or running statistics that are not finite.
    """
    match = check_fit(module, checkpoint)
    own = own_tensors(module)
    loaded = {
        name: checkpoint.tensors[source].to(own[name].dtype)
        for name, source in match.sources.items()
    }
    for name, tensor in loaded.items():  # other buffers, such as masks, may well hold -Inf
        matters = isinstance(own[name], nn.Parameter) or re.search(r"running_(mean|var)$", name)
        if matters and not tensor.isfinite().all():
            raise InputError(f"the checkpoint {checkpoint.path} has NaN or Inf in {name}")
    with torch.no_grad():
        for name, tensor in loaded.items():
            own[name].copy_(tensor)
    return match.notes


def _prefixes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """List what may stand before the names of the network, and of the checkpoint."""
    names = [plain(name) for name in own if not is_idle(name)]
    sources = [plain(name) for name in given]
    yield "", ""
    for own_prefix in shared_prefixes(names):
        wanted = [name.removeprefix(own_prefix) for name in names]
        for prefix in prefixes_before(sources, (*wanted[:_SAMPLED], *wanted[-_SAMPLED:])):
            if own_prefix or prefix:
                yield own_prefix, prefix


def _fit(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], own_prefix: str, prefix: str
) -> Fit:
    ties = twins(own)
    wanted = {name: prefix + plain(name).removeprefix(own_prefix) for name in own}
    present = {plain(name): name for name in given}
    sources: dict[str, str] = {}
    tied: list[str] = []
    for name in own:
        alike = next((n for n in (name, *ties[name]) if wanted[n] in present), None)
        if alike is not None:
            sources[name] = present[wanted[alike]]
            tied += [name] if alike != name else []
    rest = tuple(name for name in given if name not in set(sources.values()))
    unexpected = [n for n in rest if plain(n).startswith(prefix) and not is_idle(n)]
    outside = [n for n in rest if not plain(n).startswith(prefix)]
    outside += [n for n in rest if n.endswith("n_averaged") and plain(n).startswith(prefix)]
    forms = {n: (_form(given[s], stored=True), _form(own[n])) for n, s in sources.items()}
    unlike = [
        f"{name} (checkpoint {theirs}, network {ours})"
        for name, (theirs, ours) in forms.items()
        if theirs != ours
    ]
    faults = (
        _some("missing", (name for name in own if name not in sources and not is_idle(name))),
        _some("unexpected", unexpected),
        _some("of another shape or kind", unlike),
    )
    respelled = [name for name in sources.values() if plain(name) != name]
    notes = (
        f"names without {prefix}, which stands before them in the checkpoint" if prefix else "",
        f"names without {own_prefix}, which the network puts before them" if own_prefix else "",
        _some("names without what compilation or sharding put into them", respelled),
        _some("tied weights that the checkpoint keeps under another name", tied),
        _some("tensors left out", outside),
    )
    return Fit(sources, prefix, rest, tuple(filter(None, faults)), tuple(filter(None, notes)))


def _form(tensor: Tensor, *, stored: bool = False) -> str:
    """Say in words what a tensor must share with another to be copied into it."""
    if stored and tensor.is_meta:  # where a network's own is no fault: a skeleton's
        kind = "empty "
    elif tensor.layout != torch.strided:
        kind = f"{str(tensor.layout).removeprefix('torch.')} "
    elif tensor.is_quantized or (tensor.is_floating_point() and tensor.itemsize < 2):
        kind = f"{str(tensor.dtype).removeprefix('torch.')} "
    elif tensor.is_complex():
        kind = "complex "
    else:
        kind = "" if tensor.is_floating_point() else "integer "
    return f"{kind}{tuple(tensor.shape)}"


def _some(fault: str, names: Iterable[str], limit: int = 4) -> str:
    """Phrase a fault with the first few names, or say nothing where there are none."""
    listed = [name if len(name) <= 200 else f"{name[:200]}…" for name in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return f"{fault}: {', '.join(listed[:limit])}{more}" if listed else ""
