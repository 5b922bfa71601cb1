"""The table of metrics: name, what it is, how it is read. All commands take them from here.

A new metric is a row: gates, comparisons, tracking, sweeps, reports and ``--help`` follow.
Imports no torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hessdiag.errors import unknown
from hessdiag.metrics.metric import Interval, Metric, Missing
from hessdiag.parts import PARTS

if TYPE_CHECKING:
    from hessdiag.linalg.lanczos import RitzValue
    from hessdiag.linalg.trace import Array, Estimate
    from hessdiag.metrics.metric import Chosen
    from hessdiag.metrics.metric_reading import Reading


@dataclass(frozen=True)
class Row:
    """A metric, or all metrics of one form.

    Attributes:
        form: its name, where ``<part>``, ``<i>`` and ``<parameter>`` stand for a part of the
            decomposition, a place from 0 and a parameter's name.
        meaning: in a few words, as help shows it.
        make: makes the metric of what stands for these, in order.
        common: whether every spectrum holds it, so that it is measured where none is named.
    """

    form: str
    meaning: str
    make: Callable[..., Metric]
    common: bool = False

    def match(self, name: str) -> re.Match[str] | None:
        """Tell whether ``name`` is of this form, and what its marks stand for."""
        pattern = re.escape(self.form)
        marks = {"<part>": "|".join(PARTS), "<i>": r"\d{1,4}", "<parameter>": ".+"}
        for mark, choices in marks.items():
            pattern = pattern.replace(mark, f"({choices})")
        return re.fullmatch(pattern, name)

    @property
    def names(self) -> list[str]:
        """Its names; the form itself where places or parameters are to be chosen."""
        if "<i>" in self.form or "<parameter>" in self.form:
            return [self.form]
        return list(dict.fromkeys(self.form.replace("<part>", part) for part in PARTS))


def _trace(part: str, layer: str | None = None) -> Metric:
    def take(result: Any) -> Estimate | Missing:
        if layer is None:
            return result.parts[part].trace
        layers: dict[str, Estimate] = result.parts[part].layers or {}
        return layers.get(layer) or Missing("there is no such parameter")

    def linearised(samples: Chosen) -> Array:
        import numpy as np

        return np.array(samples[part].trace_forms)

    return Metric(
        f"{part}.trace" if layer is None else f"{part}.layers.{layer}.trace",
        take,
        parts=(part,),
        layer=layer,
        bound=lambda samples, alpha: samples[part].trace_interval(alpha),
        linearised=linearised,
    )


def _norm(part: str) -> Metric:
    def linearised(samples: Chosen) -> Array:
        from hessdiag.metrics.norm_ratio import linearised_norm

        return linearised_norm(samples[part].squared_norms)

    return Metric(
        f"{part}.frobenius_norm",
        lambda result: result.parts[part].frobenius_norm,
        parts=(part,),
        bound=lambda samples, alpha: samples[part].norm_interval(alpha),
        linearised=linearised,
    )


def _eigenvalue(end: str, part: str, place: str = "0") -> Metric:
    index = int(place)

    def take(result: Any) -> RitzValue | Missing:
        values: tuple[RitzValue, ...] = getattr(result.parts[part], end)
        if index < len(values):
            return values[index]
        return Missing(f"of {part} there are {len(values)} {end} eigenvalues")

    side = 1 if end == "top" else -1
    return Metric(f"{part}.{end}.{index}", take, parts=(part,), top_k=index + 1, end=side)


def _nme_to_gn() -> Metric:
    def take(result: Any) -> Estimate | Missing:
        from hessdiag.metrics.norm_ratio import fieller, independent_ratio

        nme, gn = result.parts["nme"], result.parts["gn"]
        if gn.frobenius_norm.value == 0:
            return Missing("the Gauss-Newton part is zero")
        if nme.samples is None or gn.samples is None:
            return independent_ratio(nme.frobenius_norm, gn.frobenius_norm)
        return fieller(nme.samples.squared_norms, gn.samples.squared_norms)

    def bound(samples: Chosen, alpha: float) -> Interval:
        from hessdiag.metrics.norm_ratio import quotient

        return quotient(*(samples[part].norm_interval(alpha / 2) for part in ("nme", "gn")))

    def linearised(samples: Chosen) -> Array:
        from hessdiag.metrics.norm_ratio import linearised_ratio

        return linearised_ratio(samples["nme"].squared_norms, samples["gn"].squared_norms)

    return Metric("nme_to_gn", take, parts=("nme", "gn"), bound=bound, linearised=linearised)


def _number(name: str, attribute: str, *, source: str = "spectrum", lacking: str = "") -> Metric:
    def take(result: Any) -> Any:
        value = getattr(result, attribute)
        return Missing(lacking or "it is null") if value is None else value

    return Metric(name, take, source=source)


TABLE = (
    Row("<part>.trace", "tr A", _trace, common=True),
    Row("<part>.frobenius_norm", "‖A‖_F", _norm, common=True),
    Row(
        "<part>.lambda_max",
        "largest eigenvalue",
        functools.partial(_eigenvalue, "top"),
        common=True,
    ),
    Row(
        "<part>.lambda_min",
        "smallest eigenvalue",
        functools.partial(_eigenvalue, "bottom"),
        common=True,
    ),
    Row("<part>.top.<i>", "the i-th after the largest", functools.partial(_eigenvalue, "top")),
    Row(
        "<part>.bottom.<i>",
        "the i-th after the smallest",
        functools.partial(_eigenvalue, "bottom"),
    ),
    Row("<part>.layers.<parameter>.trace", "trace of a parameter's diagonal block", _trace),
    Row("nme_to_gn", "‖N‖_F/‖G‖_F", _nme_to_gn, common=True),
    Row("loss", "mean loss", functools.partial(_number, "loss", "loss"), common=True),
    Row(
        "accuracy",
        "share of right predictions",
        functools.partial(_number, "accuracy", "accuracy", lacking="the targets are not classes"),
        common=True,
    ),
    Row(
        "gradient.norm",
        "‖∇L‖",
        functools.partial(_number, "gradient.norm", "gradient_norm"),
        common=True,
    ),
    Row(
        "sparsity.nonzero",
        "share of pre-activations with φ'' ≠ 0",
        functools.partial(_number, "sparsity.nonzero", "nonzero", source="sparsity"),
    ),
    Row(
        "sparsity.above",
        "share with |φ''| above a thousandth of its maximum",
        functools.partial(_number, "sparsity.above", "above", source="sparsity"),
    ),
    Row(
        "perturbation.gap",
        "E L(θ + ε) − L(θ)",
        functools.partial(_number, "perturbation.gap", "gap", source="perturbation"),
    ),
    Row(
        "perturbation.trace",
        "2/σ² of that, to be compared with tr H",
        functools.partial(_number, "perturbation.trace", "trace", source="perturbation"),
    ),
    Row(
        "sharpness.sam",
        "L(θ + ρ ĝ) − L(θ), ρ = 0.05",
        functools.partial(_number, "sharpness.sam", "sam", source="sharpness"),
    ),
    Row(
        "sharpness.adaptive",
        "the same for ASAM's step, ρ = 0.5",
        functools.partial(_number, "sharpness.adaptive", "adaptive", source="sharpness"),
    ),
    Row(
        "sharpness.critical",
        "2/η of the smallest step against the gradient that does not lower the loss",
        functools.partial(
            _number,
            "sharpness.critical",
            "critical",
            source="sharpness",
            lacking="no step raises the loss",
        ),
    ),
    Row(
        "ntk.trace",
        "tr JJᵀ/N, of the empirical neural tangent kernel",
        functools.partial(_number, "ntk.trace", "trace", source="ntk"),
    ),
    Row(
        "ntk.lambda_max",
        "its largest eigenvalue",
        functools.partial(_number, "ntk.lambda_max", "lambda_max", source="ntk"),
    ),
)
"""All metrics; a name means the first row that it fits."""

NAMES = tuple(name for row in TABLE if row.common for name in row.names)
"""Metrics of every spectrum."""

OWN = ("trace", "frobenius_norm", "lambda_max", "lambda_min", "loss", "accuracy")
"""What reports lay out with columns and rows of their own; all other metrics are listed."""

LISTED = tuple(name for name in NAMES if name.rpartition(".")[2] not in OWN)
"""Metrics of every spectrum that are listed by name."""

FORMS = ", ".join(row.form for row in TABLE)
"""All metrics, as help lists them."""


def meaning(name: str) -> str:
    """Say what a metric of the table is, as its row does."""
    return next(row.meaning for row in TABLE if row.match(name))


@functools.cache
def find(name: str) -> Metric | None:
    """Find a metric by any of its names; None if there is none."""
    for row in TABLE:
        if match := row.match(name):
            return row.make(*match.groups())
    return None


def parse(name: str, *, what: str = "metric") -> Metric:
    """Find a metric by any of its names.

    Raises:
        InputError: there is none of that name.
    """
    metric = find(name)
    if metric is None:
        raise unknown(what, name, [known for row in TABLE for known in row.names])
    return metric


def readings(result: Any) -> dict[str, Reading]:
    """Read those metrics of a spectrum that are listed, by their names."""
    found = {name: parse(name).read(result) for name in LISTED}
    return {name: reading for name, reading in found.items() if not isinstance(reading, Missing)}


_END = {
    frozenset({1, -1}): "both",
    frozenset({1}): "top",
    frozenset({-1}): "bottom",
    frozenset[int](): "none",
}


def settings(metrics: Iterable[Metric]) -> dict[str, Any]:
    """Choose the least settings of a spectrum that holds all ``metrics``."""
    chosen = list(metrics)
    wanted = {part for metric in chosen for part in metric.parts}
    parts = tuple(part for part in PARTS if part in wanted) or ("gn",)
    ends = {part: {m.end for m in chosen if part in m.parts} - {0} for part in parts}
    words = {part: _END[frozenset(signs)] for part, signs in ends.items()}
    each = ",".join(f"{part}={word}" for part, word in words.items())
    return {
        "parts": parts,
        "top_k": max((metric.top_k for metric in chosen), default=0),
        "ends": words[parts[0]] if len(set(words.values())) == 1 else each,
        "density": False,
        "per_layer": any(metric.layer is not None for metric in chosen),
    }
