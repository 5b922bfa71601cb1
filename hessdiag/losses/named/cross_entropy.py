"""Softmax cross-entropy, exact down to the loss of a network that fits its data.

With m the largest logit and e_k = exp(z_k − z_m), all is computed from the sum of the other
classes, ``r = Σ_{k≠m} e_k``: ``−log p_m = log1p(r)`` and ``1 − p_m = r/(1 + r)``. Nothing is taken
as the difference of two numbers that are nearly 1.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessdiag.errors import InputError
from hessdiag.losses.output_loss import AtOutput, OutputLoss, by_example, check_labels, misfit

TORCH_AXIS = 1 << 10
"""A class axis of torch's own: dimension 1, or the last where only that fits."""


class CrossEntropy(OutputLoss):
    """Softmax cross-entropy, as ``torch.nn.CrossEntropyLoss`` averages it.

    With target weights t (one-hot, smoothed, times class weights) and τ = Σ_k t_k:
    ``ℓ = −Σ_k t_k log p_k``, ``c = τ p − t``, ``B = τ (diag p − p pᵀ) = S Sᵀ`` with
    ``S = √τ (diag √p − p √pᵀ)``. Smoothing changes c only.

    Args:
        class_weights: ``(C,)``; None for 1.
        ignore_index: label of targets that do not count.
        label_smoothing: share of each label spread over all classes.
        class_axis: dimension of z that holds the classes; None to tell it from the targets' shape.
    """

    name = "cross-entropy"
    torch_loss = nn.CrossEntropyLoss
    torch_function = F.cross_entropy

    def __init__(
        self,
        *,
        class_weights: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        class_axis: int | None = None,
    ) -> None:
        self.class_weights = class_weights
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.class_axis = class_axis

    @classmethod
    def of_module(cls, module: nn.CrossEntropyLoss) -> CrossEntropy:
        """Read torch's module; where both axes would fit, its classes are on dimension 1."""
        return cls(
            class_weights=module.weight,
            ignore_index=module.ignore_index,
            label_smoothing=module.label_smoothing,
            class_axis=TORCH_AXIS,
        )

    def evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> AtLogits:
        """Evaluate at logits ``(N, C, …)`` or ``(N, …, C)`` and labels ``(N, …)``.

        Floating targets of z's shape are probabilities.
        """
        axis = find_class_axis(z, y, self.class_axis)
        logits = z.movedim(axis, -1)
        probabilities = y.movedim(axis, -1) if y.is_floating_point() else None
        if probabilities is not None:
            counted = torch.ones_like(logits[..., 0], dtype=torch.bool)
            labels = None
            targets = self._smoothed(probabilities.to(z.dtype))
            unit = torch.ones_like(logits[..., 0])
        else:
            counted = y != self.ignore_index
            check_labels(y, counted, logits.shape[-1])
            labels = torch.where(counted, y, 0).long()
            targets = None
            if self.label_smoothing:
                targets = self._smoothed(F.one_hot(labels, logits.shape[-1]).to(z.dtype))
            unit = torch.ones_like(logits[..., 0])
            if self.class_weights is not None:
                unit = self.class_weights.to(z)[labels]
        if targets is not None and self.class_weights is not None:
            targets = targets * self.class_weights.to(z)
        scale = by_example(weights, unit)
        share = counted if scale is None else counted * scale
        if targets is not None:
            targets = targets * share[..., None]
        return AtLogits(logits, axis, labels, unit * share, targets, counted)

    def _smoothed(self, one_hot: Tensor) -> Tensor:
        smoothing = self.label_smoothing
        return (1 - smoothing) * one_hot + smoothing / one_hot.shape[-1]


class AtLogits(AtOutput):
    """Cross-entropy at one microbatch.

    Args:
        logits: ``(…, C)``.
        axis: where z has the classes.
        labels: ``(…,)``, or None where the targets are probabilities.
        mass: ``(…,)``, what each target counts for in the mean; without ``targets`` also its τ.
        targets: t ``(…, C)``; None for ``mass`` at the label.
        counted: ``(…,)``, which targets count.
    """

    def __init__(
        self,
        logits: Tensor,
        axis: int,
        labels: Tensor | None,
        mass: Tensor,
        targets: Tensor | None,
        counted: Tensor,
    ) -> None:
        self.logits, self.axis, self.labels, self.counted = logits, axis, labels, counted
        self.targets, self.shares = targets, mass
        self.mass = (mass if targets is None else targets.sum(-1))[..., None]  # τ

    @cached_property
    def largest(self) -> Tensor:
        """The index m of each largest logit, ``(…, 1)``."""
        return self.logits.detach().argmax(-1, keepdim=True)

    @cached_property
    def relative(self) -> Tensor:
        """z_k − z_m."""
        return self.logits - self.logits.gather(-1, self.largest)

    @cached_property
    def rest(self) -> Tensor:
        """R = Σ_{k≠m} e_k, ``(…, 1)``."""
        return self.relative.exp().scatter(-1, self.largest, 0.0).sum(-1, keepdim=True)

    @cached_property
    def p(self) -> Tensor:
        """Probabilities e_k/(1 + r)."""
        return self.relative.exp() / (1 + self.rest)

    @property
    def not_largest(self) -> Tensor:
        """1 − p_m, ``(…, 1)``."""
        return self.rest / (1 + self.rest)

    @property
    def total(self) -> Tensor:
        """Σ w ℓ with −log p_k = log1p(r) − (z_k − z_m)."""
        # z_m − z_m is left out, whose two derivatives would not cancel to the last digit
        normaliser = self.rest.log1p()
        if self.targets is None:
            assert self.labels is not None
            label = self.labels[..., None]
            gap = torch.where(label == self.largest, 0, self.relative.gather(-1, label))
            return torch.where(self.mass != 0, self.mass * (normaliser - gap), 0).double().sum()
        others = self.targets.scatter(-1, self.largest, 0.0)
        gaps = torch.where(others != 0, others * self.relative, 0)
        return (self.mass * normaliser).double().sum() - gaps.double().sum()

    @property
    def weight(self) -> float:
        """Σ w over the targets that count."""
        return float(self.shares.double().sum())

    @property
    def cotangent(self) -> Tensor:
        """Compute c = τ p − t; at the largest logit Σ_{k≠m} t_k − τ (1 − p_m)."""
        c, at = self.mass * self.p, self.largest
        if self.targets is None:
            assert self.labels is not None
            label = self.labels[..., None]
            c = c.scatter_add(-1, label, -self.mass)
            others = self.mass * (label != at)
        else:
            c = c - self.targets
            others = self.targets.scatter(-1, at, 0.0).sum(-1, keepdim=True)
        return self._placed(c.scatter(-1, at, others - self.mass * self.not_largest))

    def hessian(self, u: Tensor) -> Tensor:
        """Compute τ p ∘ (u − ⟨p, u⟩) from what u has beyond its entry at the largest logit."""
        u = u.movedim(self.axis, -1)
        u = u - u.gather(-1, self.largest)
        return self._placed(self.mass * self.p * (u - (self.p * u).sum(-1, keepdim=True)))

    def factor(self, u: Tensor) -> Tensor:
        """Compute √τ (√p ∘ u − p ⟨√p, u⟩); at the largest √p_m u_m (1 − p_m) − p_m ⟨√p, u⟩'."""
        u, at = u.movedim(self.axis, -1), self.largest
        weighted = ((self.relative - self.rest.log1p()) / 2).exp() * u  # √p ∘ u
        own = weighted.gather(-1, at)
        others = weighted.scatter(-1, at, 0.0).sum(-1, keepdim=True)
        s = weighted - self.p * (own + others)
        s = s.scatter(-1, at, own * self.not_largest - self.p.gather(-1, at) * others)
        return self._placed(self.mass.sqrt() * s)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw one uniform number a label, in float64: float32 has none between 0 and 6e-8."""
        options: dict[str, Any] = {"device": self.p.device, "dtype": torch.float64}
        return torch.rand(size, *self.p.shape[1:-1], generator=generator, **options)

    def sampled_cotangent(self, drawn: Tensor) -> Tensor:
        """Take the first class ŷ at which the summed p exceeds a uniform number; √τ (p − ŷ).

        The p are those of the logits in float64, where 1 − 1e-9 is not 1.
        """
        drawn = drawn.double() + torch.finfo(drawn.dtype).eps / 4  # the middle of its grid's cell
        below = self.logits.detach().double().softmax(-1).cumsum(-1) <= drawn[..., None]
        chosen = below[..., :-1].sum(-1, keepdim=True)  # rounding may leave the last sum below 1
        c = self.p.scatter_add(-1, chosen, -torch.ones_like(self.rest))
        c = c.scatter(-1, self.largest, (chosen != self.largest).to(c) - self.not_largest)
        return self._placed(self.mass.sqrt() * c)

    @property
    def num_correct(self) -> int | None:
        """Labels that have the largest logit."""
        if self.labels is None:
            return None
        return int(((self.largest[..., 0] == self.labels) & self.counted).sum())

    @property
    def num_counted(self) -> int:
        """Targets that count."""
        return int(self.counted.sum())

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(-1, self.axis).contiguous()


def find_class_axis(z: Tensor, y: Tensor, axis: int | None = None) -> int:
    """Tell which dimension of z holds the classes, by the targets' shape.

    Args:
        z: outputs ``(N, C, …)`` or ``(N, …, C)``.
        y: labels of z's shape without the classes, or probabilities of z's shape.
        axis: the dimension, if it is known.

    Raises:
        InputError: neither the second nor the last fits, or both do.
    """
    if z.ndim < 2:
        raise InputError(
            "cross-entropy needs one row of logits per example",
            got=f"outputs of shape {tuple(z.shape)}",
            wanted="(N, C) or (N, C, …)",
            hint="for one logit an example, the loss is bce",
        )
    known = None if axis in (None, TORCH_AXIS) else axis
    candidates = [1, z.ndim - 1] if known is None else [known % z.ndim]
    shapes = {
        axis: z.shape if y.is_floating_point() else z.shape[:axis] + z.shape[axis + 1 :]
        for axis in candidates
    }
    fitting = [axis for axis, shape in shapes.items() if y.shape == shape]
    if len(fitting) > 1 and y.is_floating_point():  # probabilities sum to 1 over the classes
        fitting = [axis for axis in fitting if _sums_to_one(y, axis)] or fitting
    if len(fitting) > 1 and axis == TORCH_AXIS:
        return 1
    if len(fitting) > 1:
        raise InputError(
            "the classes may be on dimension 1 of the outputs or on the last",
            got=f"outputs of shape {tuple(z.shape)}, targets of shape {tuple(y.shape)}",
            hint="say which: loss=hessdiag.CrossEntropy(class_axis=-1) or class_axis=1, "
            "or transpose the outputs",
        )
    if not fitting:
        raise misfit(y, *dict.fromkeys(shapes.values()))
    return fitting[0]


def _sums_to_one(y: Tensor, axis: int) -> bool:
    sums = y.sum(axis)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


LOSS = CrossEntropy
