"""Curvature as Lightning logs it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from hessdiag.callbacks.monitor import Monitor


class LightningMonitor(Callback):
    """Logs the readings of a :class:`hessdiag.Monitor` after a batch, as ``hessdiag/<metric>``.

    ::

        monitor = hessdiag.Monitor(["hessian.lambda_max"], batches, every_n_steps=50)
        Trainer(callbacks=[LightningMonitor(monitor)])

    The first process measures. ``forward`` of the module has to give its outputs z.

    Args:
        monitor: what to measure, on what, how often.
    """

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor
        self._step = 0  # measured last: several batches may make one step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_args: Any, **_kwargs: Any
    ) -> None:
        """Measure if it is this step's turn."""
        step = trainer.global_step
        if not trainer.is_global_zero or step == self._step:
            return
        self._step = step
        readings = self.monitor(pl_module, step)
        values = {f"hessdiag/{name}": reading.value for name, reading in readings.items()}
        if values:
            for logger in trainer.loggers:
                logger.log_metrics(values, step)
            trainer.callback_metrics.update(
                {name: torch.tensor(value) for name, value in values.items()}
            )
