"""Losses that are the mean of a function f(z, y) over all outputs."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hessdiag.losses.output_loss import AtOutput, OutputLoss, by_example, check_labels, misfit


class Pointwise(OutputLoss):
    """``ℓ = (1/C) Σ_k f(z_k, y_k)`` with ``c = f'/C`` and ``B = diag(f'')/C``.

    Subclasses give f and its derivatives in z as they stay exact where f is all but zero.
    """

    @abstractmethod
    def value(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute f, entry by entry."""

    @abstractmethod
    def slope(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute f' = ∂f/∂z."""

    @abstractmethod
    def curvature(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute f'' = ∂²f/∂z²."""

    def check_targets(self, y: Tensor) -> None:
        """Refuse targets of z's shape that the loss is not defined for."""

    def num_correct(self, z: Tensor, y: Tensor) -> int | None:
        """Count right predictions; None where y is no class."""
        del z, y
        return None

    def evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> AtOutput:
        """Evaluate at outputs ``(N, …)`` and targets of that shape, or labels ``(N,)``.

        A last dimension of 1 may be there or not. Labels of more than one output stand for their
        one-hot vectors.
        """
        return _AtPointwise(self, z, y, weights)


class _AtPointwise(AtOutput):
    def __init__(self, loss: Pointwise, z: Tensor, y: Tensor, weights: Tensor | None) -> None:
        self.loss, self.z = loss, z
        self.labels: Tensor | None = None
        num_outputs = z.shape[-1] if z.ndim > 1 else 1
        is_label = not y.is_floating_point() and z.ndim == 2 and y.shape == z.shape[:1]
        if is_label and num_outputs > 1:
            check_labels(y, y == y, num_outputs)
            self.labels, y = y.long(), F.one_hot(y.long(), num_outputs)
        if y.shape != z.shape and _squeezed(y) == _squeezed(z):
            y = y.reshape(z.shape)
        if y.shape != z.shape:
            raise misfit(y, z.shape)
        loss.check_targets(y)
        self.y = y.to(z.dtype)
        # per example, where its outputs are a vector; only the ratio of weights matters
        self.scale = by_example(weights, z)
        self.num_outputs = num_outputs

    @property
    def total(self) -> Tensor:
        return self._weighted(self.loss.value(self.z, self.y)).double().sum()

    @property
    def weight(self) -> float:
        """Outputs, or their weights, over those of an example: a mean over all values."""
        if self.scale is None:
            return self.z.numel() / max(self.num_outputs, 1)
        return float(self.scale.expand_as(self.z).double().sum()) / max(self.num_outputs, 1)

    @property
    def cotangent(self) -> Tensor:
        return self._weighted(self.loss.slope(self.z, self.y))

    def hessian(self, u: Tensor) -> Tensor:
        return self._curvature * u

    def factor(self, u: Tensor) -> Tensor:
        return self._curvature.sqrt() * u

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw one normal number an output."""
        options: dict[str, Any] = {"device": self.z.device, "dtype": self.z.dtype}
        return torch.randn(size, *self.z.shape[1:], generator=generator, **options)

    def sampled_cotangent(self, drawn: Tensor) -> Tensor:
        """Take labels ŷ whose slope is −√f'' times a normal draw, and is that of ŷ held fixed."""
        fixed = self.cotangent - self.cotangent.detach()
        return fixed - self.factor(drawn).detach()

    @property
    def num_correct(self) -> int | None:
        if self.labels is not None:
            return int((self.z.argmax(-1) == self.labels).sum())
        return self.loss.num_correct(self.z, self.y)

    @property
    def num_counted(self) -> int:
        if self.labels is not None:
            return len(self.labels)
        return 0 if self.num_correct is None else self.y.numel()

    @cached_property
    def _curvature(self) -> Tensor:
        return self._weighted(self.loss.curvature(self.z, self.y))

    def _weighted(self, values: Tensor) -> Tensor:
        values = values / max(self.num_outputs, 1)
        return values if self.scale is None else values * self.scale


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """Give the shape without a last dimension of 1."""
    shape = tuple(tensor.shape)
    return shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape
