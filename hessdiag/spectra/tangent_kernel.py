"""The empirical neural tangent kernel Θ̂ = JJᵀ/N, by the Gauss-Newton products of another loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.spectra.spectrum_run import spectrum


@dataclass(frozen=True)
class TangentKernel:
    """What is known of Θ̂, ``(NC, NC)``.

    Attributes:
        trace: tr Θ̂.
        lambda_max: its largest eigenvalue.
    """

    trace: Estimate
    lambda_max: RitzValue


def tangent_kernel(model: nn.Module, batches: Iterable[Any], **options: Any) -> TangentKernel:
    """Estimate trace and largest eigenvalue of Θ̂ = JJᵀ/N.

    Its non-zero spectrum is that of JᵀJ/N, which is C/2 times the Gauss-Newton part of torch's mean
    squared error over C outputs, whatever the targets.

    Args:
        model: any ``nn.Module`` from a batch to one tensor.
        batches: any iterable of (x, y); y does not matter.
        **options: more for :func:`hessdiag.spectrum`.

    Source: Dauphin, Agarwala and Mobahi (2024), appendix A.1.
    """
    batches = list(batches)
    with torch.no_grad():
        risk = EmpiricalRisk(model, batches[:1], "mse")
        x, _ = next(risk.microbatches())
        factor = risk.outputs(x)[0].numel() / 2
    found = spectrum(
        model, batches, loss="mse", parts=("gn",), top_k=1, ends="top", density=False, **options
    ).parts["gn"]
    (top,) = found.top
    ends = top.interval and (factor * top.interval[0], factor * top.interval[1])
    scaled = replace(top, value=factor * top.value, residual=factor * top.residual, interval=ends)
    return TangentKernel(found.trace.estimate.times(factor), scaled)
