"""What a training step is given, the calculus that it is made of, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hessdiag.curvature.composition import Composed
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.curvature.jets import Jets
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.training.objective import Objective

if TYPE_CHECKING:
    from hessdiag.training.methods import Method

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Streams:
    """Independent random streams on the parameters' device.

    Attributes:
        perturbation: of noise and probes.
        labels: of sampled labels and cotangents.
    """

    perturbation: torch.Generator
    labels: torch.Generator


@dataclass(frozen=True)
class Step:
    """What a step is made of.

    Attributes:
        gradient: one tensor per parameter, to descend along; of the whole batch.
        outputs: z of the first pass, ``(n, C)``, detached; of this process's share of the batch.
        loss: mean loss of that pass over the whole batch, a scalar, detached; without the penalty.
    """

    gradient: list[Tensor]
    outputs: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Task:
    """A batch to take a step on; of several processes, each holds some of its examples.

    Vectors in the space of the weights are sequences of one tensor a parameter.

    Attributes:
        objective: the loss.
        x: inputs ``(n, …)``.
        y: labels ``(n,)``.
        method: whose step it is.
        streams: of its randomness, the same in all processes.
        size: N, examples in the whole batch; None for n.
        first: index in the whole batch of the first one here.
    """

    objective: Objective
    x: Tensor
    y: Tensor
    method: Method
    streams: Streams
    size: int | None = None
    first: int = 0

    @property
    def parameters(self) -> list[Tensor]:
        """The weights, live."""
        return self.objective.parameters

    @property
    def num_examples(self) -> int:
        """N."""
        return len(self.y) if self.size is None else self.size

    def evaluate(self, *, move_statistics: bool = True) -> tuple[Tensor, Tensor]:
        """Compute outputs and this process's part of the mean loss, at the weights as they are."""
        return self.objective.evaluate(
            self.x, self.y, self.num_examples, move_statistics=move_statistics
        )

    def finished(self, gradient: Tensors, z: Tensor, loss: Tensor) -> Step:
        """Sum the processes' parts of the step's gradient and of its loss."""
        *whole, mean = self.summed([*gradient, loss.detach()])
        return Step(whole, z.detach(), mean)

    def summed(self, tensors: Tensors) -> list[Tensor]:
        """Sum the processes' parts."""
        return processes.summed(tensors)

    def derivative(
        self,
        of: Tensors,
        along: Tensors | None = None,
        *,
        create_graph: bool = False,
        retain_graph: bool | None = None,
    ) -> list[Tensor]:
        """Differentiate ⟨of, along⟩ in the weights; what does not depend on them adds nothing."""
        used = [i for i, tensor in enumerate(of) if tensor.requires_grad]
        return list(
            torch.autograd.grad(
                [of[i] for i in used],
                self.parameters,
                None if along is None else [along[i] for i in used],
                create_graph=create_graph,
                retain_graph=retain_graph,
                materialize_grads=True,
            )
        )

    def gn_product(self, z: Tensor, v: Tensors) -> list[Tensor]:
        """Compute G v = Jᵀ B (J v) for the mean loss; J v as a derivative of Jᵀ c, linear in c."""
        c = torch.zeros_like(z).requires_grad_()
        pulled = self.derivative([z], [c], create_graph=True)
        used = [i for i, tensor in enumerate(pulled) if tensor.requires_grad]
        (u,) = torch.autograd.grad([pulled[i] for i in used], c, [v[i] for i in used])
        curved = self.objective.loss.at(z.detach(), self.y).hessian(u)
        weight = self.objective.weight(z, self.y, self.num_examples)
        return self.derivative([z], [curved / weight])

    def quadratic_form(
        self, v: Tensors, *, move_statistics: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute z, L and vᵀHv, with a graph; in Taylor mode if the network has rules for it."""
        buffers = [(buffer, buffer.clone()) for buffer in self.objective.model.buffers()]
        try:
            with Jets(self.parameters, v) as jets, Composed(order=3):
                z, loss = self.evaluate(move_statistics=move_statistics)
            return z, loss, jets.of(loss).second
        except Unsupported:  # attention and functions of the user's own, among others
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        with Composed(order=3):
            z, loss = self.evaluate(move_statistics=move_statistics)
        gradient = self.derivative([loss], create_graph=True)
        products = self.derivative(gradient, v, create_graph=True)
        terms = [(probe * product).sum() for probe, product in zip(v, products, strict=True)]
        return z, loss, torch.stack(terms).sum()

    def cotangents(self, z: Tensor, labels: str) -> list[Tensor]:
        """Draw c with ``tr G = N E‖Jᵀc‖²`` for the mean loss, of z's shape; or a pair for it.

        With B the Hessian of the loss in one example's outputs, it is c/N with ``E c cᵀ = B``; for
        a mean over W targets, c/√(N W).

        Args:
            z: outputs with a graph.
            labels: "exact" for c = S(z)u with B = S Sᵀ and random signs u, "detached" for c at
                labels drawn from the model, both with graphs to z; "straight-through" without.

        Returns:
            One cotangent, or where no such S is known a pair a, b with ``tr G = N E⟨Jᵀa, Jᵀb⟩``.
        """
        at, size = self.objective.loss.at(z, self.y), self.num_examples
        if labels == "exact":
            signs = torch.randint(
                2, (size, *z.shape[1:]), generator=self.streams.labels, device=z.device
            )
            u = (2 * signs[self.first : self.first + len(z)] - 1).to(z)
            try:
                drawn = [at.factor(u)]
            except InputError:
                drawn = [at.hessian(u), u]
        else:
            c = at.sampled_cotangent(
                at.draw(size, self.streams.labels)[self.first : self.first + len(z)]
            )
            drawn = [c if labels == "detached" else c.detach()]
        scale = math.sqrt(size * self.objective.weight(z, self.y, size))
        return [c / scale for c in drawn]

    @contextmanager
    def displaced(self, move: Tensors) -> Generator[None]:
        """Move the weights within the block; afterwards they are what they were, to the bit."""
        saved = [tensor.detach().clone() for tensor in self.parameters]
        try:
            with torch.no_grad():
                for tensor, step in zip(self.parameters, move, strict=True):
                    tensor += step
            yield
        finally:
            with torch.no_grad():
                for tensor, before in zip(self.parameters, saved, strict=True):
                    tensor.copy_(before)

    def noise(self, scale: float) -> list[Tensor]:
        """Draw from N(0, scale² I)."""
        generator = self.streams.perturbation
        return [
            scale
            * torch.randn(
                tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype
            )
            for tensor in self.parameters
        ]

    def zeros(self) -> list[Tensor]:
        """Make the zero vector."""
        return [torch.zeros_like(tensor) for tensor in self.parameters]

    @staticmethod
    def norm(vector: Tensors) -> Tensor:
        """Compute the Euclidean norm."""
        return torch.nn.utils.get_total_norm(vector)
