"""Networks of timm and torchvision by their names there, without their weights."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from hessdiag.errors import InputError, unknown
from hessdiag.metadata import ModelSpec


def build(spec: ModelSpec) -> nn.Module:
    """Build ``timm:NAME`` or ``torchvision:NAME``; nothing is downloaded.

    Raises:
        InputError: the library is not installed or has no such network, or it cannot be built.
    """
    library, _, name = spec.name.partition(":")
    if library not in _MAKERS:
        raise InputError(
            f"the network {spec.name} is known from its checkpoint only",
            hint="name the folder that save_pretrained wrote as the checkpoint",
        )
    arguments = dict(spec.arguments)
    if spec.num_classes is not None:
        arguments.setdefault("num_classes", spec.num_classes)
    builder = _MAKERS[library](name)
    try:
        return builder(**arguments)
    except Exception as error:  # the library may raise anything for arguments that it cannot take
        raise InputError(
            f"the network {spec.name} cannot be built",
            got=f"{type(error).__name__}: {error}",
            wanted=f"arguments that it takes, not {_listed(arguments)}" if arguments else None,
        ) from error


def can_build(name: str) -> bool:
    """Tell whether a network of a library can be built by its name, without a checkpoint."""
    return name.partition(":")[0] in _MAKERS


def num_classes(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> int | None:
    """Tell how many classes the tensors have, by the last tensor of the network's own.

    Args:
        spec: ``timm:NAME`` or ``torchvision:NAME``.
        tensors: of a checkpoint, whatever stands before their names.

    Returns:
        None where the checkpoint lacks that tensor.
    """
    last = list(build(spec).state_dict())[-1]
    ends = [t for name, t in tensors.items() if name == last or name.endswith(f".{last}")]
    return int(ends[0].shape[0]) if ends and ends[0].ndim else None


def _timm(name: str) -> Callable[..., nn.Module]:
    timm = _imported("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise unknown("network of timm", name, timm.list_models())

    def make(**arguments: Any) -> nn.Module:
        return timm.create_model(name, **{**arguments, "pretrained": False})

    return make


def _torchvision(name: str) -> Callable[..., nn.Module]:
    models = _imported("torchvision.models")
    try:
        builder = models.get_model_builder(name)
    except ValueError as error:
        raise unknown("network of torchvision", name, models.list_models()) from error
    # weights of a backbone would be downloaded
    none = {name: None for name in inspect.signature(builder).parameters if "weights" in name}

    def make(**arguments: Any) -> nn.Module:
        return builder(**{**arguments, **none})

    return make


_MAKERS = {"timm": _timm, "torchvision": _torchvision}


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        raise InputError(
            f"{library} is not installed",
            got=error,
            hint=f"pip install 'hessdiag[{library}]'" if library == "timm" else None,
        ) from error


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.60}" for name, value in arguments.items())
