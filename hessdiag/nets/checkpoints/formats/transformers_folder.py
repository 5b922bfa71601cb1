"""What Hugging Face's ``save_pretrained`` writes, read through transformers itself."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from hessdiag import bounds
from hessdiag.errors import InputError
from hessdiag.metadata import TextForm
from hessdiag.nets.checkpoints.checkpoint import Checkpoint, Choice
from hessdiag.nets.checkpoints.formats import torch_file, weights_folder

WANTED = "a folder of save_pretrained"
_MODULES, _BYTES = 5_000, 1_000
"""A network has at most so many modules, and one more for so many bytes of weights: a configuration
could name any number of layers."""


def match(path: Path) -> bool:
    """Tell by the configuration within."""
    return os.path.isfile(path / "config.json") and not os.path.isfile(path / "adapter_config.json")


def read(path: Path, choice: Choice) -> Checkpoint:
    """Build the network that the configuration names, by transformers' own code, with its weights.

    Renamed keys, shards and tied weights are the library's to know. Nothing is fetched, and code in
    the folder is not run: of a network that is not in transformers, the weights alone are read.

    Raises:
        InputError: transformers is not installed, or cannot read the folder; weights are missing.
    """
    config = weights_folder.read_json(path / "config.json")
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    kind = getattr(_library("transformers"), name, None) if name and name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        weights = weights_folder.read(path, choice)
        note = f"the weights alone: transformers has no network {name or 'without a name'!s:.80}"
        return Checkpoint(path, weights.sha256, weights.tensors, notes=(*weights.notes, note))
    if choice != Choice():
        raise InputError("--key and --ema choose within a file", got=f"the folder {path}")
    network = _load(path, kind)
    stored = config.get("dtype", config.get("torch_dtype"))
    is_half = stored in ("float16", "bfloat16")
    return Checkpoint(
        path,
        weights_folder.sha256(path, ["config.json"]),
        network.state_dict(),
        notes=(f"stored in {stored}, loaded in float32",) if is_half else (),
        network=lambda: network,
        text=text_form(path, path),
    )


def text_form(path: Path, tokenizer: Path) -> TextForm:
    """Tell how the network of a folder takes text, with the tokenizer of another or the same."""
    config = weights_folder.read_json(path / "config.json")
    names = str(config.get("architectures"))
    is_causal = not config.get("is_encoder_decoder") and ("Causal" in names or "LMHead" in names)
    head = "masked" if "MaskedLM" in names else "causal" if is_causal else None
    sizes = (config.get(name) for name in ("max_position_embeddings", "n_positions"))
    longest = next((size for size in sizes if isinstance(size, int) and size > 1), None)
    return TextForm(str(tokenizer), head, longest)


def _load(path: Path, kind: Any) -> nn.Module:
    size = sum(file.stat().st_size for file in weights_folder.weights(path))
    with quiet(f"the network in {path} cannot be loaded"):
        config = kind.config_class.from_pretrained(path, local_files_only=True)
        with torch.device("meta"), _few_modules(_MODULES + size // _BYTES):
            skeleton = kind._from_config(config)
        needed = sum(tensor.numel() for tensor in skeleton.parameters()) * 4
        bounds.check(path, needed, size)
        network, told = kind.from_pretrained(
            path,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            dtype=torch.float32,
            attn_implementation="eager",  # composed of operations that have second derivatives
            output_loading_info=True,
        )
    if missing := sorted(told["missing_keys"]):
        raise InputError(
            f"weights of {type(network).__name__} are missing in {path}",
            got=", ".join(missing[:4]) + (", …" if len(missing) > 4 else ""),
        )
    network.config.use_cache = False
    return network


@contextlib.contextmanager
def quiet(what: str) -> Generator[None]:
    """Silence Hugging Face's libraries, and turn whatever they raise into one message."""
    logging = _library("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:  # the libraries may raise anything
        raise InputError(what, got=torch_file.reason(error)) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{name.partition('.')[0]} is not installed",
            got=error,
            hint="pip install 'hessdiag[hf]'",
        ) from error


@contextlib.contextmanager
def _few_modules(limit: int) -> Generator[None]:
    """Refuse a network of more than ``limit`` modules while it is built."""
    count = 0

    def see(*_: object) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise InputError(
                "the configuration names far more layers than there are weights",
                got=f"over {limit:,} modules",
            )

    handle = register_module_module_registration_hook(see)
    try:
        yield
    finally:
        handle.remove()
