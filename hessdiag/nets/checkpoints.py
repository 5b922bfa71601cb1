"""Weights on disk: reading without running code, writing with metadata, and strict loading."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from hessdiag import files
from hessdiag.errors import InputError
from hessdiag.metadata import KEY, Metadata, ModelSpec
from hessdiag.nets import models

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = {"module.", "_orig_mod."}  # of DistributedDataParallel and torch.compile
_COUNTER = "num_batches_tracked"  # absent from old files, and of no effect on any output


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of a file.

    Attributes:
        path: where it was read.
        sha256: hash of the file's bytes.
        tensors: name to CPU tensor, wrappers' prefixes stripped.
        metadata: what the file says about itself, if this project wrote it.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    metadata: Metadata | None


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
            for name, tensor in _strip(_own_tensors(module)).items()
        }
        temporary.write_bytes(safetensors.torch.save(tensors, {KEY: metadata.to_json()}))


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read ``.safetensors``, or ``.pt``/``.pth`` that hold nothing but tensors.

    Of a pickle, the first of ``state_dict``, ``model_state_dict``, ``model``, ``net`` that is
    there is taken. Prefixes ``module.`` and ``_orig_mod.`` that all names share are stripped.

    Raises:
        InputError: no such file, an unknown suffix, a damaged file, one that holds code or no
            tensors, or metadata that cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in (".safetensors", ".pt", ".pth"):
        raise InputError(
            "a checkpoint's name has an unknown suffix",
            got=path,
            wanted=".safetensors, .pt or .pth",
        )
    try:
        content = files.read_bytes(path)
    except (OSError, ValueError) as error:  # a null byte in the name
        got = getattr(error, "strerror", error)
        raise InputError(f"cannot read the checkpoint {path}", got=got) from error
    metadata = None
    if path.suffix.lower() == ".safetensors":
        tensors, metadata = _parse_safetensors(path, content)
    else:
        tensors = _parse_pickle(path, content)
    if not tensors:
        raise InputError(f"the checkpoint {path} holds no tensors")
    return Checkpoint(path, hashlib.sha256(content).hexdigest(), _strip(tensors), metadata)


def recognise(tensors: Mapping[str, Tensor]) -> ModelSpec | None:
    """Find the registered network that has exactly these tensor names and shapes.

    Returns:
        The network with its classes and as much of ``input_shape`` as the tensors show: the
        channels (C,) of a convolutional network, the length (n,) of a perceptron's input. Tensors
        say nothing of the activation, which is None. None if no network fits.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for spec in _candidates(shapes):
        try:
            own = _own_tensors(models.skeleton(spec))
        except InputError:  # sizes that no network has
            continue
        if _uncounted(shapes) == _uncounted({name: tuple(t.shape) for name, t in own.items()}):
            return spec
    return None


def check_fit(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Compare names, shapes and kinds; ``module`` may be a skeleton.

    ``num_batches_tracked`` may be missing, as it is from old files.

    Raises:
        InputError: tensors that are missing, unexpected or differ in shape or kind.
    """
    own, given = _strip(_own_tensors(module)), checkpoint.tensors
    shared = [name for name in own if name in given]
    problems = [
        _some("missing", (n for n in own if n not in given and not n.endswith(_COUNTER))),
        _some("unexpected", (name for name in given if name not in own)),
        _some(
            "of another shape or kind",
            (
                f"{name} (checkpoint {_form(given[name])}, network {_form(own[name])})"
                for name in shared
                if _form(given[name]) != _form(own[name])
            ),
        ),
    ]
    if any(problems):
        raise InputError(
            f"the checkpoint {checkpoint.path} does not fit the network {type(module).__name__}",
            got="; ".join(filter(None, problems)),
            hint="name the network that was trained with --model",
        )


def load_into(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's tensors into ``module``; every name, shape and kind must match.

    Raises:
        InputError: see :func:`check_fit`; parameters or running statistics that are not finite.
    """
    check_fit(module, checkpoint)
    own, given = _strip(_own_tensors(module)), checkpoint.tensors
    loaded = {name: given[name].to(own[name].dtype) for name in own if name in given}
    for name, tensor in loaded.items():  # other buffers, such as masks, may well hold -Inf
        matters = isinstance(own[name], nn.Parameter) or re.search(r"running_(mean|var)$", name)
        if matters and not tensor.isfinite().all():
            raise InputError(f"the checkpoint {checkpoint.path} has NaN or Inf in {name}")
    with torch.no_grad():
        for name, tensor in loaded.items():
            own[name].copy_(tensor)


def _parse_safetensors(path: Path, content: bytes) -> tuple[dict[str, Tensor], Metadata | None]:
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except Exception as error:  # damaged bytes may raise anything
        raise InputError(
            f"{path} is damaged, or no safetensors file", got=_reason(error)
        ) from error
    text = (header.get("__metadata__") or {}).get(KEY)
    return tensors, None if text is None else Metadata.from_json(text)


def _parse_pickle(path: Path, content: bytes) -> dict[str, Tensor]:
    hint = "save the weights alone: torch.save(model.state_dict(), path)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # damaged bytes may raise anything
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise InputError(
                f"{path} holds more than tensors, and loading it could run code",
                got=forbidden.group(1),
                hint=hint,
            ) from error
        raise InputError(
            f"{path} is damaged, or no checkpoint of tensors", got=_reason(error), hint=hint
        ) from error
    for _ in range(len(_WRAPPERS)):  # a pickle may contain itself, so not "while"
        inner = [found[k] for k in _WRAPPERS if isinstance(found, dict) and k in found]
        found = next((value for value in inner if isinstance(value, dict)), found)
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no state dict", got=type(found).__name__, hint=hint)
    for name, value in found.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InputError(
                f"{path} holds something other than tensors",
                got=f"{name!r}, a {type(value).__name__}",
                hint=hint,
            )
    return {name: tensor.detach() for name, tensor in found.items()}


def _candidates(shapes: Mapping[str, tuple[int, ...]]) -> Iterable[ModelSpec]:
    """Guess from a few tell-tale tensors; ``recognise`` compares all of them."""
    stem, head = shapes.get("stem.weight"), shapes.get("head.weight")
    first = shapes.get("groups.0.0.conv1.weight")
    if stem and head and first:
        pattern = re.compile(r"groups\.0\.\d+\.conv1\.weight")
        num_blocks = sum(pattern.fullmatch(name) is not None for name in shapes)
        name = f"wrn{6 * num_blocks + 4}-{first[0] // 16}"
        yield ModelSpec(name, num_classes=head[0], input_shape=stem[1:2])
    stem, head = shapes.get("conv1.weight"), shapes.get("fc.weight")
    if stem and head:
        for name in models.RESNETS:
            yield ModelSpec(name, num_classes=head[0], input_shape=stem[1:2])
    names = [name for name in shapes if re.fullmatch(r"layers\.\d+\.weight", name)]
    layers = [shapes[name] for name in sorted(names, key=lambda name: int(name.split(".")[1]))]
    if len(layers) > 1 and all(len(shape) == 2 for shape in layers):
        name = "-".join(["mlp", *(str(shape[0]) for shape in layers[:-1])])
        yield ModelSpec(name, num_classes=layers[-1][0], input_shape=layers[0][1:])


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip wrappers' prefixes for as long as every name has the same one."""
    while len(heads := {name[: name.find(".") + 1] for name in tensors}) == 1 and heads < _PREFIXES:
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


def _uncounted(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not name.endswith(_COUNTER)}


def _form(tensor: Tensor) -> str:
    kind = "complex " if tensor.is_complex() else "" if tensor.is_floating_point() else "integer "
    return f"{kind}{tuple(tensor.shape)}"


def _some(fault: str, names: Iterable[str], limit: int = 4) -> str:
    """Phrase a fault with the first few names, or say nothing where there are none."""
    found = list(names)
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return f"{fault}: {', '.join(found[:limit])}{more}" if found else ""


def _reason(error: Exception) -> str:
    """Take the telling paragraph: torch.load's first one advises to run the code after all."""
    paragraphs = re.split(r"\n\s*\n", str(error).strip())
    return f"{type(error).__name__}: {paragraphs[min(1, len(paragraphs) - 1)][:200]}"
