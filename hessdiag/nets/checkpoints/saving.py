"""Writing this project's own checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from hessdiag import files
from hessdiag.errors import InputError
from hessdiag.metadata import KEY, Metadata
from hessdiag.nets.checkpoints.names import own_tensors, unwrapped


def save(path: str | os.PathLike[str], module: nn.Module, metadata: Metadata) -> None:
    """Write the module's parameters and buffers as safetensors, in one step.

    Tied tensors are written once for every name.

    Raises:
        InputError: the suffix is not ``.safetensors``, or the file cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError("checkpoints are safetensors", got=path, wanted="a name in .safetensors")
    with files.replacing(path) as temporary:
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in unwrapped(own_tensors(module)).items()
        }
        temporary.write_bytes(safetensors.torch.save(tensors, {KEY: metadata.to_json()}))
