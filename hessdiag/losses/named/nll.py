"""The negative log-likelihood of outputs that are logarithms of probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessdiag.errors import InputError
from hessdiag.losses.named.cross_entropy import (
    TORCH_AXIS,
    AtLogits,
    CrossEntropy,
    find_class_axis,
)


class NegativeLogLikelihood(CrossEntropy):
    """``torch.nn.NLLLoss`` of log-probabilities z, read as the cross-entropy of logits z.

    Value and Hessian are the same, since log-softmax leaves its own result as it is. But as a
    function that is linear in z, the loss would have B = 0 and leave all curvature to N; read as
    the cross-entropy, it has the parts that the network has before its log-softmax.
    """

    name = "nll"
    torch_loss = nn.NLLLoss
    torch_function = F.nll_loss

    @classmethod
    def of_module(cls, module: nn.NLLLoss) -> NegativeLogLikelihood:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read torch's module."""
        return cls(
            class_weights=module.weight,
            ignore_index=module.ignore_index,
            class_axis=TORCH_AXIS,
        )

    def evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> AtLogits:
        """Evaluate at log-probabilities."""
        check_normalised(z, find_class_axis(z, y, self.class_axis), "nll", "cross-entropy")
        return super().evaluate(z, y, weights)


def check_normalised(z: Tensor, axis: int, name: str, remedy: str) -> None:
    """Refuse outputs that are no logarithms of probabilities.

    Raises:
        InputError: exp(z) does not sum to 1 over the classes.
    """
    normaliser = z.detach().logsumexp(axis).abs().max() if z.numel() else torch.zeros(())
    if bool(normaliser > 1e-3):
        raise InputError(
            f"the outputs are no log-probabilities, which the loss {name} needs",
            got=f"exponentials that sum to 1 times e^{float(normaliser):.3g}",
            hint=f"the loss {remedy} takes logits; or end the network in log_softmax",
        )


LOSS = NegativeLogLikelihood
