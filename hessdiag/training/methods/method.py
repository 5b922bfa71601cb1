"""What a method is: options with ranges, what it descends, what a step costs, how it is taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hessdiag.settings import Field, check, fields, typed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hessdiag.losses.loss_spec import LossSpec
    from hessdiag.training.task import Step, Task

TINY = 1e-12
"""Keeps ĝ = g/(‖g‖ + ε) finite."""


@dataclass(frozen=True)
class Method(ABC):
    """A way to compute the gradient of a training step; its fields are its options.

    Attributes:
        name: as in ``--reg``.
        descends: the objective, as a formula.
        second_derivative: whether it differentiates the gradient.
        third_derivative: whether it differentiates φ''.
        is_mean: whether the step of a batch is the mean of the steps of its parts, in expectation,
            so that gradients may be accumulated.
    """

    name: ClassVar[str]
    descends: ClassVar[str]
    second_derivative: ClassVar[bool] = False
    third_derivative: ClassVar[bool] = False
    is_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Give each option its type.

        Raises:
            InputError: a value of the wrong type or out of range.
        """
        for option in fields(type(self)):
            value = getattr(self, option.name)
            object.__setattr__(self, option.name, typed(option.name, option.type, value))
        check(self)

    @classmethod
    def options(cls) -> dict[str, Field]:
        """List the options by name."""
        return {option.name: option for option in fields(cls)}

    @property
    def values(self) -> dict[str, Any]:
        """The options' values."""
        return {name: getattr(self, name) for name in self.options()}

    @property
    @abstractmethod
    def cost(self) -> float:
        """Cost of a step in gradients, at best."""

    @abstractmethod
    def step(self, task: Task) -> Step:
        """Compute the step's gradient on a batch.

        BatchNorm's running statistics move once, on the unperturbed pass, or on the first one where
        all passes are perturbed. Weights are as they were, bit for bit, when it returns.

        Of several processes each differentiates its own examples' part of the loss; the parts are
        summed where a gradient is used: in a perturbation, in a product, in the step. Noise and
        probes are shared, so that the step is that of one process with the whole batch.
        """

    def backward(
        self,
        model: nn.Module,
        batch: Any,
        loss: LossSpec = "cross-entropy",
        *,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Step:
        """Add the step's gradient to ``.grad`` of any module, as ``loss.backward()`` does.

        It is for loops of one's own: an optimizer steps along it, whatever it is. Gradients of
        several batches add up where the method's step is a mean over the examples
        (:attr:`is_mean`); elsewhere a ``.grad`` that is not zero is refused.

        Second derivatives are computed in float32, under autocast too. Dropout draws anew in every
        pass; BatchNorm's statistics, and all other buffers, move once.

        Cost: :attr:`cost` gradients, at best.

        Args:
            model: in the mode that it is to be trained in; on return only ``.grad`` and buffers
                have changed.
            batch: (x, y); x a tensor, or a tuple or mapping of them, passed on as arguments.
            loss: a name, a torch loss, or any ``loss(z, y)`` that is a mean over the examples.
            scale: what the gradient is multiplied by; 1/k for k batches of one step.
            generator: of noise, probes and labels, on the parameters' device; None to seed one
                from torch's own.

        Returns:
            The gradient (not scaled), and outputs and loss without the penalty.

        Raises:
            InputError: gradients that cannot be accumulated; half precision that the method cannot
                be computed in; a module that is wrapped to work with others; inputs or targets that
                do not fit.
        """
        from hessdiag.training import stepping

        return stepping.backward(self, model, batch, loss, scale=scale, generator=generator)

    @classmethod
    def gradient(cls, task: Task) -> Step:
        """Take the step of the task's own method if it is of this kind, else with the defaults."""
        return (task.method if isinstance(task.method, cls) else cls()).step(task)


def added(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    """Add two vectors, held as one tensor a parameter."""
    return [a + b for a, b in zip(left, right, strict=True)]


def scaled(scale: float | Tensor, vector: Sequence[Tensor]) -> list[Tensor]:
    """Multiply such a vector by a number."""
    return [scale * tensor for tensor in vector]
