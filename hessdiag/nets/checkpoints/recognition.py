"""Finding the registered network that a checkpoint's tensors belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from hessdiag.errors import InputError
from hessdiag.metadata import ModelSpec
from hessdiag.nets import models
from hessdiag.nets.checkpoints.names import is_idle, own_tensors, plain, shared_prefixes


def recognise(tensors: Mapping[str, Tensor]) -> ModelSpec | None:
    """Find the registered network that has exactly these tensor names and shapes.

    Prefixes that all names share, and those that wrappers of torch put inside names, do not matter.

    Returns:
        The network with its classes and as much of ``input_shape`` as the tensors show: the
        channels (C,) of a convolutional network, the length (n,) of a perceptron's input. Tensors
        say nothing of the activation, which is None. None if no network fits.
    """
    names = {plain(name): name for name in tensors}
    weights = [name for name in names if not is_idle(name)]
    for prefix in shared_prefixes(weights):
        shapes = {name.removeprefix(prefix): tuple(tensors[names[name]].shape) for name in weights}
        for spec in _candidates(shapes):
            try:
                own = own_tensors(models.skeleton(spec))
            except InputError:  # sizes that no network has
                continue
            if shapes == {n: tuple(t.shape) for n, t in own.items() if not is_idle(n)}:
                return spec
    return None


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
    names = [name for name in shapes if re.fullmatch(r"layers\.[0-9]{1,6}\.weight", name)]
    layers = [shapes[name] for name in sorted(names, key=lambda name: int(name.split(".")[1]))]
    if len(layers) > 1 and all(len(shape) == 2 for shape in layers):
        name = "-".join(["mlp", *(str(shape[0]) for shape in layers[:-1])])
        yield ModelSpec(name, num_classes=layers[-1][0], input_shape=layers[0][1:])
