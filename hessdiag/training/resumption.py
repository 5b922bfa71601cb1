"""Going on with a run: its state taken back, and what of its files was lost written anew."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hessdiag import codec
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.nets import checkpoints
from hessdiag.training import folder
from hessdiag.training.feeds import shuffled
from hessdiag.training.history import Epoch
from hessdiag.training.run import LOGGED, Run

_MOST_THREADS = 4096  # a state may be forged


@contextmanager
def threads_of(payload: dict[str, Any] | None) -> Generator[None]:
    """Compute with as many threads as the run began with: they decide in which order sums round."""
    own = torch.get_num_threads()
    threads = own if payload is None else payload.get("threads", own)
    torch.set_num_threads(threads if type(threads) is int and 0 < threads <= _MOST_THREADS else own)
    try:
        yield
    finally:
        torch.set_num_threads(own)


def go_on(run: Run, payload: dict[str, Any]) -> list[str]:
    """Take the run to a state that it saved.

    Returns:
        What a user should know of it.

    Raises:
        InputError: the state is of another configuration or of other data, or is damaged.
    """
    known = {"config": folder.digests(run.out, run.config), "data": {run.data.sha256}}
    for name, own in known.items():
        if payload.get(name) not in own:
            what = "configuration" if name == "config" else "training data"
            raise InputError(
                f"the run's {what} changed since its state was written",
                got=f"another {what}",
                hint="undo the change, or start anew with train --force",
            )
    try:
        _restore(run, payload)
    except Exception as error:  # a checksum can be forged, so it may hold anything
        raise InputError(
            "the run's state is damaged",
            got=f"{type(error).__name__}: {error}"[:160],
            hint="start anew with train --force",
        ) from error
    remarks: list[str] = []
    before, now = payload.get("processes", processes.count()), processes.count()
    if before != now:
        remarks.append(f"the run began in {before} processes, and rounds differently in {now}")
    if run.epochs and processes.is_first():
        remarks += _mend(run)
    return remarks


def _restore(run: Run, payload: dict[str, Any]) -> None:
    step, totals = payload["step"], payload["totals"]
    if not (type(step) is int and 0 <= step <= run.num_steps):
        raise ValueError(f"step {step} of {run.num_steps}")
    run.epochs = [Epoch.from_row(row) for row in payload["epochs"]]
    if [epoch.number for epoch in run.epochs] != [*range(1, step // run.per_epoch + 1)]:
        raise ValueError(f"{len(run.epochs)} epochs after step {step}")
    if (totals.shape, totals.dtype) != (run.totals.shape, run.totals.dtype):
        raise ValueError("totals")
    run.step = step
    run.model.load_state_dict(payload["model"])
    _restore_optimizer(run.optimizer, payload["optimizer"])
    if processes.is_first():
        run.totals = totals.to(run.device)
    run.num_skipped = int(payload["num_skipped"])
    run.logged = [{name: row[name] + 0 for name in LOGGED} for row in payload["logged"]]
    kernel = payload.get("kernel")
    if run.tracker is not None and isinstance(kernel, Tensor):
        if kernel.ndim != 2 or not kernel.is_floating_point() or kernel.shape[0] != kernel.shape[1]:
            raise ValueError("the kernel that changes are counted from")
        run.tracker.kernel = kernel
    num_seen, seconds = payload["speed"]
    run.num_seen, run.seconds = int(num_seen), float(seconds)
    for _ in range(-(-step // run.per_epoch)):  # the order of the epochs begun
        run.batches = shuffled(run.training, run.config.recipe.batch_size, run.order)


def _restore_optimizer(optimizer: torch.optim.Optimizer, payload: dict[str, Any]) -> None:
    """Take back what the optimizer remembers; its options are those of the configuration."""
    groups = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(payload)
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group.update({name: value for name, value in own.items() if name != "params"})
    for parameter, memory in optimizer.state.items():
        for name, value in memory.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of the optimizer has shape {tuple(value.shape)}")


def _mend(run: Run) -> list[str]:
    """Write anew what is not as the state says, of a run that has no step left; tell of it.

    A process or a disk that failed after the last state leaves the other files in any form. The
    best checkpoint is in no state, unless it is the last one.
    """
    scored = [epoch for epoch in run.epochs if epoch.score is not None]
    best = max(scored, key=lambda epoch: epoch.score or 0.0) if scored else run.epochs[-1]
    is_last = best is run.epochs[-1]
    remarks: list[str] = []
    if run.step == run.num_steps:
        names = [folder.LAST, folder.METRICS]
        names += [folder.BEST] * is_last + [folder.STEPS] * bool(run.config.log_every)
        before = [_content(run.out / name) for name in names]
        run.write(run.epochs[-1], is_best=is_last)
        remarks = [
            f"{name} was damaged or missing, and is written anew from the state"
            for name, content in zip(names, before, strict=True)
            if content != _content(run.out / name)
        ]
    try:
        metadata = checkpoints.read(run.out / folder.BEST).metadata
        reached = metadata is not None and (metadata.epoch or 0) >= best.number
    except InputError:
        reached = False
    if not reached:
        remarks.append(f"{folder.BEST} is lost: no state holds the weights of epoch {best.number}")
    return remarks


def _content(path: Path) -> object:
    """Read what a file says, in whatever version's words; None if it is damaged or missing."""
    try:
        if path.suffix == ".safetensors":
            tensors = checkpoints.read(path).tensors
            return {name: _digest(tensor) for name, tensor in tensors.items()}
        return len(
            [codec.decode(dict[str, Any], line) for line in codec.read_bytes(path).splitlines()]
        )
    except InputError:
        return None


def _digest(tensor: Tensor) -> str:
    content = tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()
