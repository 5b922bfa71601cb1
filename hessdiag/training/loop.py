"""The training loop: one method's gradient a step, one row of metrics an epoch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hessdiag.data import datasets
from hessdiag.data.datasets import Dataset
from hessdiag.errors import InputError, is_out_of_memory
from hessdiag.training import folder
from hessdiag.training.folder import Config
from hessdiag.training.run import Epoch, Run


def train(
    config: Config,
    data: Dataset,
    test: Dataset | None,
    *,
    out: Path,
    device: torch.device | str = "cpu",
    payload: dict[str, Any] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Path:
    """Train a network and keep metrics, checkpoints and the full state in ``out``.

    Initial weights, data order, augmentation, perturbations and sampled labels have random streams
    of their own, all functions of seed and step alone. So two runs that differ in the regulariser
    see the same batches, and a run that goes on from a state is the run that was never stopped.

    Args:
        config: the run.
        data: training examples, kept on the device.
        test: examples to report accuracy on, or None.
        out: folder of the run, there already; what an earlier run left in it goes.
        device: where to train.
        payload: a state to go on from, or None to start.
        on_step: called with (steps done, steps in all).
        on_epoch: called after each epoch.

    Returns:
        Path of the last checkpoint.

    Raises:
        InputError: labels or data that do not fit; a loss or gradient that is not finite; too
            little memory.
    """
    device = torch.device(device)
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), _advising(config):
        run = Run(config, data, test, out, device)
        if payload is None:
            folder.prepare(out, config)
        else:
            run.restore(payload)
        while run.step < run.num_steps:
            run.advance()
            if on_step is not None:
                on_step(run.step, run.num_steps)
            at_end = run.step % run.per_epoch == 0
            if at_end:
                epoch = run.close_epoch()
                if on_epoch is not None:
                    on_epoch(epoch)
            if at_end or (config.save_every and run.step % config.save_every == 0):
                run.save()
    return out / folder.LAST


def load_data(config: Config, *, download: bool = False) -> tuple[Dataset, Dataset | None]:
    """Load both splits for training, the test split scaled as the training split; or None for it.

    Raises:
        InputError: see :func:`hessdiag.data.datasets.load`; targets that are not classes.
    """
    recipe, root = config.recipe, config.data_root
    data = datasets.load(
        recipe.data,
        split="train",
        num_samples=config.num_samples,
        seed=config.seed,
        root=root,
        download=download,
        mean=recipe.mean,
        std=recipe.std,
    )
    if data.targets.is_floating_point() or data.num_classes is None:
        raise InputError("the recipes train classifiers", got="targets that are not labels")
    if data.num_samples < 2:
        raise InputError("training needs at least two examples", got=data.num_samples)
    if not datasets.has_test_split(recipe.data):
        return data, None
    test = datasets.load(
        recipe.data, split="test", root=root, download=download, mean=data.mean, std=data.std
    )
    return data, test


@contextmanager
def _advising(config: Config) -> Generator[None]:
    """Turn a failed allocation into advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        batch = config.recipe.batch_size
        raise InputError(
            "there is too little memory for a training step",
            got=f"batches of {batch}",
            hint=f"try --batch-size {batch // 2}" if batch > 3 else "try a smaller network",
        ) from error
