"""Names of tensors: what wrappers of a network add to them, and which of them a network lacks."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Of DataParallel and DistributedDataParallel, torch.compile, FSDP, activation checkpointing."""
_INSIDE = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_IDLE = {"num_batches_tracked", "n_averaged", "total_ops", "total_params"}
"""Counters of BatchNorm, of averaged models and of a profiler: of no effect on any output."""
_OLD_SPELLINGS = (  # torch's parametrizations, and the hooks that they replaced
    (re.compile(r"(?<![^.])parametrizations\.(\w+)\.original0$"), r"\1_g"),
    (re.compile(r"(?<![^.])parametrizations\.(\w+)\.original1$"), r"\1_v"),
    (re.compile(r"(?<![^.])parametrizations\.(\w+)\.original$"), r"\1_orig"),
    (re.compile(r"(?<![^.])parametrizations\.(\w+)\.0\._([uv])$"), r"\1_\2"),
)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """List the parameters and buffers that a state dict of ``module`` holds, themselves."""
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def is_idle(name: str) -> bool:
    """Tell a counter that may be missing from a checkpoint, or left over."""
    return name.rpartition(".")[2] in _IDLE


def plain(name: str) -> str:
    """Drop what wrappers put inside a name, and spell weight normalisation in one way."""
    name = _INSIDE.sub("", name)
    for spelling, old in _OLD_SPELLINGS:
        name = spelling.sub(old, name)
    return name


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip wrappers' prefixes for as long as every name has the same one."""
    while len(heads := {name[: name.find(".") + 1] for name in tensors}) == 1 and heads < {
        *_WRAPPERS
    }:
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


def shared_prefixes(names: Iterable[str]) -> list[str]:
    """List the dotted prefixes that all names share, the empty one first."""
    chosen = list(names)
    shortest = min(chosen, key=len, default="")
    ends = (at + 1 for at, letter in enumerate(shortest) if letter == ".")
    heads = itertools.takewhile(
        lambda head: all(name.startswith(head) for name in chosen),
        (shortest[:end] for end in ends),
    )
    return ["", *heads]


def prefixes_before(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """List the prefixes, shortest first, under which some of ``names`` are one of ``wanted``."""
    ends = tuple(wanted)
    seen = {
        name[: len(name) - len(end)]
        for name in names
        for end in ends
        if name == end or name.endswith("." + end)
    }
    return sorted(seen, key=lambda prefix: (len(prefix), prefix))


def twins(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """For each name, list the other names of the same tensor: weights that are tied."""
    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        memory = (tensor.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        groups.setdefault(id(tensor) if not tensor.data_ptr() else memory, []).append(name)
    return {name: [o for o in group if o != name] for group in groups.values() for name in group}
