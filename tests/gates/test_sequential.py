"""The sequential test: its verdicts are wrong as seldom as it says, however often it looks."""

import math
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import Tensor

from hessdiag.gates.limits import Limit
from hessdiag.gates.sequential import FIRST_LOOK, SequentialTest, first_look
from hessdiag.gates.verdicts import FAIL, INCONCLUSIVE, PASS
from hessdiag.linalg.trace import Probes, Samples, TraceSamples, hutchinson
from hessdiag.metrics.look import Look, Sampled
from hessdiag.metrics.metric_reading import Reading
from tests.linalg.matrices import symmetric

CHUNK = 16
EQUAL = torch.full((4,), 0.5, dtype=torch.float64)
SPIKE = torch.cat([torch.ones(1), torch.full((20,), 0.1)]).double()
OPERATORS: dict[str, Tensor] = {
    "diagonal and a little": torch.diag(torch.arange(1.0, 9.0).double()) + 0.1,
    "rank one": torch.outer(v := torch.linspace(1, 2, 24, dtype=torch.float64), v),
    "rank one, of four entries": torch.outer(EQUAL, EQUAL),
    "rank one, with a spike": torch.outer(SPIKE, SPIKE),
    "heavy tail": symmetric(np.r_[1.0, 0.5, 0.25, -0.3, np.zeros(20)]),
    "decaying": symmetric(0.6 ** np.arange(20)),
    "negative": -torch.outer(v, v),
    "both signs": symmetric(np.r_[4.0, -3.0, 2.0, np.zeros(17)]),
}


def truth(matrix: Tensor, metric: str) -> tuple[float, float]:
    """Return the metric and the deviation of what one probe tells of it."""
    if metric.endswith("trace"):
        off = matrix - torch.diag(matrix.diagonal())
        return float(matrix.trace()), math.sqrt(2) * float(off.norm())
    norm, square = float(matrix.norm()), matrix @ matrix
    off = square - torch.diag(square.diagonal())
    return norm, math.sqrt(2) * float(off.norm()) / (2 * norm)


def run(
    test: SequentialTest, matrices: Mapping[str, Tensor], seed: int, max_probes: int
) -> dict[str, TraceSamples]:
    """Feed the test with chunks of probes until it has enough; the parts go in lockstep."""
    samples = {part: TraceSamples() for part in matrices}
    rng = np.random.default_rng(seed)
    size = len(next(iter(matrices.values())))
    for start in range(0, max_probes, CHUNK):
        rows = torch.from_numpy(rng.choice(np.array([-1.0, 1.0]), (CHUNK, size)))
        for part, matrix in matrices.items():
            samples[part].add(rows, rows @ matrix)
        if start + CHUNK < FIRST_LOOK:  # hutchinson asks after its first probes
            continue
        if not [part for part in matrices if not test(part, samples)]:
            break
    return samples


def wrong_verdicts(name: str, metric: str, *, gates: int, shift: float, max_probes: int) -> int:
    """Count wrong conclusive verdicts where the metric is beyond the limit by ``shift`` stderr."""
    matrix, wrong = OPERATORS[name], 0
    value, deviation = truth(matrix, metric)
    by = max(shift * deviation / math.sqrt(max_probes), 1e-9)
    for seed in range(gates):
        upper = seed % 2 == 0
        limit = Limit("max" if upper else "min", metric, value - by if upper else value + by)
        test = SequentialTest([(limit, None)], confidence=0.95, max_probes=max_probes)
        run(test, {"hessian": matrix}, seed, max_probes)
        wrong += test.findings[limit].verdict == PASS
    return wrong


@pytest.mark.parametrize("metric", ["hessian.trace", "hessian.frobenius_norm"])
@pytest.mark.parametrize("name", OPERATORS)
def test_of_gates_on_one_operator_hardly_any_is_wrong(name: str, metric: str):
    """The intervals have tables of their own; this is that their levels are shared by the looks."""
    assert wrong_verdicts(name, metric, gates=20, shift=0.0, max_probes=128) <= 1


def test_without_sharing_the_level_looks_would_be_wrong_too_often():
    """The same gates with the 95 % interval at every look: this is what the levels are for."""
    matrix, wrong = OPERATORS["rank one"], 0
    value = float(matrix.trace())
    for seed in range(60):
        rows = torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], (256, 24)))
        samples, verdict = TraceSamples(), INCONCLUSIVE
        for start in range(0, 256, 16):
            chunk = rows[start : start + 16]
            samples.add(chunk, chunk @ matrix)
            ci95 = samples.trace().ci95
            if verdict == INCONCLUSIVE and ci95 and not ci95[0] <= value <= ci95[1]:
                verdict = FAIL
        wrong += verdict != INCONCLUSIVE
    assert wrong > 0.15 * 60


@pytest.mark.parametrize("confidence", [0.95, 0.999])
def test_limits_ten_percent_off_are_decided_by_some_hundred_probes(confidence: float):
    """A hundred limits on one dense operator, as friendly as networks are."""
    matrix, most = symmetric(np.exp(-np.arange(120) / 20)), 512
    rows = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], (most, 120)))
    trace, norm = float(matrix.trace()), float(matrix.norm())
    limits = [Limit("max", "hessian.trace", trace * (1.1 + 1e-6 * i)) for i in range(50)]
    limits += [Limit("min", "hessian.frobenius_norm", norm * (1.1 + 1e-6 * i)) for i in range(50)]
    test = SequentialTest(
        [(limit, None) for limit in limits], confidence=confidence, max_probes=most
    )
    samples = TraceSamples()
    for chunk in rows.split(CHUNK):
        samples.add(chunk, chunk @ matrix)
        if len(samples) >= FIRST_LOOK and test("hessian", {"hessian": samples}):
            break
    verdicts = [test.findings[limit].verdict for limit in limits]
    assert verdicts == [PASS] * 50 + [FAIL] * 50


def test_clear_limits_are_decided_at_the_first_look():
    matrix = OPERATORS["decaying"]
    limits = [Limit("max", "hessian.trace", 100.0), Limit("min", "hessian.frobenius_norm", 90.0)]
    test = SequentialTest([(limit, None) for limit in limits], confidence=0.95, max_probes=512)
    samples = run(test, {"hessian": matrix}, 0, 512)
    assert len(samples["hessian"]) == FIRST_LOOK
    assert [test.findings[limit].verdict for limit in limits] == [PASS, FAIL]


def test_probes_are_added_until_the_budget_is_spent():
    limit = Limit("max", "hessian.trace", float(OPERATORS["rank one"].trace()))
    test = SequentialTest([(limit, None)], confidence=0.999, max_probes=112)
    samples = run(test, {"hessian": OPERATORS["rank one"]}, 1, 112)
    assert len(samples["hessian"]) == 112
    assert test.findings[limit].verdict == INCONCLUSIVE
    reading = test.findings[limit].reading
    assert reading is not None
    assert reading.num_probes == 112  # a last look is made at the budget, not at 128


def test_looks_are_at_the_doubled_numbers_of_probes_and_share_the_level(
    monkeypatch: pytest.MonkeyPatch,
):
    seen: list[tuple[int, float]] = []
    bound = Samples.trace_interval

    def look(self: Samples, alpha: float) -> tuple[float, float]:
        seen.append((len(self), alpha))
        return bound(self, alpha)

    monkeypatch.setattr(Samples, "trace_interval", look)
    limits = [Limit("max", "hessian.trace", float(OPERATORS["rank one"].trace()))]
    limits.append(Limit("min", "hessian.trace", limits[0].bound))
    test = SequentialTest([(limit, None) for limit in limits], confidence=0.9, max_probes=200)
    run(test, {"hessian": OPERATORS["rank one"]}, 1, 200)
    assert seen[::2] == seen[1::2]
    assert [count for count, _ in seen[::2]] == [32, 64, 128, 208]  # chunks of 16
    assert sum(alpha for _, alpha in seen) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("alpha", "probes"), [(0.05, 32), (0.004, 64), (0.001 / 100, 128), (1e-9, 128), (1e-12, 256)]
)
def test_the_first_look_comes_later_at_small_levels(alpha: float, probes: int):
    assert first_look(alpha) == probes


def test_no_probes_are_added_when_the_time_is_spent():
    limit = Limit("max", "hessian.trace", float(OPERATORS["rank one"].trace()))
    late = iter([False, False, True])
    test = SequentialTest(
        [(limit, None)], confidence=0.95, max_probes=1024, is_late=lambda: next(late)
    )
    samples = run(test, {"hessian": OPERATORS["rank one"]}, 1, 1024)
    assert len(samples["hessian"]) == FIRST_LOOK + 2 * CHUNK


def test_a_decided_limit_stays_decided_and_its_part_is_sampled_no_further():
    """The part gn is decided at once, hessian never: gn's samples alone stop."""
    matrix = OPERATORS["rank one"]
    samples = {part: TraceSamples() for part in ("gn", "hessian")}
    rows = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], (32, 24)))
    for part in samples:
        samples[part].add(rows, rows @ matrix)
    estimated = samples["hessian"].trace().value
    limits = [Limit("max", "gn.trace", 1e6), Limit("max", "hessian.trace", estimated)]
    test = SequentialTest([(limit, None) for limit in limits], confidence=0.95, max_probes=64)
    assert test("gn", samples)
    assert not test("hessian", samples)
    first = test.findings[limits[0]]
    samples["hessian"].add(rows, rows @ matrix)
    assert test("hessian", samples) is False
    assert test.findings[limits[0]] is first


def test_half_of_a_level_belongs_to_the_baseline():
    matrix = OPERATORS["decaying"]
    limit = Limit("max-increase", "hessian.trace", 100.0)
    other = TraceSamples()
    rows = torch.from_numpy(np.random.default_rng(9).choice([-1.0, 1.0], (64, 20)))
    other.add(rows, rows @ matrix)
    base = limit.parsed.read(Look({"hessian": Sampled(other.freeze())}))
    assert isinstance(base, Reading)
    test = SequentialTest([(limit, base)], confidence=0.9, max_probes=32)
    samples = run(test, {"hessian": matrix}, 0, 32)
    low, high = samples["hessian"].freeze().trace_interval(0.05)
    below, above = other.freeze().trace_interval(0.05)
    assert test.findings[limit].interval == pytest.approx((low - above, high - below))


def test_the_ratio_takes_half_of_the_level_for_each_norm():
    matrices = {"nme": OPERATORS["both signs"], "gn": OPERATORS["decaying"]}
    limit = Limit("max", "nme_to_gn", 1e9)
    test = SequentialTest([(limit, None)], confidence=0.9, max_probes=32)
    samples = run(test, matrices, 0, 32)
    above, below = (samples[part].freeze().norm_interval(0.05) for part in ("nme", "gn"))
    finding = test.findings[limit]
    assert finding.interval == pytest.approx((above[0] / below[1], above[1] / below[0]))
    assert finding.reading is not None
    assert finding.reading.value == pytest.approx(
        samples["nme"].frobenius_norm().value / samples["gn"].frobenius_norm().value
    )


def test_the_ratio_covers_the_truth():
    matrices = {"nme": OPERATORS["both signs"], "gn": OPERATORS["decaying"]}
    true = float(matrices["nme"].norm() / matrices["gn"].norm())
    limit = Limit("max", "nme_to_gn", true * (1 - 1e-9))
    verdicts = []
    for seed in range(20):
        test = SequentialTest([(limit, None)], confidence=0.95, max_probes=64)
        run(test, matrices, seed, 64)
        verdicts.append(test.findings[limit].verdict)
    assert verdicts.count(PASS) <= 1


def test_a_ratio_over_nothing_is_no_finding():
    limit = Limit("max", "nme_to_gn", 1.0)
    test = SequentialTest([(limit, None)], confidence=0.95, max_probes=32)
    run(test, {"nme": torch.eye(4).double(), "gn": torch.zeros(4, 4).double()}, 0, 32)
    assert limit not in test.findings


def test_the_rule_stops_hutchinson():
    matrix = OPERATORS["decaying"]
    limit = Limit("max", "hessian.trace", 1e3)
    test = SequentialTest([(limit, None)], confidence=0.95, max_probes=64)
    samples = {"hessian": TraceSamples()}
    sampler = hutchinson(
        Probes(20, seed=0, dtype=torch.float64, device=torch.device("cpu")),
        samples,
        stop=FIRST_LOOK,
        chunk=CHUNK,
        max_probes=64,
        enough=lambda: test("hessian", samples),
    )
    rows = next(sampler)
    with suppress(StopIteration):
        while True:
            rows = sampler.send({"hessian": rows @ matrix})
    assert len(samples["hessian"]) == FIRST_LOOK
    assert test.findings[limit].verdict == PASS
