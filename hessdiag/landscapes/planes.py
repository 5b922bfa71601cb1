"""Planes through θ in parameter space: two weights, two random directions, two eigenvectors."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.memory import available_bytes
from hessdiag.errors import InputError, unknown
from hessdiag.linalg.driver import drive
from hessdiag.linalg.lanczos import LanczosResult, RitzValue, gaussian_rows, lanczos
from hessdiag.linalg.vectors import Layout
from hessdiag.parts import PARTS, check_part
from hessdiag.seeds import stream

KINDS = ("random", *PARTS)
"""Planes that can be asked for by name; two weights are asked for by theirs."""
_WEIGHT = re.compile(r"(?P<name>.+?)\s*\[(?P<index>[^\[\]]*)\]")
_BASIS_BUDGET = 6 << 30  # bytes of the Lanczos basis behind two eigenvectors
_BASIS_SIZE = 48  # vectors in it, if they fit: few problems then need a restart


@dataclass(frozen=True)
class Plane:
    """The plane θ + a u + b v.

    Attributes:
        kind: "weights", or one of ``KINDS``; any other word for directions of one's own.
        labels: names of the two directions.
        first: u, flat ``(n,)``.
        second: v, flat ``(n,)``; neither unit nor orthogonal to u unless the kind makes it so.
        eigenvalues: of the eigenvectors u and v, else empty.
        notes: what qualifies the directions.
    """

    kind: str
    labels: tuple[str, str]
    first: Tensor
    second: Tensor
    eigenvalues: tuple[RitzValue, ...] = ()
    notes: tuple[str, ...] = ()

    def step(self, a: float, b: float) -> Tensor:
        """Compute a u + b v, ``(n,)``."""
        return a * self.first + b * self.second

    def basis(self) -> Tensor:
        """Make Qᵀ ``(2, n)``, orthonormal rows that span u and v, by Gram-Schmidt done twice.

        Raises:
            InputError: u and v span no plane.
        """
        scales = [float(row.norm(dtype=torch.float64)) for row in (self.first, self.second)]
        for label, scale in zip(self.labels, scales, strict=True):
            if not (math.isfinite(scale) and scale > 0):
                raise InputError(
                    f"the direction {label} has no direction",
                    got=f"a vector of norm {scale:g}",
                    wanted="a finite norm above 0",
                )
        q, rest = self.first / scales[0], self.second / scales[1]
        for _ in range(2):
            rest = rest - (q * rest).sum(dtype=torch.float64) * q
        left = float(rest.norm(dtype=torch.float64))
        if left <= math.sqrt(torch.finfo(rest.dtype).eps):  # less would be mostly rounding
            raise InputError(
                "the two directions are collinear",
                got=f"{self.labels[0]} and {self.labels[1]}",
                wanted="two directions that span a plane",
                hint="choose other directions, or a network with more weights",
            )
        return torch.stack([q, rest / left])


def weight_plane(decomposition: Decomposition, weights: Sequence[str]) -> Plane:
    """Make the plane of two weights, u = e_i and v = e_j, named like ``fc1.weight[0,1]``.

    Raises:
        InputError: not two weights, the same one twice, or one that does not exist.
    """
    if isinstance(weights, str) or len(weights) != 2:
        raise InputError(
            "a plane is spanned by two weights",
            got=repr(weights) if isinstance(weights, str) else f"{len(weights)} of them",
            wanted="two names such as fc1.weight[0,1]",
        )
    layout = decomposition.layout
    (first, label), (second, other) = (_find(text, layout) for text in weights)
    if first == second:
        raise InputError(
            "the two weights are the same", got=f"{label} twice", wanted="two different weights"
        )
    directions = torch.zeros(
        2, layout.size, dtype=decomposition.risk.dtype, device=decomposition.risk.device
    )
    directions[0, first] = directions[1, second] = 1.0
    return Plane("weights", (label, other), directions[0], directions[1])


def random_plane(decomposition: Decomposition, *, seed: int = 0) -> Plane:
    """Make the plane of two random filter-normalised directions, ``d_i ← d_i ‖θ_i‖/‖d_i‖``.

    Filters i are the slices along dimension 0 of tensors with two dimensions or more. Biases and
    the scales of normalisations do not move. The draw is made in float64 on the CPU, so that it
    does not depend on device or dtype.

    Raises:
        InputError: fewer than two parameters, or no filter that could be moved.

    Source: Li, Xu, Taylor, Studer and Goldstein (2018), sec. 4.
    """
    _check_dimension(decomposition)
    risk, layout = decomposition.risk, decomposition.layout
    directions: list[Tensor] = []
    for index in range(2):
        generator = torch.Generator().manual_seed(stream(seed, "landscape", index))
        draw = torch.randn(layout.size, generator=generator, dtype=torch.float64)
        for tensor, theta in zip(layout.unflatten(draw), risk.parameters.values(), strict=True):
            if theta.ndim < 2 or theta.numel() == 0:
                tensor.zero_()
                continue
            filters, own = tensor.flatten(1), theta.detach().flatten(1)
            norms = own.norm(dim=1, dtype=torch.float64).cpu()
            filters *= (norms / filters.norm(dim=1))[:, None]
        if not bool(draw.any()):
            raise InputError(
                "there are no filters to take random directions in",
                got=", ".join(layout.names[:5]),
                wanted="a weight of two dimensions or more that is not zero",
                hint="ask for two weights, or for the eigenvectors of a part",
            )
        directions.append(draw.to(risk.device, risk.dtype))
    first, second = directions
    return Plane("random", ("random direction 1", "random direction 2"), first, second)


def eigenvector_plane(
    decomposition: Decomposition, part: str, *, seed: int = 0, max_passes: int = 100
) -> Plane:
    """Make the plane of the eigenvectors of a part's two largest eigenvalues, by Lanczos.

    Signs are such that the entry of largest magnitude is positive.

    Cost: some ten to ``max_passes`` passes over the data with three products each; 48 vectors of
    memory, fewer if those exceed 6 GiB.

    Raises:
        InputError: unknown part, fewer than two parameters, too little memory.
    """
    check_part(part)
    _check_dimension(decomposition)
    risk, size = decomposition.risk, decomposition.num_parameters
    vector_bytes = size * risk.dtype.itemsize
    basis_size = min(max(10, min(_BASIS_SIZE, _BASIS_BUDGET // vector_bytes)), size)
    needed, available = (basis_size + 12) * vector_bytes, available_bytes(risk.device)
    if needed > available:
        raise InputError(
            "there is too little memory for two eigenvectors",
            got=f"{needed / 2**30:.1f} GiB for a Lanczos basis of {basis_size}",
            wanted=f"at most the {available / 2**30:.1f} GiB that are left on {risk.device}",
            hint="take --plane random, or fewer --params",
        )
    own_seed = stream(seed, "landscape", part)
    run = lanczos(
        gaussian_rows(3, size, seed=own_seed, dtype=risk.dtype, device=risk.device),
        top_k=2,
        ends=(1,),
        basis_size=basis_size,
        max_steps=max_passes,
        seed=own_seed,
        with_vectors=True,
    )
    outcome = drive({part: (part, run)}, decomposition.answer)
    found: LanczosResult = outcome.results[part]
    assert found.top_vectors is not None
    first, second = (row * row[row.abs().argmax()].sign() for row in found.top_vectors)
    notes = tuple(
        f"{part} eigenvector {index} not converged within {outcome.num_passes} passes: "
        f"λ = {ritz.value:.4g}, residual {ritz.residual:.1e}"
        for index, ritz in enumerate(found.top, 1)
        if not ritz.converged
    )
    labels = (f"{part} eigenvector 1", f"{part} eigenvector 2")
    return Plane(part, labels, first, second, found.top, notes)


def _check_dimension(decomposition: Decomposition) -> None:
    if decomposition.num_parameters < 2:
        raise InputError(
            "there is no plane in so small a space",
            got=f"{decomposition.num_parameters} parameter",
            wanted="at least 2",
        )


def _find(text: str, layout: Layout) -> tuple[int, str]:
    """Find the offset of a weight given as ``name[i,j,…]``, and spell its name.

    Raises:
        InputError: no such parameter, or an index that is missing, malformed or out of range.
    """
    matched = _WEIGHT.fullmatch(text.strip())
    name = matched["name"] if matched else text.strip()
    if name not in layout.slices:
        near = difflib.get_close_matches(name, layout.names, n=6, cutoff=0.0)
        hint = f"the nearest of {len(layout.names)} names are shown" if len(near) > 5 else None
        raise unknown("parameter", name, near, hint=hint)
    shape = layout.shapes[layout.names.index(name)]
    words = [word.strip() for word in matched["index"].split(",")] if matched else []
    words = [] if words == [""] else words
    ranges = ", ".join(f"0 to {length - 1}" for length in shape)
    wanted = f"{name}[{', '.join('ijklmn'[: len(shape)])}], {ranges}" if shape else name
    if len(words) != len(shape):
        raise InputError(
            "the weight's index is missing" if not words else "the weight's index does not fit",
            got=text,
            wanted=wanted,
        )
    if not all(re.fullmatch(r"\d{1,18}", word) for word in words):
        raise InputError("the weight's index is not made of whole numbers", got=text, wanted=wanted)
    index = [int(word) for word in words]
    if any(i >= length for i, length in zip(index, shape, strict=True)):
        raise InputError("the weight's index is out of range", got=text, wanted=wanted)
    offset = layout.slices[name].start
    for i, stride in zip(index, _strides(shape), strict=True):
        offset += i * stride
    return offset, f"{name}[{','.join(map(str, index))}]" if shape else name


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
