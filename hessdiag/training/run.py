"""A run in progress: all that a state holds, and what can be built anew from its configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hessdiag.data.datasets import Dataset
from hessdiag.errors import InputError
from hessdiag.linalg.vectors import all_finite
from hessdiag.metadata import DataSpec, Metadata, ModelSpec
from hessdiag.nets import checkpoints, models
from hessdiag.seeds import stream
from hessdiag.training import folder, methods, state
from hessdiag.training.augmentation import augment
from hessdiag.training.folder import Config
from hessdiag.training.objective import Objective
from hessdiag.training.optimisation import initialise, learning_rate, make_optimizer
from hessdiag.training.task import Step, Streams, Task

_LOOK_EVERY = {"cpu": 1, "cuda": 50}  # steps between looks at whether all was finite: GPUs wait


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
    """

    number: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_accuracy: float | None
    test_accuracy: float | None
    num_skipped: int

    @property
    def score(self) -> float | None:
        """The accuracy by which the best epoch is chosen."""
        held_out = self.validation_accuracy
        return self.test_accuracy if held_out is None else held_out

    def summary(self) -> str:
        """One line for people."""
        text = f"loss {self.train_loss:.4f}, train accuracy {self.train_accuracy:.2%}"
        if self.validation_accuracy is not None:
            text += f", validation accuracy {self.validation_accuracy:.2%}"
        if self.test_accuracy is not None:
            text += f", test accuracy {self.test_accuracy:.2%}"
        return text


class Run:
    """A run in progress: everything that a state holds, and what can be built anew."""

    def __init__(
        self, config: Config, data: Dataset, test: Dataset | None, out: Path, device: torch.device
    ) -> None:
        self.config, self.test, self.out, self.device = config, test, out, device
        recipe = config.recipe
        self.regulariser = methods.find(config.regulariser)
        self.spec = ModelSpec(
            recipe.model, recipe.activation, recipe.beta, data.num_classes, data.input_shape
        )
        self.model = models.build(self.spec, seed=stream(config.seed, "init"))
        initialise(recipe, self.model, stream(config.seed, "head"))
        self.model.to(device)
        self.optimizer = make_optimizer(recipe, self.model)
        self.objective = Objective(
            self.model,
            recipe.loss,
            label_smoothing=recipe.label_smoothing,
            precision=recipe.precision,
        )
        self.data = data
        training, self.held_out = _split(data, recipe.validation, config.seed)
        self.inputs, self.targets = data.inputs[training], data.targets[training]
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
        self.order = torch.Generator().manual_seed(stream(config.seed, "order"))
        self.per_epoch = len(_batches(len(self.inputs), recipe.batch_size, torch.Generator()))
        self.num_steps = recipe.epochs * self.per_epoch
        self.batches: list[Tensor] = []
        self.step = 0
        self.epochs: list[Epoch] = []
        self._reset_totals()

    def advance(self) -> None:
        """Take one step."""
        position = self.step % self.per_epoch
        if position == 0 or not self.batches:
            self.batches = _batches(len(self.inputs), self.config.recipe.batch_size, self.order)
        recipe, seed = self.config.recipe, self.config.seed
        index = self.batches[position].to(self.device)
        x, y = self.inputs[index], self.targets[index]
        if recipe.augmentation:
            x = augment(x, recipe.augmentation, self._generator("augmentation"))
        torch.manual_seed(stream(seed, "dropout", self.step))
        self.model.train()
        streams = Streams(self._generator("perturbation"), self._generator("labels"))
        task = Task(self.objective, x, y, self.config.strengths, streams)
        skips = self.config.on_nonfinite == "skip"
        buffers = [tensor.clone() for tensor in self.model.buffers()] if skips else []
        step = self.regulariser.gradient(task)
        finite = torch.isfinite(step.loss + torch.nn.utils.get_total_norm(step.gradient))
        if skips and not bool(finite):
            self.num_skipped += 1
            for tensor, before in zip(self.model.buffers(), buffers, strict=True):
                tensor.copy_(before)  # BatchNorm has taken the batch in
        else:
            self._descend(step)
            self._count(step, y)
            here = torch.full_like(self.first_bad, self.step)
            self.first_bad = torch.where((self.first_bad < 0) & ~finite, here, self.first_bad)
        self.step += 1
        if self.step % _LOOK_EVERY[self.device.type] == 0:
            self._look()

    def close_epoch(self) -> Epoch:
        """Measure, write metrics and checkpoints."""
        self._look(at_weights=True)
        loss, right, examples = self.totals.tolist()
        size = examples or math.nan  # of an epoch of skipped steps nothing is known
        held_out = tested = None
        if len(self.held_out):
            held_out = self._accuracy(self.data, self.held_out)
        if self.test is not None:
            tested = self._accuracy(self.test, torch.arange(self.test.num_samples))
        epoch = Epoch(
            number=self.step // self.per_epoch,
            step=self.step,
            lr=learning_rate(self.config.recipe, self.step - 1, self.per_epoch),
            train_loss=loss / size,
            train_accuracy=right / size,
            validation_accuracy=held_out,
            test_accuracy=tested,
            num_skipped=self.num_skipped,
        )
        best = max((e.score for e in self.epochs if e.score is not None), default=None)
        self.epochs.append(epoch)
        folder.write_metrics(self.out, [dataclasses.asdict(row) for row in self.epochs])
        metadata = self._metadata(epoch)
        checkpoints.save(self.out / folder.LAST, self.model, metadata)
        if best is None or (epoch.score is not None and epoch.score > best):
            checkpoints.save(self.out / folder.BEST, self.model, metadata)
        self._reset_totals()
        return epoch

    def save(self) -> None:
        """Write the state."""
        self._look(at_weights=True)
        state.save(
            self.out,
            {
                "config": _digest(self.config),
                "data": self.data.sha256,
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "totals": self.totals,
                "num_skipped": self.num_skipped,
                "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
            },
        )

    def restore(self, payload: dict[str, Any]) -> None:
        """Go to the state that ``save`` wrote.

        Raises:
            InputError: it is of another configuration or of other data.
        """
        for name, own in (("config", _digest(self.config)), ("data", self.data.sha256)):
            if payload.get(name) != own:
                what = "configuration" if name == "config" else "training data"
                raise InputError(
                    f"the run's {what} changed since its state was written",
                    got=f"another {what}",
                    hint="undo the change, or start anew with train --force",
                )
        self.step = payload["step"]
        self.model.load_state_dict(payload["model"])
        self.optimizer.load_state_dict(payload["optimizer"])
        self.totals = payload["totals"].to(self.device)
        self.num_skipped = payload["num_skipped"]
        self.epochs = [Epoch(**row) for row in payload["epochs"]]
        for _ in range(-(-self.step // self.per_epoch)):  # the order of the epochs begun
            self.batches = _batches(len(self.inputs), self.config.recipe.batch_size, self.order)

    def _descend(self, step: Step) -> None:
        for tensor, gradient in zip(self.objective.parameters, step.gradient, strict=True):
            tensor.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.recipe, self.step, self.per_epoch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _count(self, step: Step, y: Tensor) -> None:
        right = (step.outputs.argmax(1) == y).sum()
        self.totals += torch.stack([step.loss * len(y), right, right.new_tensor(len(y))])

    def _reset_totals(self) -> None:
        self.totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, right, all
        self.num_skipped = 0
        self.first_bad = torch.tensor(-1, device=self.device)

    def _look(self, *, at_weights: bool = False) -> None:
        """Stop if a step was not finite; the state on disk is from before it."""
        bad, what = int(self.first_bad), "a loss or gradient that is"
        hint = f"try a smaller --lr than {self.config.recipe.lr:g}"
        if bad >= 0:
            hint += ", or --on-nonfinite skip"
        elif at_weights and not all(
            all_finite(tensor.detach()) for tensor in self.objective.parameters
        ):
            bad, what = self.step - 1, "weights that are"
        if bad >= 0:
            raise InputError(
                "training diverged",
                got=f"{what} not finite in step {bad + 1} of {self.num_steps}",
                hint=hint,
            )

    @torch.no_grad()
    def _accuracy(self, data: Dataset, chosen: Tensor) -> float:
        """Share of right predictions in evaluation mode."""
        self.model.eval()
        right = 0
        for index in chosen.split(4 * self.config.recipe.batch_size):
            z = self.model(data.inputs[index].to(self.device))
            right += int((z.argmax(1) == data.targets[index].to(self.device)).sum())
        return right / len(chosen)

    def _generator(self, name: str) -> torch.Generator:
        generator = torch.Generator(self.device)
        return generator.manual_seed(stream(self.config.seed, name, self.step))

    def _metadata(self, epoch: Epoch) -> Metadata:
        metrics = {
            name: value
            for name in ("train_loss", "train_accuracy", "validation_accuracy", "test_accuracy")
            if (value := getattr(epoch, name)) is not None and math.isfinite(value)
        }
        return Metadata(
            model=self.spec,
            data=DataSpec(self.data.spec, self.data.mean, self.data.std),
            loss=self.config.recipe.loss,
            recipe=self.config.recipe.name,
            regulariser=self.config.regulariser,
            epoch=epoch.number,
            seed=self.config.seed,
            metrics=metrics,
        )


def _split(data: Dataset, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose the examples to train on and those held out, as indices."""
    size = len(data.targets)
    held_out = round(validation * size)
    generator = torch.Generator().manual_seed(stream(seed, "validation"))
    if size - held_out < 2:
        raise InputError(
            "training needs at least two examples",
            got=f"{size - held_out} of {size}, as a share of {validation:g} is held out",
        )
    order = torch.randperm(size, generator=generator) if held_out else torch.arange(size)
    return order[held_out:], order[:held_out]


def _batches(size: int, batch_size: int, order: torch.Generator) -> list[Tensor]:
    """Shuffle indices into batches; a last batch of one is left out, as BatchNorm needs two."""
    batches = torch.randperm(size, generator=order).split(batch_size)
    return [batch for batch in batches if len(batch) > 1]


def _digest(config: Config) -> str:
    return hashlib.sha256(config.to_toml().encode()).hexdigest()
