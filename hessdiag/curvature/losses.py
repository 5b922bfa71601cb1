"""Losses as functions of the output z: value, cotangent c = ∂ℓ/∂z, output Hessian B = ∂²ℓ/∂z²."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessdiag.errors import InputError, unknown

LossSpec = str | Callable[[Tensor, Tensor], Tensor]

NAMES = ("cross-entropy", "mse")


@dataclass(frozen=True)
class AtOutput:
    """A loss at the outputs z of one microbatch, summed over its examples, not averaged.

    Attributes:
        total: the sum Σ w ℓ, a float64 scalar.
        weight: the Σ w that turns sums into means: examples, counted targets or class weights.
        cotangent: c, of z's shape and dtype.
        hessian: u ↦ B u, for u of z's shape.
        num_correct: right predictions, or None where the targets are not classes.
        num_counted: targets that were predicted.
    """

    total: Tensor
    weight: float
    cotangent: Tensor
    hessian: Callable[[Tensor], Tensor]
    num_correct: int | None = None
    num_counted: int = 0


class OutputLoss(ABC):
    """A loss ℓ(z, y) whose derivatives in z are known."""

    name: str

    @abstractmethod
    def at(self, z: Tensor, y: Tensor) -> AtOutput:
        """Evaluate at outputs ``z`` and targets ``y`` of one microbatch.

        If z has a graph, ``total`` keeps it; the other results stand for themselves.
        """


class CrossEntropy(OutputLoss):
    """Softmax cross-entropy, classes on dimension 1, as ``torch.nn.CrossEntropyLoss`` averages it.

    With target weights t (one-hot, smoothed, times class weights) and τ = Σ_k t_k:
    ``ℓ = −Σ_k t_k log p_k``, ``c = τ p − t``, ``B = τ (diag p − p pᵀ)``. Smoothing changes c only.
    """

    name = "cross-entropy"

    def __init__(
        self,
        *,
        class_weights: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        self.class_weights = class_weights
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def at(self, z: Tensor, y: Tensor) -> AtOutput:
        """Evaluate at logits ``(N, C, ...)`` and labels ``(N, ...)`` or probabilities like z."""
        if z.ndim < 2:
            raise InputError(
                "cross-entropy needs one row of logits per example",
                got=f"outputs of shape {tuple(z.shape)}",
                wanted="(N, C) or (N, C, ...)",
            )
        logits = z.movedim(1, -1)
        num_classes = logits.shape[-1]
        if y.is_floating_point():
            _check_shape(y, z.shape)
            labels, counted = None, torch.ones_like(logits[..., 0], dtype=torch.bool)
            one_hot = y.to(z.dtype).movedim(1, -1)
        else:
            labels, counted = _checked_labels(y, logits, self.ignore_index)
            one_hot = F.one_hot(labels, num_classes).to(z.dtype)
        smoothing = self.label_smoothing
        targets = (1 - smoothing) * one_hot + smoothing / num_classes
        weight = counted.sum(dtype=torch.float64)
        if self.class_weights is not None:
            class_weights = self.class_weights.to(z)
            targets = targets * class_weights
            if labels is not None:
                weight = class_weights[labels][counted].sum(dtype=torch.float64)
        targets = targets * counted[..., None]
        mass = targets.sum(-1, keepdim=True)
        log_p = logits.log_softmax(-1)
        p = log_p.exp()

        def hessian(u: Tensor) -> Tensor:
            u = u.movedim(1, -1)
            return (mass * p * (u - (p * u).sum(-1, keepdim=True))).movedim(-1, 1)

        correct = None
        if labels is not None:
            correct = int(((logits.argmax(-1) == labels) & counted).sum())
        return AtOutput(
            total=-(targets * log_p).sum(dtype=torch.float64),
            weight=float(weight),
            cotangent=(mass * p - targets).movedim(-1, 1).contiguous(),
            hessian=hessian,
            num_correct=correct,
            num_counted=int(counted.sum()),
        )


class MeanSquaredError(OutputLoss):
    """``torch.nn.MSELoss``: mean over examples and outputs; ``c = 2(z − y)/C``, ``B = (2/C) I``.

    Integer labels ``(N,)`` stand for their one-hot vectors.
    """

    name = "mse"

    def at(self, z: Tensor, y: Tensor) -> AtOutput:
        """Evaluate at outputs ``(N, ...)`` and targets of the same shape, or labels ``(N,)``."""
        correct, counted = None, 0
        if not y.is_floating_point() and z.ndim == 2 and y.shape == z.shape[:1]:
            labels, _ = _checked_labels(y, z)
            correct, counted = int((z.argmax(1) == labels).sum()), len(labels)
            y = F.one_hot(labels, z.shape[1])
        _check_shape(y, z.shape)
        num_outputs = max(z[0].numel(), 1)
        difference = z - y.to(z.dtype)
        return AtOutput(
            total=(difference**2).sum(dtype=torch.float64) / num_outputs,
            weight=float(len(z)),
            cotangent=difference * (2 / num_outputs),
            hessian=lambda u: u * (2 / num_outputs),
            num_correct=correct,
            num_counted=counted,
        )


class AnyLoss(OutputLoss):
    """Any twice differentiable loss(z, y) that returns the mean over a batch, through autograd."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.ignore_index: int | None = None
        if isinstance(function, (nn.NLLLoss, nn.CrossEntropyLoss)):
            if function.weight is not None:
                raise _not_by_example(self.name, "class weights")
            self.ignore_index = function.ignore_index

    def at(self, z: Tensor, y: Tensor) -> AtOutput:
        """Evaluate at outputs ``(N, ...)`` and whatever targets the function takes."""
        z = z if z.requires_grad else z.detach().requires_grad_()
        if self.ignore_index is not None and bool((y == self.ignore_index).any()):
            raise _not_by_example(self.name, f"targets of {self.ignore_index}, which it ignores")
        value: object = self.function(z, y)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"the loss {self.name} does not return one number",
                got=shape,
                wanted="a tensor with the mean over the batch (reduction='mean')",
            )
        total = value.reshape(()) * len(z)
        (c,) = torch.autograd.grad(total, z, create_graph=True, materialize_grads=True)

        def hessian(u: Tensor) -> Tensor:
            if not c.requires_grad:  # linear in z
                return torch.zeros_like(u)
            return torch.autograd.grad(c, z, u, retain_graph=True, materialize_grads=True)[0]

        return AtOutput(total.double(), float(len(z)), c.detach(), hessian)


def resolve(loss: LossSpec) -> OutputLoss:
    """Turn a name, a torch loss module or any callable into an OutputLoss.

    Raises:
        InputError: unknown name, or a torch loss whose reduction is not 'mean'.
    """
    if isinstance(loss, str):
        if loss not in NAMES:
            raise unknown("loss", loss, NAMES)
        return CrossEntropy() if loss == "cross-entropy" else MeanSquaredError()
    reduction = getattr(loss, "reduction", "mean")
    if reduction != "mean":
        raise InputError(
            "the loss must be a mean over examples", got=f"reduction={reduction!r}", wanted="'mean'"
        )
    exact = type(loss)  # a subclass may compute something else
    if isinstance(loss, nn.CrossEntropyLoss) and exact is nn.CrossEntropyLoss:
        return CrossEntropy(
            class_weights=loss.weight,
            ignore_index=loss.ignore_index,
            label_smoothing=loss.label_smoothing,
        )
    if exact is nn.MSELoss:
        return MeanSquaredError()
    if not callable(loss):
        raise InputError(
            "unusable loss", got=repr(loss), wanted=f"{', '.join(NAMES)} or a callable"
        )
    return AnyLoss(loss)


def _checked_labels(
    y: Tensor, logits: Tensor, ignore_index: int | None = None
) -> tuple[Tensor, Tensor]:
    """Labels with ignored ones set to 0, and the mask of those that count."""
    _check_shape(y, logits.shape[:-1])
    counted = torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index
    num_classes = logits.shape[-1]
    if bool((((y < 0) | (y >= num_classes)) & counted).any()):
        raise InputError(
            "labels out of range",
            got=f"{int(y[counted].min())} to {int(y[counted].max())}",
            wanted=f"0 to {num_classes - 1} for {num_classes} outputs",
            hint="check that the network and the data belong together",
        )
    return torch.where(counted, y, 0).long(), counted


def _not_by_example(name: str, why: str) -> InputError:
    """Such a mean cannot be told from those of its batches without knowing their weights."""
    return InputError(
        f"the loss {name} does not weigh every example equally",
        got=why,
        wanted="nn.CrossEntropyLoss itself, or a loss without them",
    )


def _check_shape(y: Tensor, wanted: torch.Size) -> None:
    if y.shape != wanted:
        kind = "floating-point" if y.is_floating_point() else "integer"
        raise InputError(
            "the targets do not fit the outputs",
            got=f"{kind} targets of shape {tuple(y.shape)}",
            wanted=f"shape {tuple(wanted)}, or integer labels for classes",
        )
