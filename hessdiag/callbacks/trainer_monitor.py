"""Curvature in the log of a Hugging Face Trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hessdiag.callbacks.monitor import Monitor


class TrainerMonitor(TrainerCallback):
    """Puts the readings of a :class:`hessdiag.Monitor` into the Trainer's log.

    They stand in ``state.log_history``, and with the next line that the Trainer logs they reach
    every other callback, as ``hessdiag/<metric>``.

    ::

        monitor = hessdiag.Monitor(["hessian.lambda_max"], batches, every_n_steps=50)
        Trainer(model, args, train_dataset=data, callbacks=[TrainerMonitor(monitor)])

    The first process measures.

    Args:
        monitor: what to measure, on what, how often.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Measure if it is this step's turn."""
        del args, control
        if not state.is_world_process_zero:
            return
        readings = self.monitor(kwargs["model"], state.global_step)
        values = {f"hessdiag/{name}": reading.value for name, reading in readings.items()}
        if values:
            state.log_history.append({**values, "epoch": state.epoch, "step": state.global_step})
