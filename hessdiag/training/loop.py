"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.data import datasets
from hessdiag.data.datasets import Dataset
from hessdiag.errors import InputError, unknown
from hessdiag.files import check_writable
from hessdiag.metadata import DataSpec, Metadata, ModelSpec
from hessdiag.nets import checkpoints, models
from hessdiag.seeds import stream
from hessdiag.training.recipes import Recipe

REGULARISERS = ("none",)
CHECKPOINT = "model.safetensors"
_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": F.cross_entropy,
    "mse": lambda z, y: F.mse_loss(z, F.one_hot(y, z.shape[1]).to(z)),
}


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch.

    Attributes:
        number: from 1.
        train_loss: mean over the epoch's steps, as the weights moved.
        train_accuracy: likewise.
        test_accuracy: on the test split, or None where there is none.
    """

    number: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float | None

    @classmethod
    def none(cls) -> Epoch:
        """Say that no epoch has ended yet."""
        return cls(0, math.nan, math.nan, None)

    def summary(self) -> str:
        """One line for people."""
        if self.number == 0:
            return ""
        text = f"loss {self.train_loss:.4f}, train accuracy {self.train_accuracy:.2%}"
        if self.test_accuracy is not None:
            text += f", test accuracy {self.test_accuracy:.2%}"
        return text


def check_regulariser(name: str) -> None:
    """Refuse a regulariser that is not known."""
    if name not in REGULARISERS:
        raise unknown("regulariser", name, REGULARISERS)


def check_free(folder: Path, *, force: bool) -> None:
    """Refuse a folder that holds a run, unless ``force`` says to replace it.

    Raises:
        InputError: it holds a run.
    """
    if (folder / CHECKPOINT).exists() and not force:
        raise InputError(
            "the run's folder holds a run already",
            got=folder,
            hint="choose another --out, or --force",
        )


@contextmanager
def _made(folder: Path) -> Generator[None]:
    """Make the folder of a run; a folder made here goes again if the run comes to nothing.

    Raises:
        InputError: it cannot be made or written.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}", got=error.strerror) from error
    try:
        check_writable(folder / CHECKPOINT)
        yield
    except BaseException:
        with suppress(OSError):  # not empty
            for path in new:
                path.rmdir()
        raise


def train(
    recipe: Recipe,
    data: Dataset,
    test: Dataset | None,
    *,
    out: Path,
    regulariser: str = "none",
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Path:
    """Train a network by SGD and write ``out/model.safetensors`` with its metadata.

    Data order and initial weights have streams of their own, derived from ``seed``.

    Args:
        recipe: network, optimiser and schedule.
        data: training examples, kept on the device.
        test: examples to report accuracy on, or None.
        out: folder, made if it does not exist; a checkpoint in it is replaced.
        regulariser: one of REGULARISERS.
        seed: of all randomness.
        device: where to train.
        on_step: called with (steps done, steps in all).
        on_epoch: called after each epoch.

    Returns:
        Path of the checkpoint.

    Raises:
        InputError: unknown regulariser; labels that do not fit; the loss is not finite.
    """
    check_regulariser(regulariser)
    spec = ModelSpec(
        recipe.model, recipe.activation, recipe.beta, data.num_classes, data.input_shape
    )
    model = models.build(spec, seed=stream(seed, "init")).to(device)
    path = out / CHECKPOINT
    with _made(out):
        last = _optimise(model, recipe, data, test, seed, on_step, on_epoch)
        metrics = {"train_loss": last.train_loss, "train_accuracy": last.train_accuracy}
        if last.test_accuracy is not None:
            metrics["test_accuracy"] = last.test_accuracy
        metadata = Metadata(
            model=spec,
            data=DataSpec(data.spec, data.mean, data.std),
            loss=recipe.loss,
            recipe=recipe.name,
            regulariser=regulariser,
            epoch=last.number,
            seed=seed,
            metrics=metrics,
        )
        checkpoints.save(path, model, metadata)
    return path


def _optimise(
    model: nn.Module,
    recipe: Recipe,
    data: Dataset,
    test: Dataset | None,
    seed: int,
    on_step: Callable[[int, int], None] | None,
    on_epoch: Callable[[Epoch], None] | None,
) -> Epoch:
    """Run all epochs on the model's device; returns the last."""
    device = next(model.parameters()).device
    inputs, targets = data.inputs.to(device), data.targets.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
    order = torch.Generator().manual_seed(stream(seed, "order"))
    per_epoch = len(_batches(len(inputs), recipe.batch_size, torch.Generator()))
    num_steps = recipe.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    epoch, step = Epoch.none(), 0
    for number in range(1, recipe.epochs + 1):
        model.train()
        total = torch.zeros(3, dtype=torch.float64, device=device)  # loss, right, examples
        for index in _batches(len(inputs), recipe.batch_size, order):
            x, y = inputs[index.to(device)], targets[index.to(device)]
            optimizer.zero_grad(set_to_none=True)
            z = model(x)
            loss = _LOSSES[recipe.loss](z, y)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            right = (z.argmax(1) == y).sum()
            total += torch.stack([loss.detach() * len(y), right, right.new_tensor(len(y))])
            if on_step is not None:
                on_step(step, num_steps)
        train_loss, train_accuracy, _ = (total / total[2]).tolist()
        weights_finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
        if not (math.isfinite(train_loss) and weights_finite):
            raise InputError(
                "training diverged",
                got=f"a loss of {train_loss:.3g} in epoch {number}"
                + ("" if weights_finite else ", and weights that are not finite"),
                hint=f"try a smaller --lr than {recipe.lr:g}",
            )
        tested = accuracy(model, test, recipe.batch_size) if test else None
        epoch = Epoch(number, train_loss, train_accuracy, tested)
        if on_epoch is not None:
            on_epoch(epoch)
    return epoch


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset, batch_size: int) -> float:
    """Share of right predictions in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    correct = 0
    for x, y in zip(
        data.inputs.split(4 * batch_size), data.targets.split(4 * batch_size), strict=True
    ):
        correct += int((model(x.to(device)).argmax(1) == y.to(device)).sum())
    return correct / len(data.targets)


def load_data(
    spec: str, *, num_samples: int | None, seed: int, root: str | None, download: bool
) -> tuple[Dataset, Dataset | None]:
    """Load both splits for training, the test split scaled as the training split; or None for it.

    Raises:
        InputError: see :func:`hessdiag.data.datasets.load`; targets that are not classes.
    """
    data = datasets.load(
        spec, split="train", num_samples=num_samples, seed=seed, root=root, download=download
    )
    if data.targets.is_floating_point() or data.num_classes is None:
        raise InputError("the recipes train classifiers", got="targets that are not labels")
    if data.num_samples < 2:
        raise InputError("training needs at least two examples", got=data.num_samples)
    if not datasets.has_test_split(spec):
        return data, None
    test = datasets.load(
        spec, split="test", root=root, download=download, mean=data.mean, std=data.std
    )
    return data, test


def _batches(size: int, batch_size: int, order: torch.Generator) -> list[Tensor]:
    """Shuffle indices into batches; a last batch of one is left out, as BatchNorm needs two."""
    batches = torch.randperm(size, generator=order).split(batch_size)
    return [batch for batch in batches if len(batch) > 1]
