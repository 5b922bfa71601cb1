"""Weights to start from: a checkpoint, or torchvision's for its ResNets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from hessdiag.errors import InputError
from hessdiag.nets import checkpoints
from hessdiag.nets.models import RESNETS

TORCHVISION = "torchvision"
"""Names the weights that torchvision's authors trained on ImageNet, their first version."""


def locate(source: str, network: str, *, download: bool = False) -> Path:
    """Find the file of the weights to start from.

    Args:
        source: path of a checkpoint, or "torchvision".
        network: name of the network.
        download: whether torchvision's may be fetched into torch's cache.

    Raises:
        InputError: torchvision has none for this network, or they cannot be had.
    """
    if source != TORCHVISION:
        return Path(source)
    if network not in RESNETS:
        raise InputError(
            "torchvision has no weights for this network", got=network, wanted=", ".join(RESNETS)
        )
    from torchvision.models import get_model_weights

    weights = get_model_weights(network)["IMAGENET1K_V1"]
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists() and download:
        try:
            weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # networks may raise anything
            raise InputError(
                f"torchvision's weights for {network} cannot be downloaded", got=error
            ) from error
    if not path.exists():
        raise InputError(
            f"torchvision's weights for {network} are not there",
            got=f"no file {path}",
            hint="get them with --download, or start from a checkpoint with --init FILE",
        )
    return path


def start_from(path: Path, model: nn.Module) -> None:
    """Copy the checkpoint's weights into ``model``, in place.

    Where its classifier, the last linear layer, has other classes, the model's own stays.

    Raises:
        InputError: a file that cannot be read, or other tensors that do not fit.
    """
    checkpoint = checkpoints.read(path)
    tensors, own = dict(checkpoint.tensors), model.state_dict()
    sources = checkpoints.fit(model, checkpoint).sources
    heads = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in (f"{heads[-1]}.weight", f"{heads[-1]}.bias") if heads else ():
        given, fresh = tensors.get(sources.get(name, "")), own.get(name)
        if given is not None and fresh is not None and _differ_in_classes(given, fresh):
            tensors[sources[name]] = fresh
    checkpoints.load_into(model, dataclasses.replace(checkpoint, tensors=tensors))


def _differ_in_classes(a: Tensor, b: Tensor) -> bool:
    return a.shape != b.shape and a.shape[1:] == b.shape[1:]
