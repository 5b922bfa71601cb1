"""The training loop: one method's gradient a step, one row of metrics an epoch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hessdiag import files
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.memory import peak_bytes
from hessdiag.curvature.pac_bayes import pac_bayes_bound
from hessdiag.data import datasets, streams
from hessdiag.data.datasets import Dataset
from hessdiag.data.streams import Stream
from hessdiag.errors import InputError, is_out_of_memory
from hessdiag.linalg import processes
from hessdiag.metadata import Provenance
from hessdiag.nets import pretrained
from hessdiag.seeds import stream
from hessdiag.training import folder, resumption
from hessdiag.training.feeds import Data, examples
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch, Finished, Standing
from hessdiag.training.run import Run

_BOUND_SAMPLES = 128  # training examples behind the PAC-Bayes bound


def train(
    config: Config,
    data: Data,
    test: Data | None,
    *,
    out: Path,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    payload: dict[str, Any] | None = None,
    on_step: Callable[[Standing], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_remark: Callable[[str], None] = lambda _: None,
) -> Finished:
    """Train a network and keep metrics, checkpoints and the full state in ``out``.

    Initial weights, data order, augmentation, perturbations and sampled labels have random streams
    of their own, all functions of seed and step alone. So two runs that differ in the regulariser
    see the same batches, and a run that goes on from a state is the run that was never stopped.

    Several processes (:mod:`hessdiag.linalg.processes`) share the examples of every batch and take
    the steps of one process with all of them; the first one writes.

    Args:
        config: the run.
        data: training examples; those in memory are kept on the device.
        test: examples to report accuracy on, or None.
        out: folder of the run, there already; what an earlier run left in it goes.
        device: where to train.
        num_workers: processes that decode streamed images.
        payload: a state to go on from, or None to start.
        on_step: called after each step.
        on_epoch: called after each epoch.
        on_remark: called with what a user should know of a run.

    Raises:
        InputError: labels or data that do not fit; a loss or gradient that is not finite; too
            little memory.
    """
    began = time.perf_counter()
    device = torch.device(device)
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), resumption.threads_of(payload), _advising(config):
        run = Run(config, data, test, out, device, num_workers=num_workers)
        if payload is None:
            run.begin()
            if test is None:
                where = datasets.where_a_test_split_is_looked_for(config.recipe.data)
                on_remark(f"training without a test split; {where}")
        else:
            for remark in resumption.go_on(run, payload):
                on_remark(remark)
        processes.wait()
        while run.step < run.num_steps:
            run.advance()
            if on_step is not None:
                on_step(run.standing)
            at_end = run.step % run.per_epoch == 0
            if at_end:
                epoch = run.close_epoch()
                if on_epoch is not None:
                    on_epoch(epoch)
            if at_end or (config.save_every and run.step % config.save_every == 0):
                run.save()
        return _finished(run, began)


def load_data(config: Config, *, download: bool = False) -> tuple[Data, Data | None]:
    """Load both splits for training, the test split scaled as the training split; or None for it.

    Images of ImageNet and of folders are not loaded but streamed. With ``download`` the pretrained
    weights that the run starts from are fetched, too.

    Raises:
        InputError: see :func:`hessdiag.data.datasets.load`; targets that are not classes.
    """
    recipe, root = config.recipe, config.data_root
    if recipe.init is not None and download:
        pretrained.locate(recipe.init, recipe.model, download=True)
    if streams.is_streamed(recipe.data):
        return _open_streams(config)
    data = datasets.load(
        recipe.data,
        split="train",
        num_samples=config.num_samples,
        seed=config.seed,
        root=root,
        download=download,
        mean=recipe.mean,
        std=recipe.std,
        label_noise=recipe.label_noise,
    )
    if data.targets.is_floating_point() or data.num_classes is None:
        raise InputError("the recipes train classifiers", got="targets that are not labels")
    if data.num_samples < 2:
        raise InputError("training needs at least two examples", got=data.num_samples)
    if not datasets.has_test_split(recipe.data):
        return _in_float32(data), None
    test = datasets.load(
        recipe.data, split="test", root=root, download=download, mean=data.mean, std=data.std
    )
    return _in_float32(data), _in_float32(test)


def _in_float32(data: Dataset) -> Dataset:
    """Give real inputs the networks' own precision."""
    if not data.inputs.is_floating_point() or data.inputs.dtype == torch.float32:
        return data
    return dataclasses.replace(data, inputs=data.inputs.float())


def _finished(run: Run, began: float) -> Finished:
    config, recipe, data = run.config, run.config.recipe, run.data
    bound = None
    if config.pac_bayes:
        generator = torch.Generator().manual_seed(stream(config.seed, "bound"))
        order = torch.randperm(len(run.training), generator=generator)  # folders are in order
        sample = examples(data, run.training[order[:_BOUND_SAMPLES]])
        bound = pac_bayes_bound(
            Decomposition(run.model, [sample], recipe.loss),
            num_train=len(run.training),
            seed=config.seed,
        )
    checkpoint = run.out / folder.LAST
    return Finished(
        config=config,
        checkpoint=checkpoint,
        epochs=tuple(run.epochs),
        provenance=Provenance(
            checkpoint=str(checkpoint),
            checkpoint_sha256=files.sha256(checkpoint) if processes.is_first() else None,
            model=run.spec,
            data=data.spec,
            split=data.split,
            data_sha256=data.sha256,
            batch_size=recipe.batch_size,
        ),
        num_parameters=run.num_parameters,
        num_samples=data.num_samples,
        pac_bayes=bound,
        seconds=time.perf_counter() - began,
        images_per_second=run.images_per_second,
        peak_memory_bytes=peak_bytes(run.device),
        num_processes=processes.count(),
        device=str(run.device),
    )


def _open_streams(config: Config) -> tuple[Stream, Stream | None]:
    recipe, root = config.recipe, config.data_root
    data = streams.open_stream(
        recipe.data,
        split="train",
        num_samples=config.num_samples,
        seed=config.seed,
        root=root,
        mean=recipe.mean,
        std=recipe.std,
        label_noise=recipe.label_noise,
    )
    if not datasets.has_test_split(recipe.data):
        return data, None
    test = streams.open_stream(recipe.data, split="test", root=root, mean=data.mean, std=data.std)
    if test.classes != data.classes:
        raise InputError(
            "the splits have different classes",
            got=f"{', '.join(set(data.classes) ^ set(test.classes))} in one of them alone",
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
