"""Training recipes: complete, named sets of choices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from hessdiag import codec, factories, loss_names
from hessdiag.errors import InputError, unknown
from hessdiag.settings import check, fields, option, typed
from hessdiag.training import methods, optimisation
from hessdiag.training.augmentation import KINDS
from hessdiag.training.methods import NSO, Method, Plain

_LARGEST = 1e30  # of float32
_PLAIN = Plain()


@dataclass(frozen=True)
class Recipe:
    """All that a run is made of but its seed."""

    name: Annotated[str, option("As in --recipe.")]
    model: Annotated[str, option("Network.")]
    activation: Annotated[str | None, option("Its activation.")]
    data: Annotated[str, option("Value of --data.")]
    epochs: Annotated[int, option("Passes over the training data.", ge=1)]
    batch_size: Annotated[int, option("Examples a step; BatchNorm needs two.", ge=2)]
    lr: Annotated[float, option("Peak learning rate.", ge=0, le=_LARGEST)]
    beta: Annotated[
        float | None, option("The activation's β where it takes one.", ge=0, le=_LARGEST)
    ] = None
    model_arg: Annotated[
        tuple[str, ...], option("Arguments of timm's or torchvision's network: name=value.")
    ] = ()
    loss: Annotated[str, option("Name of the loss.", choices=loss_names.NAMES)] = "cross-entropy"
    optimizer: Annotated[
        str, option("Class in torch.optim; of the next four it takes what it has.")
    ] = "SGD"
    momentum: Annotated[float, option("Of SGD and its like.", ge=0, lt=1)] = 0.9
    nesterov: Annotated[bool, option("Look ahead by the momentum, where there is one.")] = True
    amsgrad: Annotated[bool, option("Of Adam and its like.")] = False
    weight_decay: Annotated[float, option("Of the weights.", ge=0, le=_LARGEST)] = 5e-4
    decay_norm_and_bias: Annotated[
        bool, option("Decay all of them; else not BatchNorm's γ and β, nor biases.")
    ] = True
    schedule: Annotated[
        str,
        option("Of the learning rate; cosine to zero.", choices=("cosine", "step", "constant")),
    ] = "cosine"
    warmup_epochs: Annotated[
        float, option("Length of the linear rise to the peak.", ge=0, le=_LARGEST)
    ] = 0.0
    warmup_factor: Annotated[float, option("Its start, of the peak.", ge=0, le=1)] = 0.1
    step_epochs: Annotated[int, option('Epochs between the steps of "step".', ge=1)] = 10
    step_factor: Annotated[float, option("What each multiplies by.", ge=0, le=1)] = 0.1
    label_smoothing: Annotated[
        float,
        option("Share of each label spread over all classes, in cross-entropy.", ge=0, lt=1),
    ] = 0.0
    augmentation: Annotated[tuple[str, ...], option("In this order.", choices=KINDS)] = ()
    mean: Annotated[
        tuple[float, ...] | None,
        option("Of every channel, to normalise images in [0, 1]; None for the data's own."),
    ] = None
    std: Annotated[tuple[float, ...] | None, option("Likewise.")] = None
    zero_gamma: Annotated[
        bool, option("Start the last BatchNorm γ of each residual block at 0.")
    ] = False
    head_std: Annotated[
        float | None,
        option(
            "Start the classifier's weight from N(0, head_std²); None for the network's own.",
            ge=0,
            le=_LARGEST,
        ),
    ] = None
    init: Annotated[
        str | None,
        option("Weights to start from: a checkpoint, or torchvision; None for fresh ones."),
    ] = None
    validation: Annotated[float, option("Share of the training data held out.", ge=0, lt=1)] = 0.0
    label_noise: Annotated[
        float,
        option(
            "Share of the training labels drawn anew, uniformly over the classes; those held out "
            "among them.",
            ge=0,
            le=1,
        ),
    ] = 0.0
    precision: Annotated[str, option("bf16 where it is safe.", choices=("float32", "bf16"))] = (
        "float32"
    )
    method: Method = _PLAIN
    source: Annotated[str, option("Where the choices come from, in a line.")] = ""

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            InputError: a number out of range, an unknown choice, or what does not go together.
        """
        check(self)
        optimisation.find(self.optimizer)
        if self.label_smoothing and self.loss != "cross-entropy":
            got = f"the loss {self.loss}"
            raise InputError("label smoothing belongs to cross-entropy", got=got)
        mean, std = self.mean or (), self.std or ()
        fits = len(mean) == len(std) and all(map(math.isfinite, (*mean, *std)))
        if not fits or min(std, default=1) <= 0:
            got = f"mean {self.mean}, std {self.std}"
            wanted = "as many of each, finite, and std above 0"
            raise InputError("mean or std is out of range", got=got, wanted=wanted)


_DIGITS = Recipe(
    name="digits-wrn10-1",
    model="wrn10-1",
    activation="gelu",
    data="digits",
    epochs=15,
    batch_size=64,
    lr=0.1,
    source="this project's own: the embedded digits, in about a minute on two cores",
)
_CIFAR = replace(
    _DIGITS,
    name="cifar10-wrn28-10",
    model="wrn28-10",
    data="cifar10",
    epochs=200,
    batch_size=128,
    augmentation=("flip", "crop4"),
    source="Zagoruyko & Komodakis (2016), with cosine decay: Dauphin et al. (2024)",
)
_FASHION = replace(
    _CIFAR,
    name="fashion-mnist-wrn28-10",
    data="fashion-mnist",
    source="as cifar10-wrn28-10, on Fashion-MNIST as in Foret et al. (2021)",
)
_IMAGENET = Recipe(
    name="imagenet-resnet50",
    model="resnet50",
    activation="relu",
    data="imagenet",
    epochs=300,
    batch_size=1024,
    lr=0.4,  # 0.1 × batch / 256
    weight_decay=1e-4,
    decay_norm_and_bias=False,
    warmup_epochs=5.0,
    warmup_factor=0.25,  # from 0.1
    augmentation=("resized-crop", "flip"),
    zero_gamma=True,
    head_std=0.01,
    source="Goyal et al. (2018), with cosine decay over 300 epochs: Dauphin et al. (2024)",
)
_FINETUNE = Recipe(
    name="finetune-resnet34",
    model="resnet34",
    activation="relu",
    data="folder:data/finetune",
    epochs=30,
    batch_size=32,
    lr=1e-4,
    optimizer="Adam",
    amsgrad=True,
    weight_decay=0.0,
    schedule="step",
    augmentation=("resized-crop", "flip"),
    init="torchvision",
    validation=0.1,
    method=NSO(sigma2=1e-4, num_pairs=1),  # σ = 0.01
    source="Zhang, Li & Ju (2024), without their colour jitter",
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        _DIGITS,
        _CIFAR,
        replace(_CIFAR, name="cifar10-wrn16-4", model="wrn16-4"),
        replace(_CIFAR, name="cifar100-wrn28-10", data="cifar100"),
        _FASHION,
        replace(_FASHION, name="fashion-mnist-wrn16-4", model="wrn16-4"),
        _IMAGENET,
        _FINETUNE,
    )
}

_FIELDS = {field.name: field.type for field in fields(Recipe)}
_KEYS = {**_FIELDS, "regulariser": str}
"""What may be changed of a recipe: its method goes by name."""


def find(name: str) -> Recipe:
    """Look a recipe up by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def summary(recipe: Recipe) -> str:
    """Describe a recipe in one line, for people."""
    beta = "" if recipe.beta is None else f", β = {recipe.beta:g}"
    network = recipe.model + (f" ({recipe.activation}{beta})" if recipe.activation else "")
    parts = [f"{recipe.epochs} epochs of batches of {recipe.batch_size}"]
    parts += [f"{recipe.optimizer} {recipe.lr:g} {recipe.schedule}", *recipe.augmentation]
    if not isinstance(recipe.method, Plain):
        options = (f"{name}={value}" for name, value in recipe.method.values.items())
        parts.append(" ".join((recipe.method.name, *options)))
    return f"{recipe.name}: {network} on {recipe.data}, {', '.join(parts)}"


def override(
    recipe: Recipe,
    *,
    beta: float | None = None,
    regulariser: str | None = None,
    strengths: Mapping[str, Any] | None = None,
    **changes: object,
) -> Recipe:
    """Replace the fields of a recipe that are not None.

    What belonged to the old choice goes with it: β with the activation, arguments with the network,
    mean and std with the data, the method's options with the method.

    Args:
        recipe: to start from.
        beta: of the activation.
        regulariser: name of the method; None for the recipe's.
        strengths: options of the method.
        **changes: other fields; lists stand for tuples, whole numbers for numbers.

    Raises:
        InputError: an unknown field or choice, a value of the wrong type, a number out of range,
            or fields that do not go together.
    """
    given: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in _FIELDS:
            raise unknown("field of a recipe", name, _KEYS)
        if value is not None:
            given[name] = typed(name, _FIELDS[name], value)
    if "activation" in given or beta is not None:
        given["beta"] = None if beta is None else typed("beta", _FIELDS["beta"], beta)
    elif factories.chooses_activation(
        given.get("model", "")
    ):  # a factory chooses its own activation
        given |= {"activation": None, "beta": None}
    if given.get("model", recipe.model) != recipe.model:
        given = {"model_arg": ()} | given
    if given.get("data", recipe.data) != recipe.data:
        given = {"mean": None, "std": None} | given
    changed = replace(recipe, **given)
    method = methods.settle(
        recipe.method.name if regulariser is None else regulariser,
        base=recipe.method,
        activation=changed.activation,
        precision=changed.precision,
        **(strengths or {}),
    )
    return replace(changed, method=method)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of recipe fields and, beside them, options of the method.

    The keys are fields of :class:`Recipe`, ``regulariser``, and options of the methods, which may
    stand in a table ``strengths``, too. Values get the types and are in the ranges of the fields.

    Returns:
        What :func:`override` takes; options are in ``strengths``.

    Raises:
        InputError: a file that is missing or cannot be parsed; an unknown key; a value of the wrong
            type or out of range.
    """
    text = codec.read_bytes(path, what="the file")
    raw = codec.decode_toml(dict[str, Any], text, what=f"the file {path}")
    where, options = f" in {path}", methods.KEYS
    table = raw.pop("strengths", {})
    for key in raw:
        if key not in _KEYS and key not in options:
            raise unknown(f"key{where}", key, [*_KEYS, *options])
    loose = {key: raw.pop(key) for key in list(raw) if key in options}
    if not isinstance(table, dict):
        raise InputError(
            f"strengths{where} has the wrong type",
            got=f"{table!r:.60}",
            wanted="a table of options and their values",
        )
    for key in table:
        if key not in options:
            raise unknown(f"option in strengths{where}", key, options)
    strengths = {
        key: typed(key, options[key], value, where) for key, value in (table | loose).items()
    }
    fields = {key: typed(key, _KEYS[key], value, where) for key, value in raw.items()}
    return fields | ({"strengths": strengths} if strengths else {})
