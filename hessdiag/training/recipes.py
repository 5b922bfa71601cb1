"""Training recipes: complete, named sets of choices."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hessdiag import factories, files, loss_names
from hessdiag.errors import InputError, unknown
from hessdiag.training import augmentation, methods, optimisation
from hessdiag.training.task import Strengths

PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """All that a run is made of but its seed.

    Attributes:
        name: as in ``--recipe``.
        model: network.
        activation: its activation.
        data: value of ``--data``.
        epochs: passes over the training data.
        batch_size: examples a step.
        lr: peak learning rate.
        beta: the activation's β where it takes one.
        loss: name of the loss.
        optimizer: class in torch.optim; of the next four it takes what it has.
        momentum: of SGD and its like.
        nesterov: look ahead by the momentum, where there is one.
        amsgrad: of Adam and its like.
        weight_decay: of the weights.
        decay_norm_and_bias: of all of them; else not of BatchNorm's γ and β, nor of biases.
        schedule: of the learning rate: "cosine" to zero, "step" or "constant".
        warmup_epochs, warmup_factor: length of the linear rise to the peak, and its start as a
            share of the peak.
        step_epochs, step_factor: epochs between the steps of "step", and what each multiplies by.
        label_smoothing: share of each label spread over all classes, in cross-entropy.
        augmentation: of "flip", "crop4" and "resized-crop", in this order.
        mean, std: of every channel, to normalise images in [0, 1]; None for the data's own.
        zero_gamma: start the last BatchNorm γ of each residual block at 0.
        head_std: start the classifier's weight from N(0, head_std²); None for the network's own.
        init: weights to start from: a checkpoint, or "torchvision" for its pretrained ones; None
            for fresh ones.
        validation: share of the training data held out.
        precision: "float32", or "bf16" where it is safe.
        regulariser, strengths: its name, and pairs of options and values; defaults for the rest.
        source: where the choices come from, in a line.
    """

    name: str
    model: str
    activation: str | None
    data: str
    epochs: int
    batch_size: int
    lr: float
    beta: float | None = None
    loss: str = "cross-entropy"
    optimizer: str = "SGD"
    momentum: float = 0.9
    nesterov: bool = True
    amsgrad: bool = False
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.1
    step_epochs: int = 10
    step_factor: float = 0.1
    label_smoothing: float = 0.0
    augmentation: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    zero_gamma: bool = False
    head_std: float | None = None
    init: str | None = None
    validation: float = 0.0
    precision: str = "float32"
    regulariser: str = "none"
    strengths: tuple[tuple[str, Any], ...] = ()
    source: str = ""


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
    regulariser="nso",
    strengths=(("sigma2", 1e-4), ("num_pairs", 1)),  # σ = 0.01
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

_KINDS = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (bool, "true or false"),
}
_FIELDS = {field.name: str(field.type) for field in fields(Recipe)}
_OPTIONS = {field.name: str(field.type) for field in fields(Strengths)}


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
    if recipe.regulariser != "none":
        options = " ".join(f"{name}={value}" for name, value in recipe.strengths)
        parts.append(f"{recipe.regulariser} {options}".rstrip())
    return f"{recipe.name}: {network} on {recipe.data}, {', '.join(parts)}"


def override(recipe: Recipe, *, beta: float | None = None, **changes: object) -> Recipe:
    """Replace the fields of a recipe that are not None.

    What belonged to the old choice goes with it: β with the activation, mean and std with the data,
    strengths with the regulariser. Lists stand for tuples, whole numbers for numbers, and a mapping
    for the pairs of ``strengths``.

    Raises:
        InputError: an unknown field or choice, a value of the wrong type, a number out of range,
            or fields that do not go together.
    """
    given: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in _FIELDS:
            raise unknown("field of a recipe", name, _FIELDS)
        if value is not None:
            given[name] = typed(name, value, _FIELDS[name])
    if "activation" in given or beta is not None:
        given["beta"] = None if beta is None else typed("beta", beta, "float")
    elif factories.chooses_activation(
        given.get("model", "")
    ):  # a factory chooses its own activation
        given |= {"activation": None, "beta": None}
    if given.get("data", recipe.data) != recipe.data:
        given = {"mean": None, "std": None} | given
    if given.get("regulariser", recipe.regulariser) != recipe.regulariser:
        given = {"strengths": ()} | given
    changed = replace(recipe, **given)
    _check(changed)
    return changed


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of recipe fields and, beside them, options of the regulariser.

    The keys are fields of :class:`Recipe` and of :class:`hessdiag.training.task.Strengths`;
    ``strengths`` may be a table. Values get the types of the fields; their ranges are for
    :func:`override` and :func:`hessdiag.training.methods.settle` to check.

    Raises:
        InputError: a file that is missing or is no TOML; an unknown key; a value of the wrong type.
    """
    try:
        raw = tomllib.loads(files.read_text(path))
    except OSError as error:
        raise InputError(f"cannot read the file {path}", got=error.strerror) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the file {path} is no TOML", got=error, wanted='lines such as lr = 0.1 or data = "x"'
        ) from error
    kinds = _FIELDS | _OPTIONS
    for key in raw:
        if key not in kinds:
            raise unknown(f"key in {path}", key, kinds)
    return {key: typed(key, value, kinds[key], f" in {path}") for key, value in raw.items()}


def typed(name: str, value: Any, kind: str, where: str = "") -> Any:
    """Check a value against the annotation of its field; numbers and lists become what it says."""
    kind = kind.removesuffix(" | None")
    if name == "strengths":
        return _pairs(value, where)
    if kind.startswith("tuple"):
        item = kind[len("tuple[") : kind.index(",")]
        if isinstance(value, list | tuple):
            return tuple(typed(name, one, item, where) for one in value)
        wanted = f"a list, each {_KINDS[item][1]}"
    else:
        python, wanted = _KINDS[kind]
        if python is float and type(value) is int and abs(value) < 1e300:
            return float(value)
        if type(value) is python:
            return value
    raise _wrong(name + where, value, wanted)


def _pairs(value: Any, where: str) -> tuple[tuple[str, Any], ...]:
    """Check options of a regulariser, given as a mapping or as pairs."""
    try:
        options = dict(value)
    except (TypeError, ValueError):
        raise _wrong(f"strengths{where}", value, "options and their values") from None
    for key in options:
        if key not in _OPTIONS:
            raise unknown(f"option in strengths{where}", str(key), _OPTIONS)
    return tuple((key, typed(key, one, _OPTIONS[key], where)) for key, one in options.items())


def _wrong(what: str, value: object, wanted: str) -> InputError:
    return InputError(f"{what} has the wrong type", got=f"{value!r:.60}", wanted=wanted)


def _check(recipe: Recipe) -> None:
    for name, known in (("loss", loss_names.NAMES), ("precision", PRECISIONS)):
        if (value := getattr(recipe, name)) not in known:
            raise unknown(name, value, known)
    optimisation.check(recipe)
    augmentation.check(recipe.augmentation)
    methods.settle(recipe.regulariser, **dict(recipe.strengths))
    mean, std = recipe.mean or (), recipe.std or ()
    fits = len(mean) == len(std) and all(map(math.isfinite, (*mean, *std)))
    if not fits or min(std, default=1) <= 0:
        got = f"mean {recipe.mean}, std {recipe.std}"
        wanted = "as many of each, finite, and std above 0"
        raise InputError("mean or std is out of range", got=got, wanted=wanted)
