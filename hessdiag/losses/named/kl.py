"""The Kullback-Leibler divergence of the network's distribution from a given one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessdiag.errors import InputError
from hessdiag.losses.named.cross_entropy import AtLogits, CrossEntropy, find_class_axis
from hessdiag.losses.named.nll import check_normalised


class KullbackLeibler(CrossEntropy):
    """``ℓ = Σ_k y_k (log y_k − log p_k)`` for probabilities y and p = softmax z.

    That is cross-entropy less the entropy of y. torch's ``KLDivLoss`` takes log-probabilities z,
    which are their own log-softmax; with reduction "mean" it also divides by the classes.

    Args:
        log_target: the targets are log y.
        reduction: of torch's module, "mean" or "batchmean"; None for logits, averaged over all
            distributions.
    """

    name = "kl"
    torch_loss = nn.KLDivLoss
    torch_function = F.kl_div

    def __init__(self, *, log_target: bool = False, reduction: str | None = None) -> None:
        super().__init__()
        self.log_target, self.reduction = log_target, reduction

    @classmethod
    def of_module(cls, module: nn.KLDivLoss) -> KullbackLeibler:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read torch's module."""
        return cls(log_target=module.log_target, reduction=module.reduction)

    def evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> AtLogits:
        """Evaluate at logits and probabilities of the same shape."""
        if not y.is_floating_point() or y.shape != z.shape:
            raise InputError(
                "the loss kl needs a probability for every output",
                got=f"{y.dtype} targets of shape {tuple(y.shape)}",
                wanted=f"floating-point targets of shape {tuple(z.shape)}",
                hint="for labels, the loss is cross-entropy",
            )
        y = y.exp() if self.log_target else y
        if bool((y < 0).any()):
            raise InputError("a probability is negative", got=float(y.min()))
        axis = find_class_axis(z, y, self.class_axis)
        if self.reduction is not None:
            check_normalised(z, axis, "KLDivLoss", "kl")
        at = super().evaluate(z, y, weights)
        assert at.targets is not None
        targets, shares = at.targets, at.shares
        if self.reduction == "mean":
            targets = targets / targets.shape[-1]
        if self.reduction == "batchmean":
            shares = shares / max(shares[:1].numel(), 1)
        return _AtDivergence(at.logits, axis, None, shares, targets, at.counted, y)


class _AtDivergence(AtLogits):
    """Cross-entropy less the entropy, as one sum: where p is close to y, they all but cancel."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args[:-1])
        self.y = args[-1].movedim(self.axis, -1).double()

    @property
    def total(self) -> Tensor:
        """Σ t (log y − log p)."""
        assert self.targets is not None
        log_p = self.logits.detach().double().log_softmax(-1)
        gaps = self.targets.double() * (self.y.clamp(min=_TINY).log() - log_p)
        value = torch.where(self.targets != 0, gaps, 0).sum()
        cross_entropy = super().total  # whose derivatives are the same, and exact
        return value + (cross_entropy - cross_entropy.detach())


_TINY = 1e-300
LOSS = KullbackLeibler
