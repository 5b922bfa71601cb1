"""The empirical neural tangent kernel Θ̂ = JJᵀ/N: its trace, its largest eigenvalue, its change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.eigenvalues import largest_eigenvalue
from hessdiag.curvature.kernels import exact_kernels, undisturbed
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, Probes, Samples, TraceSamples
from hessdiag.losses.output_loss import AtOutput, OutputLoss
from hessdiag.seeds import stream

NUM_EXAMPLES, NUM_OUTPUTS = 16, 256
"""Of the kernels that are compared: the first examples, and at most so many of their outputs."""
_ROWS = 16  # probes in one pass over the data


@dataclass(frozen=True)
class TangentKernel:
    """What is known of Θ̂, ``(NC, NC)``.

    Attributes:
        samples: what each probe told of JᵀJ/N.
        lambda_max: its largest eigenvalue; None where not asked for.
    """

    samples: Samples
    lambda_max: RitzValue | None

    @property
    def trace(self) -> Estimate:
        """Estimate tr Θ̂."""
        return self.samples.trace()


def tangent_kernel(
    decomposition: Decomposition, *, num_probes: int = 32, eigenvalue: bool = True, seed: int = 0
) -> TangentKernel:
    """Estimate trace and largest eigenvalue of Θ̂ = JJᵀ/N.

    Its non-zero spectrum is that of JᵀJ/N, the Gauss-Newton part of ½‖z‖².

    Cost: a product with G a probe and a Lanczos vector.

    Args:
        decomposition: of network and data; its loss does not matter.
        num_probes: Rademacher probes of the trace.
        eigenvalue: whether to look for the largest.
        seed: of the probes and of Lanczos.

    Raises:
        InputError: a network that is spread over processes.

    Source: Dauphin, Agarwala and Mobahi (2024), appendix A.1.
    """
    decomposition.check_whole("the tangent kernel")
    of_outputs = decomposition.on(loss=_HalfSquare())
    risk, samples = of_outputs.risk, TraceSamples()
    probes = Probes(decomposition.num_parameters, seed=seed, dtype=risk.dtype, device=risk.device)
    for start in range(0, num_probes, _ROWS):
        rows = probes.rows(start, min(start + _ROWS, num_probes))
        products = of_outputs.products(rows, ("gn",)).gn
        assert products is not None
        samples.add(rows, products)
    top = largest_eigenvalue(of_outputs, "gn", seed=seed) if eigenvalue else None
    return TangentKernel(samples.freeze(), top)


@undisturbed()
def kernel_matrix(decomposition: Decomposition) -> Tensor:
    """Compute N Θ̂ = JJᵀ on the first 16 examples, in the type computed in.

    Of more than 256 outputs those 256 are taken that a fixed draw picks, so that ``(m, m)`` is
    small whatever the classes.

    Cost: two gradients of these examples an output.

    Raises:
        InputError: a network that is spread over processes.
    """
    decomposition.check_whole("the tangent kernel")
    risk = decomposition.risk
    with exact_kernels():
        pieces = _linearised(risk)
        sizes = [piece.z.numel() for piece in pieces]
        generator = torch.Generator().manual_seed(stream(0, "kernel"))
        chosen = torch.randperm(sum(sizes), generator=generator)[:NUM_OUTPUTS].sort().values
        rows: list[Tensor] = []
        start = 0
        for piece, size in zip(pieces, sizes, strict=True):
            for index in chosen[(chosen >= start) & (chosen < start + size)].tolist():
                v = piece.transposed(index - start)
                row = torch.cat([other.forward(v) for other in pieces])
                rows.append(row[chosen.to(row.device)])
            start += size
    return torch.stack(rows)


def kernel_change(now: Tensor, before: Tensor) -> float:
    """Compute 1 − cos(Θ̂, Θ̂₀) = 1 − ⟨Θ̂, Θ̂₀⟩_F/(‖Θ̂‖_F ‖Θ̂₀‖_F): 0 where features stay as they were.

    Args:
        now: of :func:`kernel_matrix`.
        before: of the same examples.

    Source: Fort et al. (2020), "Deep learning versus kernel learning", sec. 4.
    """
    a, b = now.double().flatten().cpu(), before.double().flatten().cpu()
    return float(1 - (a @ b) / (a.norm() * b.norm()))


class _Piece:
    """A microbatch's Jacobian J, as products with J and Jᵀ."""

    def __init__(self, risk: EmpiricalRisk, z: Tensor) -> None:
        self.z, self.parameters = z, list(risk.parameters.values())
        self.c = torch.zeros_like(z).requires_grad_()
        self.s = torch.autograd.grad(
            z, self.parameters, self.c, create_graph=True, materialize_grads=True
        )

    def transposed(self, index: int) -> Sequence[Tensor]:
        unit = torch.zeros(self.z.numel(), dtype=self.z.dtype, device=self.z.device)
        unit[index] = 1
        return torch.autograd.grad(
            self.z,
            self.parameters,
            unit.view_as(self.z),
            retain_graph=True,
            materialize_grads=True,
        )

    def forward(self, v: Sequence[Tensor]) -> Tensor:
        used = [(s, v_l) for s, v_l in zip(self.s, v, strict=True) if s.requires_grad]
        along = torch.stack([(s * v_l).sum() for s, v_l in used]).sum()
        (product,) = torch.autograd.grad(along, self.c, retain_graph=True)
        return product.flatten()


def _linearised(risk: EmpiricalRisk) -> list[_Piece]:
    """Linearise the outputs of the first examples, however they are batched."""
    pieces: list[_Piece] = []
    left = NUM_EXAMPLES
    for x, _ in risk.microbatches():
        z = risk.outputs(x)[:left]
        pieces.append(_Piece(risk, z))
        left -= len(z)
        if left <= 0:
            break
    return pieces


class _HalfSquare(OutputLoss):
    """½‖z‖² an example, whose output Hessian is the identity; targets do not matter."""

    name = "outputs"

    def evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> AtOutput:
        del y, weights
        return _AtHalfSquare(z)


class _AtHalfSquare(AtOutput):
    def __init__(self, z: Tensor) -> None:
        self.z = z

    @property
    def total(self) -> Tensor:
        return self.z.double().square().sum() / 2

    @property
    def weight(self) -> float:
        return float(len(self.z))

    @property
    def cotangent(self) -> Tensor:
        return self.z

    def hessian(self, u: Tensor) -> Tensor:
        return u
