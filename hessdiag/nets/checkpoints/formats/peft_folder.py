"""An adapter that PEFT wrote: its parameters are θ, those of the network below it are fixed."""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from hessdiag import bounds, files
from hessdiag.errors import InputError
from hessdiag.nets.checkpoints.checkpoint import Checkpoint, Choice
from hessdiag.nets.checkpoints.formats import safetensors_file, torch_file, transformers_folder
from hessdiag.nets.checkpoints.formats.weights_folder import read_json

WANTED = "a folder of a PEFT adapter"
_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def match(path: Path) -> bool:
    """Tell by the adapter's configuration within."""
    return os.path.isfile(path / _CONFIG)


def read(path: Path, choice: Choice) -> Checkpoint:
    """Read an adapter; its network comes from the folder that it names, or is the user's own.

    Raises:
        InputError: it is damaged, its weights are missing, or it is asked for a part.
    """
    if choice != Choice():
        raise InputError("--key and --ema choose within a file", got=f"the folder {path}")
    name = next((name for name in _WEIGHTS if os.path.isfile(path / name)), None)
    if name is None:
        raise InputError(f"the adapter {path} holds no weights", wanted=" or ".join(_WEIGHTS))
    data = torch_file.content(path / name)
    if name.endswith(".bin"):
        bounds.check_archive(path / name)
        tensors: Any = torch_file.load(path / name, data)
    else:
        tensors = safetensors_file.load(path / name, data)[0]
    base = _base(path)
    has_tokenizer = os.path.isfile(path / "tokenizer_config.json")
    return Checkpoint(
        path,
        files.sha256(path / name),
        tensors,
        notes=("θ are the adapter's parameters; those of the network below it are fixed",),
        network=lambda: _adapted(path, _network(path, base)),
        adapt=lambda network: _adapted(path, network),
        text=transformers_folder.text_form(base, path if has_tokenizer else base) if base else None,
    )


def _base(path: Path) -> Path | None:
    """Find the folder, on this machine, of the network that the adapter was made for."""
    named = read_json(path / _CONFIG).get("base_model_name_or_path")
    places = [Path(named), path / named] if isinstance(named, str) and named else []
    return next((place for place in places if transformers_folder.match(place)), None)


def _network(path: Path, base: Path | None) -> nn.Module:
    network = transformers_folder.read(base, Choice()).network if base else None
    if network is None:
        raise InputError(
            f"the network below the adapter {path} is not there",
            got=f"{read_json(path / _CONFIG).get('base_model_name_or_path')!r:.200}",
            wanted="a folder of Hugging Face, seen from here or from the adapter",
            hint="or name it with --model package.module:factory",
        )
    return network()


def _adapted(path: Path, network: nn.Module) -> nn.Module:
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError as error:
        raise InputError(
            "peft is not installed", got=error, hint="pip install 'hessdiag[hf]'"
        ) from error
    with transformers_folder.quiet(f"the adapter {path} cannot be loaded"):
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        return peft.PeftModel.from_pretrained(
            network, str(path), is_trainable=True, torch_device="cpu", local_files_only=True
        )
