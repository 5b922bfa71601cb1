"""Is the derivative the derivative? A check that shares nothing with what it checks.

``H v = G v + N v`` holds whatever the network's own backward formulas say. So here the gradient is
that of the module as its user calls it, in float64 on a few examples, and its difference along v is
compared with H v of the loss differentiated twice (which the report's decomposition residual holds
``G v + N v`` against), block by block of the parameters. The point is near θ, not θ itself: what is
checked is the code, and there no unit sits exactly on its kink.

A kink within the step adds J/h to a difference, a fault does not depend on h. So a suspicion is
settled by central differences at two radii: where they agree, they are the derivative.
"""

from __future__ import annotations

import math
import pickle
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessdiag.curvature.as_called import (
    AsCalled,
    doubled,
    few_examples,
    fitting_examples,
    mapped,
)
from hessdiag.curvature.culprits import find_culprit
from hessdiag.curvature.direct import direct_product
from hessdiag.curvature.kernels import exact_kernels
from hessdiag.curvature.memory import available_bytes
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError
from hessdiag.losses.output_loss import Targets
from hessdiag.nets.activations import Activation
from hessdiag.seeds import stream

TOLERANCE = 1e-5
"""Relative differences up to this are rounding."""
LIMIT = 1e-3
"""Relative differences above this are refused."""
_NEARBY = 1e-3  # how far the point is from θ, relative to each parameter tensor
_STEP = 1e-7  # of the first difference, likewise
_RADII = ((1e-5, 1e-8), (1e-6, 1e-8), (1e-7, 1e-8), (1e-7, 1e-8))  # of the central ones, by try
_CALLS = 4  # after the first, of a network that draws random numbers
_RANDOM = "the network's outputs are random"
_CHOSEN = ("augmented_relu", "diminished_gelu")  # whose second derivative is not the first one's

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Truth:
    """What the check saw: relative differences, in the parameter block where they are largest.

    Attributes:
        gradient: of the gradient and that of the module as it is called; None where H v was right,
            which says as much.
        product: of H v and the gradient's difference along v.
        precision: of the outputs in the type computed in and in float64.
        noise: of the outputs of two calls on the same examples; None where nothing is drawn.
        blocks: parameters in which a difference exceeds the tolerance.
        culprit: module and operation at fault, where found.
        reason: why nothing is known; None where the check was made.
    """

    gradient: float | None = None
    product: float | None = None
    precision: float | None = None
    noise: float | None = None
    blocks: tuple[str, ...] = ()
    culprit: str | None = None
    reason: str | None = None

    @property
    def worst(self) -> float:
        """The larger difference; 0 where nothing is known."""
        return max(self.gradient or 0.0, self.product or 0.0)

    @property
    def note(self) -> str | None:
        """A sentence for the report; None where there is nothing to remark."""
        if self.reason is not None:
            return f"second derivatives not checked: {self.reason}"
        if self.noise:
            return f"{_RANDOM}: {self.noise:.1e} apart in two calls on the same examples"
        if self.worst > TOLERANCE:
            return f"{self._what()}: {self._where()}"
        if (self.precision or 0.0) > LIMIT:
            return (
                f"the outputs are {self.precision:.1e} off those in float64: something within the "
                "network computes in a narrower type"
            )
        return None

    def judge(self) -> None:
        """Warn of a difference, or refuse to go on where it is beyond doubt.

        Raises:
            InputError: it is above LIMIT, or the outputs are random.
        """
        if self.noise:
            raise InputError(
                _RANDOM,
                got=f"{self.noise:.1e} apart in two calls on the same examples",
                wanted="the same outputs each time",
                hint="turn off functional dropout, sampling and noise within forward",
            )
        if self.worst > LIMIT:
            raise InputError(
                self._what(),
                got=self._where(),
                wanted=f"a relative difference below {LIMIT:g}",
                hint="write what is named so that autograd sees all of it, leave its parameters "
                "out with params=, or go on with unchecked=True (--unchecked)",
            )
        if self.reason is None and self.note is not None:
            warnings.warn(f"hessdiag: {self.note}", stacklevel=4)

    def _what(self) -> str:
        if (self.gradient or 0.0) > TOLERANCE:
            return "the network's gradient is not that of the network as it is called"
        return "the network's second derivatives are not those of its gradient"

    def _where(self) -> str:
        blocks = ", ".join(self.blocks[:3]) + (", …" if len(self.blocks) > 3 else "")
        where = f"{self.worst:.1e} off in {blocks}"
        return f"{self.culprit}, {where}" if self.culprit else where


def check_few(risk: EmpiricalRisk, x: Any, y: Tensor | Targets) -> Truth:
    """Check a few examples of a microbatch, as few as their outputs allow."""
    if risk.sharding is not None:
        return Truth(reason="no process holds the network whole")
    few, one = few_examples(x, y), fitting_examples(risk, x, y, at_most=1)
    before = _random_state()
    with torch.no_grad():
        z = risk.outputs(mapped(one[0], Tensor.clone))
        draws = _random_state() != before
        again = [risk.outputs(mapped(one[0], Tensor.clone)) for _ in range(_CALLS * draws)]
    noise = max(
        (float((other - z).norm()) / (float(z.norm()) or 1.0) for other in again), default=0
    )
    if noise > TOLERANCE:
        return Truth(noise=noise)
    if len(one[1]) > 1:  # nothing less than all
        return check(risk, *one)
    num_outputs = z.numel() * len(few[1])
    return check(risk, *few_examples(*few, num_outputs))


def _random_state() -> list[bytes]:
    """Give the states of the generators that a network may draw from."""
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
    numbers = np.random.get_state()  # noqa: NPY002 - the one that networks draw from
    return [*(s.numpy().tobytes() for s in states), pickle.dumps((random.getstate(), numbers))]


def check(risk: EmpiricalRisk, x: Any, y: Tensor | Targets, *, seed: int = 0) -> Truth:
    """Compare gradient and H v with those of the module as it is called.

    Cost: about five gradients of these examples in float64, and the memory of five vectors.

    Args:
        risk: the network and its loss.
        x: inputs of a few examples.
        y: their targets.
        seed: of the point and of the direction.
    """
    chosen = {m.name for m in risk.model.modules() if isinstance(m, Activation)} & {*_CHOSEN}
    if chosen:
        return Truth(reason=f"that of {' and '.join(sorted(chosen))} is chosen")
    needed = 8 * 6 * sum(tensor.numel() for tensor in risk.model.parameters())
    if needed > available_bytes(risk.device):
        return Truth(reason="too little memory for copies in float64")
    with exact_kernels(), torch.random.fork_rng(devices=[]):
        try:
            return _Check(risk, x, y, seed).run()
        except InputError as error:
            return Truth(reason=f"near θ {error.what}")
        except Exception as error:  # whatever the user's module raises in float64
            text = str(error).split("\n")[0]
            return Truth(reason=f"in float64 the network fails: {type(error).__name__}: {text}")


class _Check:
    """At most five vectors of float64 are held at once, θ included."""

    def __init__(self, risk: EmpiricalRisk, x: Any, y: Tensor | Targets, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(stream(seed, "truth"))
        self.names = risk.layout.names
        self.like = list(risk.parameters.values())
        self.scales = _scales(self.like)
        self.padding = {
            id(module.weight): module.padding_idx
            for module in risk.model.modules()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
            and module.padding_idx is not None
        }
        self.risk = risk.in_double()
        self.theta = [tensor.detach() for tensor in self.risk.parameters.values()]
        for theta, like, step in zip(self.theta, self.like, self.nearby(), strict=True):
            theta.copy_(like.detach()).add_(step)
        self.x, self.y = mapped(x, doubled), doubled(y)
        self.narrow = None
        if risk.dtype != torch.float64:
            steps = [
                (theta - like.detach()).to(risk.dtype)
                for theta, like in zip(self.theta, self.like, strict=True)
            ]
            moved = risk.displaced(risk.layout.flatten(steps))
            del steps
            with torch.no_grad():
                self.narrow = moved.select(moved.forward(mapped(x, Tensor.clone))).double()
        self.as_called = AsCalled(self.risk, self.x, self.y)

    def run(self) -> Truth:
        v = self.direction()
        gradient, product, precision = self.ours(v)
        size, sizes = max(self.sizes(gradient)), self.sizes(product)
        for g, hv in zip(gradient, product, strict=True):
            g.add_(hv, alpha=_STEP)  # what is expected of the gradient ahead
        del product
        apart = self.apart(self.ahead(v, _STEP), gradient)
        del gradient
        errors = self.relative([a / _STEP for a in apart], sizes, size / _STEP)
        truth = Truth(product=max(errors), precision=precision)
        if max(errors) <= TOLERANCE:
            return truth
        gradient, product, _ = self.ours(v)
        errors = self.errors(gradient, self.as_called.gradient(), size)
        if max(errors) > TOLERANCE:
            return replace(truth, gradient=max(errors), product=None, blocks=self.above(errors))
        truth = replace(truth, gradient=max(errors))
        for wide, near in _RADII:
            slopes = [self.central(v, radius) for radius in (wide, near)]
            found = [
                self.errors(slope, product, size / radius)
                for slope, radius in zip(slopes, (wide, near), strict=True)
            ]
            errors = [min(pair) for pair in zip(*found, strict=True)]
            truth = replace(truth, product=max(errors), blocks=self.above(errors))
            if max(errors) <= TOLERANCE:
                return truth
            apart = self.errors(slopes[0], slopes[1], size / near)
            if max(apart) < 0.1 * max(errors):
                x = mapped(self.x, Tensor.clone)
                culprit = find_culprit(self.risk.network, *self.risk.arguments(x))
                return replace(truth, culprit=culprit)
            v = self.direction()
            _, product, _ = self.ours(v)
        return Truth(reason="its kinks lie too close to each other")

    def ours(self, v: list[Tensor]) -> tuple[list[Tensor], list[Tensor], float | None]:
        """Compute ∇L, H v and how far off the outputs are in the type computed in."""
        torch.manual_seed(0)  # as the module is called, too
        z, gradient, product = direct_product(self.risk, mapped(self.x, Tensor.clone), self.y, v)
        if self.narrow is None:
            return gradient, product, None
        return gradient, product, float((self.narrow - z).norm()) / (float(z.norm()) or 1.0)

    def ahead(self, v: Tensors, step: float) -> list[Tensor]:
        """Compute the gradient at θ + ``step`` v of the module as it is called."""
        try:
            for theta, direction in zip(self.theta, v, strict=True):
                theta.add_(direction, alpha=step)
            return self.as_called.gradient()
        finally:
            for theta, direction in zip(self.theta, v, strict=True):
                theta.sub_(direction, alpha=step)

    def central(self, v: Tensors, radius: float) -> list[Tensor]:
        """Compute ``[g(θ + rv) − g(θ − rv)]/(2r)`` of the module as it is called."""
        ahead, behind = self.ahead(v, radius), self.ahead(v, -radius)
        return [a.sub_(b).div_(2 * radius) for a, b in zip(ahead, behind, strict=True)]

    def nearby(self) -> Iterator[Tensor]:
        """Draw the way to the point that is looked at, tensor by tensor."""
        for like, scale in zip(self.like, self.scales, strict=True):
            draw = torch.rand(like.shape, generator=self.generator, dtype=torch.float32)
            yield self.along(like, draw.double().mul_(2).sub_(1).mul_(scale * _NEARBY))

    def direction(self) -> list[Tensor]:
        """Draw a direction of random signs, as large in each tensor as the parameters there."""
        found: list[Tensor] = []
        for like, scale in zip(self.like, self.scales, strict=True):
            draw = torch.randint(0, 2, like.shape, generator=self.generator, dtype=torch.int8)
            found.append(self.along(like, draw.double().mul_(2).sub_(1).mul_(scale)))
        return found

    def along(self, like: Tensor, draw: Tensor) -> Tensor:
        """Leave the row of a padding token as it is, which autograd takes for a constant."""
        if id(like) in self.padding:
            draw[self.padding[id(like)]] = 0.0
        return draw.to(like.device)

    def sizes(self, tensors: Iterable[Tensor]) -> list[float]:
        return [scale * float(t.norm()) for scale, t in zip(self.scales, tensors, strict=True)]

    def errors(self, got: Tensors, wanted: Tensors, size: float) -> list[float]:
        """Compare block by block, relative to the block and a thousandth of the largest one.

        Args:
            got: one tensor per parameter.
            wanted: likewise.
            size: what rounding is relative to.
        """
        return self.relative(self.apart(got, wanted), self.sizes(wanted), size)

    def apart(self, got: Tensors, wanted: Tensors) -> list[float]:
        return self.sizes(a - b for a, b in zip(got, wanted, strict=True))

    def relative(
        self, differences: Sequence[float], sizes: Sequence[float], size: float
    ) -> list[float]:
        if not all(map(math.isfinite, (*differences, *sizes))):
            raise InputError("the derivatives are not finite")
        rounding = 1e3 * torch.finfo(torch.float64).eps * size
        floor = 1e-3 * max(sizes) + rounding
        pairs = zip(differences, sizes, strict=True)
        return [max(d - rounding, 0.0) / (s + floor) if floor else 0.0 for d, s in pairs]

    def above(self, errors: Sequence[float]) -> tuple[str, ...]:
        pairs = zip(self.names, errors, strict=True)
        return tuple(name for name, error in pairs if error > TOLERANCE)


def _scales(parameters: Tensors) -> list[float]:
    """Give each tensor's root mean square; that of all for those of zeros."""
    squares = [float(t.detach().square().sum(dtype=torch.float64)) for t in parameters]
    overall = math.sqrt(sum(squares) / sum(t.numel() for t in parameters)) or 1.0
    pairs = zip(squares, parameters, strict=True)
    return [math.sqrt(square / max(t.numel(), 1)) or overall for square, t in pairs]
