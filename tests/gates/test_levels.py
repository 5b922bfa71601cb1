"""All limits of a gate together are wrong as seldom as it promises, eigenvalues among them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import hessdiag
from hessdiag.gates.levels import Levels
from hessdiag.gates.limits import Limit
from hessdiag.gates.sequential import FIRST_LOOK, SequentialTest
from hessdiag.gates.verdicts import INCONCLUSIVE, judge
from hessdiag.linalg.trace import TraceSamples
from hessdiag.metrics.look import Look, Sampled
from hessdiag.metrics.metric import eigenvalue_confidence
from hessdiag.metrics.metric_reading import Reading
from tests.linalg.matrices import symmetric

RUN = 1 - eigenvalue_confidence()
TRACE, TOP = Limit("max", "gn.trace", 1.0), Limit("max", "gn.lambda_max", 1.0)


@pytest.mark.parametrize(
    ("limits", "runs"),
    [
        ([], 0),
        ([TRACE], 0),
        ([TOP, TRACE], 1),
        ([TOP, Limit("min", "gn.bottom.3", 0.0)], 1),  # of one part: one run
        ([TOP, Limit("min", "nme.lambda_min", 0.0)], 2),
        ([Limit("max-increase", "gn.lambda_max", 0.1)], 2),  # the baseline's is another
    ],
)
def test_the_intervals_of_eigenvalues_take_their_chance_from_the_level(
    limits: list[Limit], runs: int
):
    assert Levels.of(limits, 0.05).sampled == pytest.approx(0.05 - runs * RUN, rel=1e-12)


def test_a_confidence_above_that_of_eigenvalues_leaves_their_outer_end_open():
    levels = Levels.of([TOP, TRACE], 1e-6)
    assert levels.sampled == 1e-6
    reading = Reading(2.0, 0.1, interval=(2.0, 2.1))
    assert TOP.parsed.interval(reading, 1 - levels.of_one(TOP)) == (2.0, math.inf)
    sure = Levels.of([TOP, TRACE], 1e-3)
    assert TOP.parsed.interval(reading, 1 - sure.of_one(TOP)) == (2.0, 2.1)


def wrong_gates(num_limits: int, confidence: float, gates: int, budget: int) -> tuple[int, int]:
    """Count fresh and stored gates that pass any of the limits, each broken by 1e-6.

    The limits are on layers of rank one, of 4 and of 32 equal entries in turn.
    """
    sizes = [(4, 32)[i % 2] for i in range(num_limits)]
    ends = np.cumsum([0, *sizes])
    layers = {f"l{i}": slice(ends[i], ends[i + 1]) for i in range(num_limits)}
    blocks = [torch.ones(n, n, dtype=torch.float64) / n for n in sizes]
    limits = [Limit("max", f"gn.layers.{name}.trace", 1 - 1e-6) for name in layers]
    fresh = stored = 0
    for seed in range(gates):
        test = SequentialTest(
            [(limit, None) for limit in limits], confidence=confidence, max_probes=budget
        )
        samples, rng = TraceSamples(layers), np.random.default_rng(seed)
        for _ in range(0, budget, FIRST_LOOK):
            rows = torch.from_numpy(rng.choice([-1.0, 1.0], (FIRST_LOOK, ends[-1])))
            parts = [row @ block for row, block in zip(rows.split(sizes, 1), blocks, strict=True)]
            samples.add(rows, torch.cat(parts, 1))
            if test("gn", {"gn": samples}):
                break
            if len(samples) == FIRST_LOOK:
                report = Look({"gn": Sampled(samples.freeze())})
                stored += any(
                    passes(limit, report, (1 - confidence) / num_limits) for limit in limits
                )
        fresh += any(finding.verdict == "pass" for finding in test.findings.values())
    return fresh, stored


def passes(limit: Limit, report: Look, alpha: float) -> bool:
    reading = limit.parsed.read(report)
    assert isinstance(reading, Reading)
    return judge(limit, reading, limit.parsed.interval(reading, 1 - alpha)).verdict == "pass"


@pytest.mark.parametrize(("num_limits", "gates"), [(1, 200), (10, 40)])
@pytest.mark.parametrize("confidence", [0.95, 0.999])
def test_of_gates_with_several_limits_hardly_any_is_wrong(
    num_limits: int, gates: int, confidence: float
):
    assert max(wrong_gates(num_limits, confidence, gates, 64)) <= 2


@pytest.mark.slow
@pytest.mark.parametrize(("num_limits", "gates"), [(1, 500), (10, 100), (100, 20)])
@pytest.mark.parametrize("confidence", [0.95, 0.99, 0.999])
def test_of_gates_with_many_limits_no_more_are_wrong_than_promised(
    num_limits: int, gates: int, confidence: float
):
    """A small version of docs/verdicts.md, up to 128 probes."""
    promised = (1 - confidence) * gates
    for wrong in wrong_gates(num_limits, confidence, gates, 128):
        assert wrong <= promised + 2 * math.sqrt(promised) + 1


class Quadratic(nn.Module):
    """z = ½ θᵀAθ, whose Hessian is A; with the loss z, H = N."""

    def __init__(self, matrix: torch.Tensor):
        super().__init__()
        self.matrix, self.theta = matrix, nn.Parameter(matrix.new_zeros(len(matrix)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((self.theta @ self.matrix) @ self.theta / 2).reshape(1, 1).expand(len(x), 1)


@pytest.mark.parametrize("ratio", [400.0, 4e4])
@pytest.mark.parametrize("top", [False, True])
def test_an_end_far_below_the_scale_decides_its_limits(ratio: float, top: bool):
    """Lanczos has long converged beside the scale; the gate has it go on for the limit's sake."""
    spectrum = np.r_[-1 / ratio, np.linspace(0.0, 0.3, 150), 1.0]
    matrix = symmetric(-spectrum if top else spectrum).float()
    name, sign = ("lambda_max", 1) if top else ("lambda_min", -1)
    true = 1 / ratio * sign
    for kind, factor, verdict in (
        ("max" if top else "min", 2.0, "pass"),
        ("max" if top else "min", 0.5, "fail"),
    ):
        found = hessdiag.gate(
            Quadratic(matrix),
            [(torch.zeros(1, 1), torch.zeros(1))],
            {kind: {f"hessian.{name}": factor * true}},
            loss=lambda z, _: z.mean(),
        )
        assert found.verdict == verdict
        assert found.findings[0].interval is not None
        low, high = found.findings[0].interval
        assert low - 1e-7 <= true <= high + 1e-7


def test_what_rounding_hides_stays_undecided():
    matrix = symmetric(np.r_[-1e-9, np.linspace(0.0, 0.3, 60), 1.0]).float()
    found = hessdiag.gate(
        Quadratic(matrix),
        [(torch.zeros(1, 1), torch.zeros(1))],
        {"min": {"hessian.lambda_min": -2e-9}},
        loss=lambda z, _: z.mean(),
    )
    assert found.verdict == INCONCLUSIVE
