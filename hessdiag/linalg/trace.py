"""Hutchinson's estimators of trace, Frobenius norm and per-layer traces, with honest intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta, Struct
from scipy import special
from torch import Tensor

from hessdiag.linalg.quadratic_forms import form_interval, square_interval
from hessdiag.linalg.space import FLAT, Array, Space, signs
from hessdiag.seeds import stream


class Estimate(Struct, frozen=True):
    """A sampled quantity with its uncertainty.

    Attributes:
        value: the estimate.
        stderr: its standard error; None from a single probe.
        ci95: 95 % confidence interval, corrected for skewness, of another confidence where that was
            asked for; None where so few probes tell nothing, below 13 at 95 %.
        num_probes: number of probes behind it; 0 of what is exact.
    """

    value: float
    stderr: Annotated[float, Meta(ge=0)] | None
    ci95: tuple[float, float] | None
    num_probes: Annotated[int, Meta(ge=0, le=2**63 - 1)]

    @property
    def rel_error(self) -> float:
        """Half the interval's length over |value|; infinite where unknown."""
        if self.ci95 is None or self.value == 0.0:
            return 0.0 if self.ci95 == (0.0, 0.0) else math.inf
        return (self.ci95[1] - self.ci95[0]) / (2 * abs(self.value))

    def bounded(self) -> Estimate:
        """Give the same with no interval in place of one without ends."""
        if self.ci95 is None or all(map(math.isfinite, self.ci95)):
            return self
        return Estimate(self.value, self.stderr, None, self.num_probes)

    def times(self, factor: float) -> Estimate:
        """Multiply by a number above 0."""
        stderr = None if self.stderr is None else factor * self.stderr
        ci95 = self.ci95 and (factor * self.ci95[0], factor * self.ci95[1])
        return Estimate(factor * self.value, stderr, ci95, self.num_probes)


class Probes:
    """An endless, reproducible sequence of Rademacher probes (entries ±1, each with chance 1/2).

    Probe i depends on the seed and on i alone, not on how many are drawn at once or where.

    Args:
        size: the dimension n; of a shard that of its own.
        seed: of all of them.
        dtype: of the rows.
        device: where they lie.
        space: in which they lie.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
        space: Space = FLAT,
    ) -> None:
        self.size, self.seed, self.dtype, self.device = size, seed, dtype, device
        self.space = space

    def rows(self, start: int, stop: int) -> Tensor:
        """Probes ``start`` to ``stop`` as rows ``(stop - start, n)``."""
        rows = torch.empty(stop - start, self.size, dtype=self.dtype, device=self.device)
        for index, row in enumerate(rows, start):
            generator = torch.Generator().manual_seed(stream(self.seed, "probe", index))
            self.space.fill(row[None], signs, generator)
        return rows


class Samples(Struct, frozen=True):
    """What each of k probes told of A, or of the rows of A that belong to a layer.

    Attributes:
        quadratic_forms: vᵀAv, of a layer v_lᵀ(Av)_l.
        squared_norms: ‖Av‖², of a layer ‖(Av)_l‖².
        layers: by parameter name, or None.
        forms: vᵀMv of a matrix M of A's trace, of the same probes from the first on, which stand
            for the trace; None where that is left to ``quadratic_forms``.
        exact: the trace, where it has been computed without sampling; else None.
    """

    quadratic_forms: tuple[float, ...]
    squared_norms: tuple[float, ...]
    layers: dict[str, Samples] | None = None
    forms: tuple[float, ...] | None = None
    exact: float | None = None

    def __post_init__(self) -> None:
        sound = len(self.quadratic_forms) == len(self.squared_norms)
        if not sound or min(self.squared_norms, default=0.0) < 0:
            raise ValueError("samples are not a form and a squared norm a probe")

    def __len__(self) -> int:
        return max(len(self.quadratic_forms), len(self.forms or ()))

    @property
    def trace_forms(self) -> tuple[float, ...]:
        """Numbers whose mean is tr A, one a probe."""
        return self.quadratic_forms if self.forms is None else self.forms

    def trace(self) -> Estimate:
        """Estimate tr A."""
        if self.exact is not None:
            return Estimate(self.exact, 0.0, (self.exact, self.exact), 0)
        return estimate_mean(np.array(self.trace_forms)).bounded()

    def frobenius_norm(self) -> Estimate:
        """Estimate ‖A‖_F, the root of the mean of ‖Av‖²; the interval is the root of its own."""
        square = estimate_mean(np.array(self.squared_norms)).bounded()
        value = math.sqrt(square.value)
        if square.stderr is None:
            return Estimate(value, None, None, square.num_probes)
        stderr = square.stderr / (2 * value) if value else 0.0
        if square.ci95 is None:
            return Estimate(value, stderr, None, square.num_probes)
        interval = (math.sqrt(max(square.ci95[0], 0.0)), math.sqrt(square.ci95[1]))
        return Estimate(value, stderr, interval, square.num_probes)

    def trace_interval(self, alpha: float) -> tuple[float, float]:
        """Bound tr A, wrongly with probability ``alpha`` at most, however few the probes."""
        if self.exact is not None:
            return self.exact, self.exact
        products = np.array(self.quadratic_forms), np.array(self.squared_norms)
        told: list[tuple[Array, Array | None]] = [products] if self.quadratic_forms else []
        if self.forms is not None:
            told.append((np.array(self.forms), None))
        ends = [form_interval(*of, alpha / len(told)) for of in told]  # all hold at once
        low, high = max(float(of[0]) for of in ends), min(float(of[1]) for of in ends)
        return (low, high) if low <= high else (float(ends[-1][0]), float(ends[-1][1]))

    def norm_interval(self, alpha: float) -> tuple[float, float]:
        """Bound ‖A‖_F likewise."""
        low, high = square_interval(np.array(self.squared_norms), alpha)
        return math.sqrt(max(float(low), 0.0)), math.sqrt(float(high))


class TraceSamples:
    """Per-probe samples of one part A: ``vᵀAv``, ``‖Av‖²`` and ``v_lᵀ(Av)_l`` for each layer l.

    ``E vᵀAv = tr A`` and ``E ‖Av‖² = ‖A‖²_F`` (Hutchinson 1990). Variance of the former with
    Rademacher probes: ``2(‖A‖²_F − Σ a_ii²)``.

    Args:
        layers: where each layer lies in the flat vector; empty for no per-layer traces.
        space: in which the probes lie.

    Attributes:
        asymmetry: |vᵀAw − wᵀAv| of the first two probes, beside its scale; None before them.
        exact: tr A, once it is known without sampling.
    """

    def __init__(self, layers: Mapping[str, slice] | None = None, space: Space = FLAT) -> None:
        self.space = space
        self._layers = dict(layers or {})
        self._samples: list[list[float]] = []  # vᵀAv and ‖Av‖², then both of each layer
        self._forms: list[float] = []  # that go with no product
        self.asymmetry: float | None = None
        self.exact: float | None = None

    def __len__(self) -> int:
        return max(len(self._samples), len(self._forms))

    def add(self, probes: Tensor, products: Tensor) -> None:
        """Take in the next probes ``(k, n)`` and their products ``(k, n)``."""
        dots = self.space.dots
        columns = [dots(probes, products), dots(products, products)]
        for at in self._layers.values():
            columns += [dots(probes, products, at), dots(products, products, at)]
        self._samples.extend(np.array(columns).T.tolist())
        if self.asymmetry is None and len(probes) > 1:
            # vᵀ(Aw) = wᵀ(Av) for a symmetric A; relative to the size of a generic entry
            v, w, (_, second) = probes[:1], probes[1:2], products[:2].split(1)
            difference = float(dots(v, second)[0] - dots(w, products[:1])[0])
            scale = math.sqrt(float(dots(v, v)[0] * dots(second, second)[0]))
            self.asymmetry = abs(difference) / scale if scale else 0.0

    def add_forms(self, forms: Array) -> None:
        """Take in the next probes' forms alone, from the first probe on; the trace is then theirs.

        Args:
            forms: ``(k,)``.
        """
        self._forms += forms.tolist()

    def forget_forms(self) -> None:
        """Leave the trace to the products again."""
        self._forms = []

    def freeze(self) -> Samples:
        """Give the samples in the order of the probes, as a value."""
        columns = zip(*self._samples, strict=True)
        forms, squares, *rest = columns if self._samples else ((), ())
        layers = zip(self._layers, zip(rest[::2], rest[1::2], strict=True), strict=True)
        named = {name: Samples(*both) for name, both in layers} if self._samples else {}
        return Samples(forms, squares, named or None, tuple(self._forms) or None, self.exact)

    def trace(self) -> Estimate:
        """Estimate tr A."""
        return self.freeze().trace()

    def frobenius_norm(self) -> Estimate:
        """Estimate ‖A‖_F."""
        return self.freeze().frobenius_norm()

    def layer_traces(self) -> dict[str, Estimate]:
        """Estimate the trace of each layer's diagonal block."""
        return {name: layer.trace() for name, layer in (self.freeze().layers or {}).items()}


def hutchinson(
    probes: Probes,
    samples: Mapping[str, TraceSamples],
    *,
    stop: int,
    chunk: int,
    max_probes: int,
    enough: Callable[[], bool],
    start: int = 0,
) -> Generator[Tensor, Mapping[str, Tensor], None]:
    """Feed the ``samples`` of all parts with ``stop`` probes, then with more until ``enough``.

    All parts see the same probes, as many of them, so that what they tell adds up.

    Cost: one product a probe and part; ``chunk`` probes a pass.

    Args:
        probes: the sequence.
        samples: receive the products, by part.
        stop: probes taken whatever they say.
        chunk: probes asked for at once.
        max_probes: no probe from this index on is taken, but for the first ``stop``.
        enough: says whether the samples suffice; asked after ``stop`` and after each chunk.
        start: index of the first probe.
    """
    index = start
    while index < stop or (not enough() and index < max_probes):
        rows = probes.rows(index, min(index + chunk, stop if index < stop else max_probes))
        products = yield rows
        for part, taken in samples.items():
            taken.add(rows, products[part])
        index += len(rows)
        del rows, products


def estimate_mean(samples: Array, confidence: float = 0.95) -> Estimate:
    """Mean of independent samples ``(k,)`` with standard error and two-sided interval.

    The samples are quadratic forms of random signs, or alike. Such a form is constant, or takes no
    value with a chance above 3/4 (a polynomial of degree two in signs): as long as the rest may
    have gone unseen, ``(3/4)^k > α/2``, nothing is known and the interval has no ends. Beyond, it
    is Student's, pulled back through Hall's monotone transformation, which removes the skewness.
    That of the sample has an error of its own, about ``√(6/k)``; each end takes the skewness that
    is worse for it by 1.5 of these, and by 4 while what has a chance of 1/8 may be unseen, as with
    a rank-one operator of four equal entries. The worst cases are in ``docs/coverage.md``.

    At confidences above 95 % that does not hold: where one is asked for, the interval is that of
    :func:`hessdiag.linalg.quadratic_forms.form_interval`.

    Source: Hall (1992), J. R. Statist. Soc. B 54, 221-228, the cubic transformation.
    """
    count, alpha = len(samples), 1 - confidence
    value = float(np.mean(samples))
    if count < 2:
        return Estimate(value, None, None, count)
    # squares of what is tiny or huge are taken in its own unit, a power of two
    unit = math.ldexp(1.0, math.frexp(float(np.abs(samples).max()))[1] - 1)
    deviation = unit * float(np.std(samples / unit, ddof=1))
    stderr = deviation / math.sqrt(count)
    if confidence > 0.95:
        low, high = form_interval(samples, None, alpha)
        return Estimate(value, stderr, (float(low), float(high)), count)
    if 0.75**count > alpha / 2:
        return Estimate(value, stderr, (-math.inf, math.inf), count)
    quantile = float(special.stdtrit(count - 1, (1 + confidence) / 2)) / math.sqrt(count)
    constant = deviation <= 1e-14 * abs(value)  # rounding: no skewness to speak of
    skew = 0.0 if constant else _skewness((samples - value) / deviation)
    doubt = (1.5 if 0.875**count <= alpha else 4.0) * math.sqrt(6 / count)

    def arm(skew: float) -> float:
        """The length of the upper arm, in standard deviations; of the lower one by mirroring."""
        if abs(skew) < 1e-6:
            return quantile
        return 3 * (1 - math.cbrt(1 - skew * (quantile + skew / (6 * count)))) / skew

    below, above = (max(arm(side * skew), arm(side * skew + doubt)) for side in (-1, 1))
    return Estimate(value, stderr, (value - deviation * below, value + deviation * above), count)


def _skewness(standardised: Array) -> float:
    """Estimate E x³ of samples of mean 0 and variance 1, without the bias of few of them."""
    count = len(standardised)
    return float(np.sum(standardised**3)) * count / ((count - 1) * (count - 2))
