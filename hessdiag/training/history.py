"""What is known of a run: a row for each epoch, one for each step logged, and where it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hessdiag import codec
from hessdiag.codec import Count, Number
from hessdiag.curvature.pac_bayes import PacBayes
from hessdiag.metadata import Provenance
from hessdiag.metrics.metric_reading import Reading
from hessdiag.training.folder import Config


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch.

    Attributes:
        number: from 1.
        step: steps taken so far.
        lr: learning rate of the last one.
        train_loss: mean over the epoch's steps, as the weights moved; without any penalty.
        train_accuracy: likewise.
        validation_accuracy: on the examples held out, or None where there are none.
        test_accuracy: on the test split, or None where there is none.
        num_skipped: steps of the epoch left out as they were not finite.
        curvature: the metrics tracked, where this epoch's turn was.
    """

    number: Count
    step: Count
    lr: Number
    train_loss: Number
    train_accuracy: Number
    validation_accuracy: float | None
    test_accuracy: float | None
    num_skipped: Count
    curvature: dict[str, Reading] = field(default_factory=dict[str, Reading])

    def __post_init__(self) -> None:
        for name in ("lr", "train_loss", "train_accuracy"):
            if getattr(self, name) is None:  # not finite, and so null in a file
                object.__setattr__(self, name, math.nan)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Epoch:
        """Take back what ``to_row`` made of one, from a file of any origin.

        Raises:
            InputError: fields that are missing, or of the wrong kind.
        """
        return codec.convert(cls, row, what="an epoch's row")

    def to_row(self) -> dict[str, Any]:
        """Turn into plain values."""
        return msgspec.to_builtins(self)

    @property
    def metrics(self) -> dict[str, float]:
        """Losses and accuracies, as far as they are known."""
        names = ("train_loss", "train_accuracy", "validation_accuracy", "test_accuracy")
        values = {name: getattr(self, name) for name in names}
        return {name: x for name, x in values.items() if x is not None and math.isfinite(x)}

    @property
    def score(self) -> float | None:
        """The accuracy by which the best epoch is chosen."""
        held_out = self.validation_accuracy
        return self.test_accuracy if held_out is None else held_out

    def summary(self) -> str:
        """Describe in one line, for people."""
        text = f"loss {self.train_loss:.4f}, train accuracy {self.train_accuracy:.2%}"
        if self.validation_accuracy is not None:
            text += f", validation accuracy {self.validation_accuracy:.2%}"
        if self.test_accuracy is not None:
            text += f", test accuracy {self.test_accuracy:.2%}"
        return text


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        step: steps taken.
        num_steps: steps in all.
        epoch: the one under way, from 1.
        lr: learning rate of the last step.
        loss: mean training loss of the epoch so far; None where not looked at.
        accuracy: likewise.
        images_per_second: examples of all processes over the time spent on steps.
    """

    step: int
    num_steps: int
    epoch: int
    lr: float
    loss: float | None
    accuracy: float | None
    images_per_second: float

    def summary(self) -> str:
        """Describe in one line, for people."""
        text = f"epoch {self.epoch}"
        if self.loss is not None and self.accuracy is not None:
            text += f", loss {self.loss:.3f}, accuracy {self.accuracy:.1%}"
        return f"{text}, lr {self.lr:.2g}, {self.images_per_second:.0f} images/s"


@dataclass(frozen=True)
class Finished:
    """A run that is done.

    Attributes:
        config: what it was made of.
        checkpoint: the last one.
        epochs: all rows.
        provenance: network and training data.
        num_parameters: n.
        num_samples: training examples, those held out included.
        pac_bayes: the bound at the last weights, or None where not asked for.
        seconds: wall-clock time, since the run was started or last gone on with.
        images_per_second: examples of all processes over the time spent on steps.
        peak_memory_bytes: allocated on a GPU, resident on a CPU.
        num_processes: that shared the work.
        device: where.
    """

    config: Config
    checkpoint: Path
    epochs: tuple[Epoch, ...]
    provenance: Provenance
    num_parameters: int
    num_samples: int
    pac_bayes: PacBayes | None
    seconds: float
    images_per_second: float
    peak_memory_bytes: int
    num_processes: int
    device: str

    @property
    def best(self) -> Epoch | None:
        """The epoch of the best checkpoint, the first of those that score alike."""
        return max(
            (epoch for epoch in self.epochs if epoch.score is not None),
            key=lambda epoch: epoch.score or 0.0,
            default=None,
        )
