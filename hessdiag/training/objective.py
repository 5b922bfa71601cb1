"""The loss that a training step descends: a module in training mode on one batch."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.curvature.composition import Composed
from hessdiag.curvature.losses import CrossEntropy, MeanSquaredError
from hessdiag.nets.models import batch_norms


class Objective:
    """The mean loss L of a module as a function of its own, live parameters.

    Args:
        model: from a batch of inputs to outputs z ``(N, C)``; its mode is the caller's.
        loss: "cross-entropy" or "mse" against one-hot labels (mean over outputs too).
        label_smoothing: of cross-entropy.
        precision: "float32", or "bf16" to run the module under autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str,
        *,
        label_smoothing: float = 0.0,
        precision: str = "float32",
    ) -> None:
        self.model, self.name, self.label_smoothing = model, loss, label_smoothing
        self.precision = precision
        self.parameters: list[Tensor] = [
            tensor for tensor in model.parameters() if tensor.requires_grad
        ]
        self._output_loss = (
            MeanSquaredError() if loss == "mse" else CrossEntropy(label_smoothing=label_smoothing)
        )
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
        """
        with ExitStack() as stack:
            if not move_statistics:
                stack.enter_context(self.frozen_statistics())
            stack.enter_context(Composed())
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(x.device.type, torch.bfloat16))
            z = self.model(x)
        if self.precision == "bf16":
            z = z.float()
        size = len(y) if size is None else size
        if self.name == "mse":
            total = F.mse_loss(z, F.one_hot(y, z.shape[1]).to(z), reduction="sum")
            return z, total / (size * z.shape[1])
        total = F.cross_entropy(z, y, reduction="sum", label_smoothing=self.label_smoothing)
        return z, total / size

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

    def output_hessian(self, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """Compute B u for the sum of the losses, ``(n, C)``."""
        return self._output_loss.at(z.detach(), y).hessian(u)

    def draws(self, size: int, z: Tensor, labels: torch.Generator) -> Tensor:
        """Draw what the labels of ``size`` examples come from: each one's, whoever holds it."""
        options: dict[str, Any] = {"generator": labels, "device": z.device, "dtype": z.dtype}
        if self.name == "mse":
            return torch.randn(size, z.shape[1], **options)
        return torch.rand(size, **options)

    def sampled_cotangent(self, z: Tensor, drawn: Tensor) -> Tensor:
        """Turn draws into labels ŷ of the model; the cotangent c ``(n, C)`` of each loss at them.

        ``E c cᵀ = B``, so that ``tr G = N E‖(1/N) Σ Jᵀc‖²``. Cross-entropy draws classes from the
        softmax; the mean squared error draws outputs from a normal distribution around z of
        variance C/2, whose log-likelihood it is. c depends on z, the draw does not.
        """
        if self.name == "mse":
            sampled = z.detach() + math.sqrt(z.shape[1] / 2) * drawn
            return 2 / z.shape[1] * (z - sampled)
        p = z.softmax(1)
        below = p.detach().cumsum(1) <= drawn[:, None]  # the first class whose share reaches u
        chosen = below[:, :-1].sum(1)  # rounding may leave the last sum below 1
        return p - F.one_hot(chosen, z.shape[1]).to(p)
