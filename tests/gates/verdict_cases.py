"""Gates with all verdicts, and with names that would like to be more than names."""

import math

from hessdiag.gates.gate_result import GateCost, GateReport, GateSettings
from hessdiag.gates.limits import Limit
from hessdiag.gates.verdicts import FAIL, INCONCLUSIVE, PASS, Finding
from hessdiag.metrics.metric_reading import Reading

HOSTILE = (
    "a|b`c*_<script>alert(1)</script>&amp;[x](http://evil) \x1b[31m\x00\x07\r::error::x%0A,:]]>"
)
"""Part of a parameter's name."""


def gate_of(*findings: Finding) -> GateReport:
    return GateReport.judged(
        findings,
        GateSettings(0.95, 1024, None, 0),
        {f.limit.metric: f.reading for f in findings if f.reading},
        GateCost(1.25, 64),
        num_parameters=10,
        num_samples=20,
    )


def gate() -> GateReport:
    """Every verdict."""
    trace = Reading(10.0, 1.0, (8.0, 12.0), 64)
    increase = Limit("max-increase", "nme.trace", 0.1, relative=True)
    return gate_of(
        Finding(Limit("min", "accuracy", 0.5), PASS, "it is 0.75", Reading(0.75), (0.75, 0.75)),
        Finding(Limit("max", "hessian.trace", 5.0), FAIL, "it is too large", trace, (8.0, 12.0)),
        Finding(increase, INCONCLUSIVE, "who knows", trace, (-math.inf, math.inf), trace),
        Finding(Limit("max", "gn.trace", 5.0), FAIL, "it is missing: null"),
    )


def hostile() -> GateReport:
    """A parameter's name that would like to be more."""
    metric = f"hessian.layers.{HOSTILE}.trace"
    return gate_of(Finding(Limit("max", metric, 5.0), FAIL, "it is missing: null"))
