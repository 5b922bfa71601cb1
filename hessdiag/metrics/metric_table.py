"""The table of metrics: name, what it is, how it is read. All commands take them from here.

A new metric is a row: gates, comparisons, tracking, sweeps, reports and ``--help`` follow.
Imports no torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hessdiag.errors import InputError, unknown
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
        form: its name, where ``<part>``, ``<i>``, ``<class>`` and ``<parameter>`` stand for a part
            of the decomposition, a place from 0, a label and a parameter's name.
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
        marks = {
            "<part>": "|".join(PARTS),
            "<i>": r"\d{1,4}",
            "<class>": r"\d+",
            "<parameter>": ".+",
        }
        for mark, choices in marks.items():
            pattern = pattern.replace(mark, f"({choices})")
        return re.fullmatch(pattern, name)

    @property
    def source(self) -> str:
        """That of its metrics."""
        marks = re.findall(r"<\w+>", self.form)
        return self.make(*("gn" if mark == "<part>" else "0" for mark in marks)).source

    @property
    def names(self) -> list[str]:
        """Its names; the form itself where places or parameters are to be chosen."""
        if any(mark in self.form for mark in ("<i>", "<class>", "<parameter>")):
            return [self.form]
        return list(dict.fromkeys(self.form.replace("<part>", part) for part in PARTS))


def _trace(
    part: str, layer: str | None = None, *, lacking: str = "there is no such parameter"
) -> Metric:
    def take(result: Any) -> Estimate | Missing:
        if layer is None:
            return result.parts[part].trace
        layers: dict[str, Estimate] = result.parts[part].layers or {}
        return layers.get(layer) or Missing(lacking)

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


def _elsewhere(name: str, source: str, metric: Metric) -> Metric:
    """Read what another source holds in the manner of a spectrum."""
    return replace(metric, name=name, source=source)


def _class_trace(part: str, label: str) -> Metric:
    trace = _trace(part, label, lacking=f"no example is of class {label}")
    return _elsewhere(f"{part}.classes.{label}.trace", "classes", trace)


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
        lambda: _elsewhere("perturbation.gap", "perturbation", _trace("gap")),
    ),
    Row(
        "perturbation.trace",
        "2/σ² of that, to be compared with tr H",
        lambda: _elsewhere("perturbation.trace", "perturbation", _trace("trace")),
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
        "preconditioned.lambda_max",
        "largest eigenvalue of P^(-1/2) H P^(-1/2), P = √v̂ + ε of Adam",
        lambda: _elsewhere(
            "preconditioned.lambda_max", "preconditioned", _eigenvalue("top", "hessian")
        ),
    ),
    Row("<part>.classes.<class>.trace", "trace over the examples of a class", _class_trace),
    Row(
        "fisher.trace",
        "tr F by labels drawn from the network: tr G",
        lambda: _elsewhere("fisher.trace", "fisher", _trace("gn")),
    ),
    Row(
        "fisher.nme_trace",
        "tr N of such labels: 0 in the mean",
        functools.partial(_number, "fisher.nme_trace", "nme_trace", source="fisher"),
    ),
    Row(
        "ntk.trace",
        "tr JJᵀ/N, of the empirical neural tangent kernel",
        lambda: _elsewhere("ntk.trace", "ntk", _trace("gn")),
    ),
    Row(
        "ntk.lambda_max",
        "its largest eigenvalue",
        lambda: _elsewhere("ntk.lambda_max", "ntk", _eigenvalue("top", "gn")),
    ),
    Row(
        "ntk.change",
        "1 − cos(Θ̂, Θ̂₀) of that kernel and the one at the start of a run",
        functools.partial(
            _number,
            "ntk.change",
            "change",
            source="kernel",
            lacking="it is tracked along a run, from its start",
        ),
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

_BY_OTHERS = {
    "spectrum": "what a spectrum holds by itself, or by options of its own",
    "sparsity": "what hessdiag sparsity measures",
    "kernel": "what is tracked along a run",
}
"""Why the metrics of a source are not to be added to a spectrum."""

FURTHER = ", ".join(row.form for row in TABLE if row.source not in _BY_OTHERS)
"""Metrics that a spectrum holds where they are asked for, as help lists them."""


def label(name: str) -> str:
    """Call a metric as a list of readings does: what every spectrum holds by what it is."""
    return next(row.meaning for row in TABLE if row.match(name)) if name in LISTED else name


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
    """Read a spectrum's metrics that are listed, by their names, and what was added to it."""
    found = {name: parse(name).read(result) for name in LISTED}
    known = {name: reading for name, reading in found.items() if not isinstance(reading, Missing)}
    return known | result.metrics


def further(names: Iterable[str]) -> dict[str, Metric]:
    """Find the metrics that a spectrum holds where they are asked for, by name.

    ``*`` in the place of a class stands for all of them.

    Raises:
        InputError: there is none of that name, or none that a spectrum can be asked for.
    """
    found = {name: parse(name.replace(".classes.*.", ".classes.0.")) for name in names}
    for name, metric in found.items():
        if (reason := _BY_OTHERS.get(metric.source)) is not None:
            raise InputError(f"{name} is not to be asked for", got=reason, wanted=FURTHER)
    return found


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
