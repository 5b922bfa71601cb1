"""A run's metrics as TensorBoard's events."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from hessdiag.errors import InputError
from hessdiag.training import folder
from hessdiag.training.history import Epoch

_SCALARS = ("lr", "train_loss", "train_accuracy", "validation_accuracy", "test_accuracy")


def open_board(run: Path) -> Callable[[Epoch], None]:
    """Make a callback that writes each epoch into the run's folder ``tensorboard``.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--tensorboard needs the package tensorboard", got=error, hint="pip install tensorboard"
        ) from error
    writer: SummaryWriter | None = None

    def write(epoch: Epoch) -> None:
        nonlocal writer
        writer = writer or SummaryWriter(str(run / folder.BOARD), filename_suffix=folder.EVENTS)
        row = dataclasses.asdict(epoch)
        values = {name: row[name] for name in _SCALARS}
        values |= {name: reading.value for name, reading in epoch.curvature.items()}
        for name, value in values.items():
            if value is not None:
                writer.add_scalar(name, value, epoch.number)
        writer.flush()

    return write
