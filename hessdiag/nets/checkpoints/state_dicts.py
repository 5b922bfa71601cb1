"""Finding the state dict in what a training script saved around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from hessdiag.errors import InputError
from hessdiag.nets.checkpoints.checkpoint import Choice
from hessdiag.nets.checkpoints.stand_ins import Array

_USUAL = ("state_dict", "model_state_dict", "model", "net", "module", "model_state", "weights")
_AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "model_ema_state_dict"),
    *("ema_model_state_dict", "averaged_model", "swa_model", "averaged_model_state_dict"),
)
_SAVE_ALONE = "save the weights alone: torch.save(model.state_dict(), path)"


def find(content: object, path: Path, choice: Choice) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Find the wanted tensors in what a file holds.

    Args:
        content: what was read; a dict, to be of use.
        path: of the file, for messages.
        choice: which of them are wanted.

    Returns:
        The tensors, and notes on how they were chosen.

    Raises:
        InputError: there is no such state dict, or several; or it holds something else.
    """
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds no state dict", got=type(content).__name__, hint=_SAVE_ALONE
        )
    outer = cast("dict[Any, Any]", content)
    notes: list[str] = []
    if choice.key is not None:
        state = _keyed(outer, path, choice.key)
        notes.append(f"the weights under {choice.key}")
    elif choice.ema:
        name, state = _averaged(outer, path)
        notes.append(f"the averaged weights under {name}")
    else:
        state = _usual(outer, path)
    return _tensors(state, path), tuple(notes)


def select(tensors: Mapping[str, Tensor], path: Path, choice: Choice) -> Mapping[str, Tensor]:
    """Choose among tensors that no dict divides, by the prefix of their names.

    Raises:
        InputError: no name has it.
    """
    if choice.key is None and not choice.ema:
        return tensors
    return find(dict(tensors), path, choice)[0]


def _usual(outer: dict[Any, Any], path: Path) -> dict[Any, Any]:
    for _ in range(len(_USUAL)):  # a pickle may contain itself, so not "while"
        inner = [outer[key] for key in _USUAL if isinstance(outer.get(key), dict)]
        if not inner:
            break
        outer = inner[0]
    states = {key: value for key, value in outer.items() if _is_state(value)}
    if not _is_state(outer) and len(states) > 1:
        raise InputError(
            f"{path} holds several state dicts",
            got=", ".join(map(str, states)),
            hint="choose one with --key",
        )
    return next(iter(states.values()), outer) if not _is_state(outer) else outer


def _averaged(outer: dict[Any, Any], path: Path) -> tuple[str, dict[Any, Any]]:
    for key in _AVERAGED:
        if isinstance(outer.get(key), dict):
            return key, _usual(outer[key], path)
    state = _usual(outer, path)
    for key in _AVERAGED:
        if under := _under(state, f"{key}."):
            return key, under
    raise InputError(
        f"{path} holds no averaged weights",
        got=_listed(outer),
        wanted=f"one of {', '.join(_AVERAGED[:4])}, …",
        hint="name them with --key",
    )


def _keyed(outer: dict[Any, Any], path: Path, key: str) -> dict[Any, Any]:
    """Follow a dotted key into nested dicts; the last part may be a prefix of names."""
    if isinstance(outer.get(key), dict):
        return _usual(outer[key], path)
    for state in (outer, _usual(outer, path)):
        if under := _under(state, f"{key.removesuffix('.')}."):
            return under
    head, _, rest = key.partition(".")
    while rest:
        if isinstance(outer.get(head), dict):
            return _keyed(outer[head], path, rest)
        more, _, rest = rest.partition(".")
        head = f"{head}.{more}"
    raise InputError(f"{path} holds nothing under {key}", got=_listed(outer), wanted="one of these")


def _under(state: dict[Any, Any], prefix: str) -> dict[Any, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(prefix)
    }


def _is_state(value: object) -> bool:
    """Tell a state dict: a dict that has tensors itself."""
    if not isinstance(value, dict):
        return False
    return any(
        isinstance(inner, Tensor | Array) for inner in cast("dict[Any, Any]", value).values()
    )


def _tensors(state: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(name, str) and name.rpartition(".")[2] == "_extra_state":
            continue
        tensor = value.tensor() if isinstance(value, Array) else value
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise InputError(
                f"{path} holds something other than tensors",
                got=f"{name!r:.200}, a {type(value).__name__}",
                hint=_SAVE_ALONE,
            )
        tensors[name] = tensor.detach()
    return tensors


def _listed(outer: dict[Any, Any]) -> str:
    names = [f"{key!s:.80}" for key in list(outer)[:8]]
    return ", ".join(names) + (", …" if len(outer) > 8 else "") or "nothing"
