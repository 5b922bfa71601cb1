"""Which network, which data, and how to compute: what every command that takes a subject shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hessdiag import loss_names, seeds
from hessdiag.settings import check, option


@dataclass(frozen=True)
class ModelOptions:
    """Which network; what is None comes from the checkpoint, or from a recipe."""

    model: Annotated[
        str | None,
        option(
            "wrn<depth>-<widen>, resnet18|34|50|101, mlp-64-64, timm:NAME, torchvision:NAME, or "
            "package.module:factory. Default: the checkpoint's own, by its metadata or config, "
            "else by its tensors' names and shapes."
        ),
    ] = None
    activation: Annotated[str | None, option("relu, gelu, beta_gelu, silu, tanh, …")] = None
    beta: Annotated[float | None, option("β of the activation.")] = None
    model_arg: Annotated[
        tuple[str, ...] | None,
        option(
            "An argument of the network, such as num_classes=10; may be repeated.",
            metavar="NAME=VALUE",
        ),
    ] = None


@dataclass(frozen=True)
class DataOptions:
    """Which data, and where they lie."""

    data: Annotated[
        str | None,
        option(
            "digits, cifar10, cifar100, mnist, fashion-mnist, imagenet, folder:DIR, text:FILE, "
            "a .npz or .safetensors file, or package.module:factory. Default: the checkpoint's "
            "metadata."
        ),
    ] = None
    data_root: Annotated[str | None, option("Folder of torchvision's data sets.")] = None
    download: Annotated[bool, option("Fetch a torchvision data set.")] = False
    label_noise: Annotated[
        float | None,
        option(
            "Share of the training labels drawn anew, uniformly over the classes. Default: the "
            "checkpoint's metadata or the recipe, else 0.",
            ge=0,
            le=1,
        ),
    ] = None


@dataclass(frozen=True)
class DeviceOption:
    """Where to compute."""

    device: Annotated[str, option("auto, cpu, cuda or cuda:i.")] = "auto"


@dataclass(frozen=True)
class DtypeOption:
    """In which arithmetic to compute."""

    dtype: Annotated[str, option("float32 or float64.", choices=("float32", "float64"))] = "float32"


@dataclass(frozen=True)
class SeedOption:
    """The root of all random streams."""

    seed: Annotated[int, option("Seed of all randomness.", ge=seeds.LEAST, le=seeds.MOST)] = 0

    def __post_init__(self) -> None:
        check(self)
        if others := getattr(super(), "__post_init__", None):
            others()  # of a class that has more options


@dataclass(frozen=True)
class CheckpointOptions:
    """Which weights of a checkpoint."""

    key: Annotated[
        str | None,
        option("The state dict within the checkpoint, or a prefix of its tensors' names."),
    ] = None
    ema: Annotated[bool, option("Take the moving average of the weights.")] = False


@dataclass(frozen=True)
class SubjectOptions(
    SeedOption, DtypeOption, DeviceOption, DataOptions, CheckpointOptions, ModelOptions
):
    """How to find a network and its data, and in which arithmetic to look at them.

    What is None comes from the checkpoint's metadata, else from its tensors' names and shapes.
    """

    split: Annotated[str, option("train or test.", choices=("train", "test"))] = "train"
    num_samples: Annotated[
        int | None,
        option(
            "Examples, drawn at random by --seed. Default: 512, or all if there are fewer.", ge=1
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        option(
            "Examples in a microbatch: memory only, the result does not depend on it.",
            ge=1,
        ),
    ] = None
    loss: Annotated[
        str | None,
        option(
            f"{', '.join(loss_names.NAMES)}, or package.module:function. "
            "Default: the checkpoint's metadata, else cross-entropy."
        ),
    ] = None
    output: Annotated[
        str | None,
        option("Which of the network's outputs, where it returns several: a name or an index."),
    ] = None
    bn: Annotated[
        str,
        option("eval: BatchNorm's running statistics; batch: those of the sample, as one batch."),
    ] = "eval"

    def __post_init__(self) -> None:
        check(self)
