"""The loss that a training step descends: a module in training mode on one batch."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from hessdiag.curvature.calling import refusal
from hessdiag.curvature.composition import Composed
from hessdiag.errors import is_out_of_memory
from hessdiag.linalg import processes
from hessdiag.losses import output_loss
from hessdiag.losses.loss_spec import LossSpec, resolve
from hessdiag.losses.named.cross_entropy import CrossEntropy
from hessdiag.nets.models import batch_norms


class Objective:
    """The mean loss L of a module as a function of its own, live parameters.

    Args:
        model: from a batch of inputs to outputs z ``(N, C)``; its mode is the caller's.
        loss: a name, or whatever else :func:`hessdiag.losses.loss_spec.resolve` takes.
        label_smoothing: of cross-entropy.
        precision: "float32", or "bf16" to run the module under autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossSpec,
        *,
        label_smoothing: float = 0.0,
        precision: str = "float32",
    ) -> None:
        self.model = model
        self.precision = precision
        self.parameters: list[Tensor] = [
            tensor for tensor in model.parameters() if tensor.requires_grad
        ]
        known = resolve(loss)
        if label_smoothing:
            known = CrossEntropy(label_smoothing=label_smoothing)
        self.loss = known
        self._batch_norms = batch_norms(model)

    def evaluate(
        self, x: Tensor, y: Tensor, size: int | None = None, *, move_statistics: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Compute the outputs z and the loss, ``Σ ℓ(z_n, y_n)/N``, with a graph.

        Args:
            x: inputs ``(n, …)``.
            y: labels ``(n,)``.
            size: N; the sum over several processes, whose batches have N examples together, is
                then the mean loss. None for n.
            move_statistics: whether BatchNorm's running statistics take this batch in.

        Raises:
            InputError: the module cannot take x.
        """
        with ExitStack() as stack:
            if not move_statistics:
                stack.enter_context(self.frozen_statistics())
            # of several processes the batch of BatchNorm is that of all
            stack.enter_context(Composed(order=3 if processes.count() > 1 else 2))
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(x.device.type, torch.bfloat16))
            try:
                z = self.outputs(x)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                if is_out_of_memory(error):
                    raise
                raise refusal(error, [x]) from error
        if self.precision == "bf16":
            z = z.float()
        total = output_loss.summed_loss(z, y, self.loss)
        return z, total / self.weight(z, y, size)

    def outputs(self, x: Tensor) -> Tensor:
        """Call the module."""
        return self.model(x)

    @contextmanager
    def frozen_statistics(self) -> Generator[None]:
        """Normalise by the batch within the block, but leave the running statistics alone."""
        flags = [layer.track_running_stats for layer in self._batch_norms]
        try:
            for layer in self._batch_norms:
                layer.track_running_stats = False
            yield
        finally:
            for layer, flag in zip(self._batch_norms, flags, strict=True):
                layer.track_running_stats = flag

    def weight(self, z: Tensor, y: Tensor, size: int | None = None) -> float:
        """Σ w of the whole batch, if all its examples weigh as much as those here."""
        weight = self.loss.at(z.detach(), y).weight
        return weight if size is None else weight * size / len(y)
