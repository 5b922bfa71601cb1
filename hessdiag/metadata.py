"""What a checkpoint of ours says about itself, kept as JSON in the safetensors header."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from hessdiag.errors import InputError

KEY = "hessdiag"
SCHEMA = "hessdiag.checkpoint/1"


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network.

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
    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class DataSpec:
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
    num_samples: int | None = None
    validation: float = 0.0
    label_noise: float = 0.0
    seed: int | None = None


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
    longest: int | None = None


@dataclass(frozen=True)
class Metadata:
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
    epoch: int | None = None
    seed: int | None = None
    metrics: dict[str, float] = field(default_factory=dict[str, float])

    def to_json(self) -> str:
        """Serialise for the safetensors header."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: not JSON, not this schema, or fields of the wrong kind.
        """
        try:
            raw = json.loads(text)
            if raw["schema"] != SCHEMA:
                raise InputError(
                    "the checkpoint's metadata has an unknown schema",
                    got=repr(raw["schema"])[:80],
                    wanted=SCHEMA,
                )
            own = {
                name: raw.get(name) for name in ("loss", "recipe", "regulariser", "epoch", "seed")
            }
            return cls(
                model=ModelSpec(**_checked(raw["model"])),
                data=DataSpec(**_checked(raw["data"])) if raw.get("data") else None,
                **_checked(own),
                metrics={str(key): float(value) for key, value in raw.get("metrics", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(
                "the checkpoint's hessdiag metadata cannot be read",
                got=repr(error)[:160],
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


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "activation", "spec", "loss", "recipe", "regulariser"), str),
    **dict.fromkeys(("num_classes", "epoch", "seed", "input_shape", "num_samples"), int),
    **dict.fromkeys(("beta", "mean", "std", "validation", "label_noise"), (int, float)),
    "arguments": list,
}
_LISTS = ("input_shape", "mean", "std", "arguments")


def _checked(raw: dict[str, Any]) -> dict[str, Any]:
    """Check the fields' kinds, and turn JSON's lists back into tuples.

    Raises:
        TypeError: a field of the wrong kind.
    """
    checked: dict[str, Any] = {}
    for name, value in raw.items():
        items = value if name in _LISTS and isinstance(value, list) else [value]
        fits = all(isinstance(item, _KINDS[name]) and not isinstance(item, bool) for item in items)
        if value is None and name in ("name", "spec"):
            raise TypeError(f"{name} is missing")
        if value is not None and not (fits and (name in _LISTS) == isinstance(value, list)):
            raise TypeError(f"{name} = {value!r:.60}")
        checked[name] = tuple(value) if isinstance(value, list) else value
    if "arguments" in raw:
        checked["arguments"] = tuple((str(name), value) for name, value in raw["arguments"])
    return checked
