"""A run in progress: all that a state holds, and what can be built anew from its configuration."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hessdiag import factories
from hessdiag.curvature.kernels import exact_kernels, repeatable_kernels
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.linalg.vectors import all_finite
from hessdiag.metadata import DataSpec, Metadata, ModelSpec
from hessdiag.metrics.metric_reading import Reading
from hessdiag.nets import checkpoints, models, pretrained
from hessdiag.seeds import stream
from hessdiag.training import folder, state
from hessdiag.training.feeds import Batch, Data, Feed, hold_out, make_feed, shuffled
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch, Standing
from hessdiag.training.objective import Objective
from hessdiag.training.optimisation import (
    adaptive_scale,
    initialise,
    learning_rate,
    make_optimizer,
)
from hessdiag.training.task import Step, Streams, Task
from hessdiag.training.tracking import make_tracker

LOGGED = ("step", "lr", "loss", "gradient_norm")  # of a step's row
_LOOK_EVERY = {"cpu": 1, "cuda": 50}  # steps between looks at whether all was finite: GPUs wait


class Run:
    """A run in progress: everything that a state holds, and what can be built anew."""

    def __init__(
        self,
        config: Config,
        data: Data,
        test: Data | None,
        out: Path,
        device: torch.device,
        *,
        num_workers: int = 0,
    ) -> None:
        self.config, self.data, self.out, self.device = config, data, out, device
        recipe, seed = config.recipe, config.seed
        self.spec = ModelSpec(
            recipe.model,
            recipe.activation,
            recipe.beta,
            data.num_classes,
            data.input_shape,
            factories.arguments(recipe.model_arg),
        )
        self.model = models.build(self.spec, seed=stream(seed, "init"))
        initialise(recipe, self.model, stream(seed, "head"))
        second = config.method.second_derivative
        self.kernels = exact_kernels if second else repeatable_kernels
        # measured: channels last, first derivatives are faster, and second derivatives slower
        self.layout = torch.contiguous_format if second else torch.channels_last
        self.model.to(device).to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]
        self.optimizer = make_optimizer(recipe, self.model)
        compiled: Any = torch.compile(self.model) if config.compile else self.model
        self.objective = Objective(
            compiled,
            recipe.loss,
            label_smoothing=recipe.label_smoothing,
            precision=recipe.precision,
        )
        self.feed = make_feed(data, device, recipe.augmentation, seed, num_workers)
        self.test = None if test is None else make_feed(test, device, num_workers=num_workers)
        self.num_tested = 0 if test is None else test.num_samples
        self.training, self.held_out = hold_out(data.num_samples, recipe.validation, seed)
        self.tracker = make_tracker(config, data, self.training, self.num_parameters)
        self.order = torch.Generator().manual_seed(stream(seed, "order"))
        self.per_epoch = len(shuffled(self.training, recipe.batch_size, torch.Generator()))
        self.num_steps = recipe.epochs * self.per_epoch
        self.batches: list[Tensor] = []  # of the epoch under way
        self.coming: Generator[Batch] | None = None  # what is left of them
        self.step = 0
        self.epochs: list[Epoch] = []
        self.logged: list[dict[str, Any]] = []
        self.seconds = 0.0  # spent on steps
        self.num_seen = 0  # examples of those steps
        self._reset_totals()

    @property
    def num_parameters(self) -> int:
        """Weights that are trained."""
        return sum(tensor.numel() for tensor in self.objective.parameters)

    def begin(self) -> None:
        """Take the weights to start from, and clear the folder.

        Raises:
            InputError: they cannot be had, or the folder cannot be written.
        """
        recipe = self.config.recipe
        if recipe.init is not None:
            pretrained.start_from(pretrained.locate(recipe.init, recipe.model), self.model)
        if self.tracker is not None:
            self.tracker.begin(self.model)
        if processes.is_first():
            folder.prepare(self.out, self.config)

    def advance(self) -> None:
        """Take one step."""
        recipe, seed = self.config.recipe, self.config.seed
        began = time.perf_counter()
        if self.coming is None:
            position = self.step % self.per_epoch
            if position == 0 or not self.batches:
                self.batches = shuffled(self.training, recipe.batch_size, self.order)
            self.coming = self.feed.batches(self.batches[position:], self.step)
        batch = next(self.coming)
        torch.manual_seed(stream(seed, "dropout", self.step, processes.rank()))
        self.model.train()
        task = Task(
            self.objective,
            self._laid_out(batch.x),
            batch.y,
            self.config.method,
            Streams(self._generator("perturbation"), self._generator("labels")),
            batch.size,
            batch.first,
        )
        skips = self.config.on_nonfinite == "skip"
        buffers = [tensor.clone() for tensor in self.model.buffers()] if skips else []
        with self.kernels():
            step = self.config.method.step(task)
        norm = torch.nn.utils.get_total_norm(step.gradient)
        finite = torch.isfinite(step.loss + norm)
        if skips and not bool(finite):
            self.num_skipped += 1
            for tensor, before in zip(self.model.buffers(), buffers, strict=True):
                tensor.copy_(before)  # BatchNorm has taken the batch in
        else:
            self._descend(step)
            self._count(step, batch)
            self._log(step.loss, norm)
            bad = torch.full_like(self.first_bad, self.step)
            self.first_bad = torch.where((self.first_bad < 0) & ~finite, bad, self.first_bad)
        self.step += 1
        self.num_seen += batch.size
        if self.step % _LOOK_EVERY[self.device.type] == 0:
            self._look()
        self.seconds += time.perf_counter() - began

    @property
    def standing(self) -> Standing:
        """Tell where the run stands; the loss where that costs no waiting, for GPU or others."""
        looks = self.device.type == "cpu" and processes.count() == 1
        loss, right, size = self.totals.tolist() if looks else (0.0,) * 3
        return Standing(
            step=self.step,
            num_steps=self.num_steps,
            epoch=-(-self.step // self.per_epoch),
            lr=learning_rate(self.config.recipe, max(self.step - 1, 0), self.per_epoch),
            loss=loss / size if size else None,
            accuracy=right * processes.count() / size if size else None,  # right ones here alone
            images_per_second=self.images_per_second,
        )

    @property
    def images_per_second(self) -> float:
        """Examples of all processes over the time spent on steps."""
        return self.num_seen / self.seconds if self.seconds else 0.0

    def close_epoch(self) -> Epoch:
        """Measure, write metrics and checkpoints."""
        self._look(at_weights=True)
        began = time.perf_counter()
        processes.add_up(self.totals)
        loss, right, num_counted = self.totals.tolist()
        self.seconds += time.perf_counter() - began  # a GPU had steps to finish
        size = num_counted or math.nan  # of an epoch of skipped steps nothing is known
        number = self.step // self.per_epoch
        config, everything = self.config, torch.arange(self.num_tested)
        due = number % config.track_every == 0 or self.step == self.num_steps
        epoch = Epoch(
            number=number,
            step=self.step,
            lr=learning_rate(config.recipe, self.step - 1, self.per_epoch),
            train_loss=loss / size,
            train_accuracy=right / size,
            validation_accuracy=self._accuracy(self.feed, self.held_out),
            test_accuracy=self._accuracy(self.test, everything) if self.test else None,
            num_skipped=self.num_skipped,
            curvature=self._tracked() if due else {},
        )
        best = max((e.score for e in self.epochs if e.score is not None), default=None)
        self.epochs.append(epoch)
        if processes.is_first():
            is_best = best is None or (epoch.score is not None and epoch.score > best)
            self.write(epoch, is_best=is_best)
        self._reset_totals()
        self.coming = None
        return epoch

    def write(self, epoch: Epoch, *, is_best: bool) -> None:
        """Write what is known after the epoch, and its weights."""
        metadata = self._metadata(epoch)
        checkpoints.save(self.out / folder.LAST, self.model, metadata)
        if is_best:
            checkpoints.save(self.out / folder.BEST, self.model, metadata)
        if self.config.log_every:
            folder.write_steps(self.out, self.logged)
        # last, as they tell that the epoch is done
        folder.write_metrics(self.out, [row.to_row() for row in self.epochs])

    def save(self) -> None:
        """Write the state."""
        self._look(at_weights=True)
        totals = self.totals.clone()
        processes.add_up(totals)
        if processes.is_first():
            payload = {
                "config": self.config.digest,
                "data": self.data.sha256,
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "totals": totals,
                "num_skipped": self.num_skipped,
                "epochs": [epoch.to_row() for epoch in self.epochs],
                "logged": self.logged,
                "kernel": None if self.tracker is None else self.tracker.kernel,
                "speed": (self.num_seen, self.seconds),
                "threads": torch.get_num_threads(),
                "processes": processes.count(),
            }
            state.save(self.out, payload)

    def _descend(self, step: Step) -> None:
        for tensor, gradient in zip(self.objective.parameters, step.gradient, strict=True):
            tensor.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.recipe, self.step, self.per_epoch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _count(self, step: Step, batch: Batch) -> None:
        right = (step.outputs.argmax(1) == batch.y).sum()
        size = torch.full_like(right, batch.size if processes.is_first() else 0)
        self.totals += torch.stack([step.loss * size, right, size])

    def _log(self, loss: Tensor, norm: Tensor) -> None:
        every = self.config.log_every
        if every and (self.step + 1) % every == 0:
            row = (self.step + 1, self.optimizer.param_groups[0]["lr"], float(loss), float(norm))
            self.logged.append(dict(zip(LOGGED, row, strict=True)))

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

    def _tracked(self) -> dict[str, Reading]:
        if self.tracker is None:
            return {}
        return self.tracker.measure(self.model, adaptive_scale(self.optimizer, self.model))

    @torch.no_grad()
    def _accuracy(self, feed: Feed, chosen: Tensor) -> float | None:
        """Share of right predictions in evaluation mode; None of no examples."""
        if not len(chosen):
            return None
        self.model.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for batch in feed.batches(chosen.split(4 * self.config.recipe.batch_size), None):
            right += (self.model(self._laid_out(batch.x)).argmax(1) == batch.y).sum()
        processes.add_up(right)
        return int(right) / len(chosen)

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.layout) if x.ndim == 4 else x

    def _generator(self, name: str) -> torch.Generator:
        generator = torch.Generator(self.device)
        return generator.manual_seed(stream(self.config.seed, name, self.step))

    def _data_spec(self) -> DataSpec:
        config, recipe = self.config, self.config.recipe
        chosen = (config.num_samples, recipe.validation, recipe.label_noise)
        seed = config.seed if any(chosen) else None
        return DataSpec(self.data.spec, self.data.mean, self.data.std, *chosen, seed)

    def _metadata(self, epoch: Epoch) -> Metadata:
        return Metadata(
            model=self.spec,
            data=self._data_spec(),
            loss=self.config.recipe.loss,
            recipe=self.config.recipe.name,
            regulariser=self.config.method.name,
            epoch=epoch.number,
            seed=None if self.config.recipe.init else self.config.seed,  # of the initial weights
            metrics=epoch.metrics,
        )
