"""What a loss is: a function ℓ(z, y) of outputs z whose first two derivatives in z are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from hessdiag.errors import InputError


class AtOutput(ABC):
    """A loss at the outputs z of one microbatch, summed over its targets, not averaged.

    Everything is computed when asked for. Where z has a graph, the results keep it.
    """

    @property
    @abstractmethod
    def total(self) -> Tensor:
        """Σ w ℓ, a float64 scalar."""

    @property
    @abstractmethod
    def weight(self) -> float:
        """Σ w, which turns sums into means."""

    @property
    @abstractmethod
    def cotangent(self) -> Tensor:
        """C = ∂(Σ w ℓ)/∂z, of z's shape and dtype."""

    @abstractmethod
    def hessian(self, u: Tensor) -> Tensor:
        """Compute B u = ∂²(Σ w ℓ)/∂z² u, for u of z's shape."""

    @property
    def is_linear(self) -> bool:
        """Whether the loss is linear in z, so that B = 0."""
        return False

    @property
    def num_counted(self) -> int:
        """Targets that were predicted; 0 where they are not classes."""
        return 0

    @property
    def num_correct(self) -> int | None:
        """Right predictions, or None where the targets are not classes."""
        return None

    def factor(self, u: Tensor) -> Tensor:
        """Compute S u with ``S Sᵀ = B``, for u of z's shape.

        Raises:
            InputError: no such S is known.
        """
        del u
        raise InputError(
            "this loss does not factor its output Hessian",
            wanted="a loss with a name, such as cross-entropy or mse",
        )

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw what the labels of ``size`` examples come from, each one's by itself."""
        del size, generator
        raise InputError(
            "this loss has no labels to sample",
            wanted="a loss with a name, such as cross-entropy or mse",
        )

    def sampled_cotangent(self, drawn: Tensor) -> Tensor:
        """Compute c at labels ŷ drawn from the model: ``E c = 0`` and ``E c cᵀ = B``.

        Args:
            drawn: what :meth:`draw` gave these examples; c depends on z with the labels held fixed.

        Raises:
            InputError: the loss is the likelihood of no labels.
        """
        return self.factor(drawn)

    def jet(self, first: Tensor, second: Tensor | None) -> tuple[Tensor, Tensor]:
        """Differentiate Σ w ℓ twice along z(t): ``⟨c, ż⟩`` and ``⟨c, z̈⟩ + ⟨ż, B ż⟩``.

        Args:
            first: ż.
            second: z̈; None for zero.
        """
        c = self.cotangent
        curved = (first * self.hessian(first)).sum()
        return (c * first).sum(), curved if second is None else curved + (c * second).sum()


@dataclass(frozen=True)
class Targets:
    """Targets whose examples have weights.

    Attributes:
        values: y ``(N, …)``.
        weights: one an example, ``(N,)``.
    """

    values: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, at: slice) -> Targets:
        return Targets(self.values[at], self.weights[at])

    def clone(self) -> Targets:
        """Copy both."""
        return Targets(self.values.clone(), self.weights.clone())


class OutputLoss(ABC):
    """A loss ℓ(z, y), averaged over examples or over all values that they hold.

    Attributes:
        name: of ``--loss``, and in reports.
        torch_loss: torch's module of the same loss, if there is one.
        torch_function: and its function.
    """

    name: str
    torch_loss: ClassVar[type[nn.Module] | None] = None
    torch_function: ClassVar[Callable[..., Tensor] | None] = None

    def __call__(self, z: Tensor, y: Tensor | Targets) -> Tensor:
        """Compute the mean loss, a float64 scalar."""
        at = self.at(z, y)
        return at.total / at.weight

    def at(self, z: Tensor, y: Tensor | Targets, weights: Tensor | None = None) -> AtOutput:
        """Evaluate at outputs and targets, which may carry the weights themselves."""
        if isinstance(y, Targets):
            y, weights = y.values, y.weights
        return self.evaluate(z, y, weights)

    @abstractmethod
    def evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> AtOutput:
        """Evaluate at outputs ``z (N, …)`` and targets ``y`` of one microbatch.

        Args:
            z: outputs.
            y: targets; which shapes fit, the loss says.
            weights: one an example, ``(N,)``; None for 1.

        Raises:
            InputError: the targets do not fit the outputs.
        """

    def check(self, z: Tensor, y: Tensor | Targets) -> None:
        """Refuse, once for each batch, what is no mean over examples."""
        del z, y

    @classmethod
    def of_module(cls, module: Any) -> OutputLoss | None:
        """Read an instance of :attr:`torch_loss`; None if its options are beyond this loss."""
        del module
        return cls()


def summed_loss(z: Tensor, y: Tensor, loss: OutputLoss, weights: Tensor | None = None) -> Tensor:
    """Compute Σ w ℓ in z's dtype; modes such as ``Jets`` see one function, not its inside."""
    if has_torch_function_unary(z):
        return handle_torch_function(summed_loss, (z,), z, y, loss, weights)
    return loss.at(z, y, weights).total.to(z.dtype)


def by_example(weights: Tensor | None, values: Tensor) -> Tensor | None:
    """View weights ``(N,)`` so that they multiply values ``(N, …)``.

    Raises:
        InputError: there is not one weight an example, or one is negative or not finite.
    """
    if weights is None:
        return None
    if weights.shape != values.shape[:1]:
        raise InputError(
            "the weights do not fit the examples",
            got=f"weights of shape {tuple(weights.shape)}",
            wanted=f"shape ({values.shape[0]},), one an example",
        )
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise InputError("a weight is no weight", got="one that is negative, NaN or Inf")
    return weights.to(values.dtype).view(-1, *(1,) * (values.ndim - 1))


def check_labels(y: Tensor, counted: Tensor, num_classes: int) -> None:
    """Refuse labels beyond the classes.

    Args:
        y: integer labels.
        counted: which of them are to be predicted.
        num_classes: outputs of an example.

    Raises:
        InputError: a label that counts is negative or too large.
    """
    if bool((((y < 0) | (y >= num_classes)) & counted).any()):
        raise InputError(
            "labels out of range",
            got=f"{int(y[counted].min())} to {int(y[counted].max())}",
            wanted=f"0 to {num_classes - 1} for {num_classes} outputs",
            hint="the network has too few outputs, or the labels do not start at 0",
        )


def misfit(y: Tensor, *wanted: Iterable[int], hint: str | None = None) -> InputError:
    """Build the error for targets whose shape does not fit the outputs."""
    kind = "floating-point" if y.is_floating_point() else "integer"
    shapes = " or ".join(f"shape {tuple(shape)}" for shape in wanted)
    return InputError(
        "the targets do not fit the outputs",
        got=f"{kind} targets of shape {tuple(y.shape)}",
        wanted=f"{shapes}, or integer labels for classes",
        hint=hint,
    )
