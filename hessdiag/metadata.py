"""What a checkpoint of ours says about itself, kept as JSON in the safetensors header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from hessdiag import codec
from hessdiag.codec import Count, Whole
from hessdiag.errors import InputError

KEY = "hessdiag"
SCHEMA = "hessdiag.checkpoint/1"


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """All that is needed to build a network; a key that is not known may decide what is built.

    Attributes:
        name: a registered name (``wrn28-10``, ``resnet18``, ``mlp-64-64``) or ``module:factory``.
        activation: registered activation, or None for a factory's own choice.
        beta: the activation's β where it takes one.
        num_classes: length of the output.
        input_shape: shape of one input, (C, H, W), or None where the network does not need it.
        arguments: names and values of further ones, of a factory or of a library's network.
    """

    name: str
    activation: str | None = None
    beta: float | None = None
    num_classes: Count | None = None
    input_shape: tuple[Count, ...] | None = None
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Circumstances:
    """In which arithmetic, where and by which parameters a network was looked at.

    Attributes:
        dtype: floating type computed in.
        device: where.
        bn: BatchNorm mode.
        batch_size: examples in a microbatch; None where the caller made the batches.
        params: globs over the parameters, or None.
    """

    dtype: str = "float32"
    device: str = "cpu"
    bn: str = "eval"
    batch_size: Count | None = None
    params: tuple[str, ...] | None = None


class DataSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the inputs come from and how they are scaled.

    Attributes:
        spec: the value of ``--data``.
        mean: per-channel mean subtracted from inputs scaled to [0, 1], or None for the data
            set's own.
        std: per-channel divisor, likewise.
        num_samples: examples drawn for training, those held out among them; None for all.
        validation: share of them that was held out.
        label_noise: share of the training labels that were drawn anew.
        seed: of all three; None where none of them was.
    """

    spec: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    num_samples: Count | None = None
    validation: float = 0.0
    label_noise: float = 0.0
    seed: Whole | None = None


@dataclass(frozen=True)
class TextForm:
    """How a language model takes text.

    Attributes:
        folder: where its tokenizer lies.
        head: "causal" or "masked"; None for a network that is neither.
        longest: tokens that it takes at most; None where it does not say.
    """

    folder: str
    head: str | None
    longest: Count | None = None


class Metadata(Struct, frozen=True, tag_field="schema", tag=SCHEMA):
    """The header of a checkpoint that this project wrote.

    Attributes:
        model: how to build the network.
        data: what it was trained on, and how that is scaled.
        loss: name of the loss.
        recipe: name of the recipe.
        regulariser: name of the regulariser.
        epoch: epochs trained.
        seed: of the run; its stream "init" gave the initial weights.
        metrics: what was measured at the end.
    """

    model: ModelSpec
    data: DataSpec | None = None
    loss: str | None = None
    recipe: str | None = None
    regulariser: str | None = None
    epoch: Count | None = None
    seed: Whole | None = None
    metrics: dict[str, float] = {}

    def to_json(self) -> str:
        """Serialise for the safetensors header."""
        return json.dumps(msgspec.to_builtins(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: not JSON, not this schema, or fields of the wrong kind.
        """
        try:
            return codec.decode(cls, text, what="its header")
        except InputError as error:
            raise InputError(
                "the checkpoint's hessdiag metadata cannot be read",
                got=f"{error.what}: {error.got}" if error.got else error.what,
                wanted=error.wanted,
                hint="name the network and the data with --model and --data",
            ) from error


@dataclass(frozen=True)
class Provenance:
    """Which checkpoint, network and data a report speaks of.

    Attributes:
        checkpoint: path as given; None where there is no checkpoint.
        checkpoint_sha256: hash of its bytes.
        model: how the network was built.
        data: value of ``--data``.
        split: which part of the data.
        data_sha256: hash of the samples used.
        batch_size: examples in a microbatch.
        trained_with: the network that was trained, if it had another activation; else None.
        notes: how the checkpoint was read: what was chosen, renamed or left out.
    """

    checkpoint: str | None
    checkpoint_sha256: str | None
    model: ModelSpec
    data: str
    split: str
    data_sha256: str
    batch_size: int
    trained_with: ModelSpec | None = None
    notes: tuple[str, ...] = ()
