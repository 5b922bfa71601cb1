"""How often the gate's intervals are wrong on matrices that deceive; writes docs/verdicts.md.

    python benchmarks/verdicts.py

A verdict can only be wrong where an interval misses its metric. Fresh gates look after 32, 64, …
probes until the budget is spent, stored reports are looked at once; a gate of M limits, each on a
matrix and probes of its own, is wrong if any of them is. Takes about a minute.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hessdiag.gates.limits import Limit
from hessdiag.gates.sequential import SequentialTest
from hessdiag.linalg.quadratic_forms import form_interval, square_interval

HARMONIC = 1 / np.arange(1, 25)
OPERATORS = {
    **{f"rank one of {m} equal entries": np.ones((m, m)) / m for m in (2, 3, 4, 8, 32)},
    "negative, rank one of 16": -np.ones((16, 16)) / 16,
    "sparse diagonal": np.diag(np.r_[np.ones(3), np.full(20, 1e-3)]) + 1e-4,
    "trace zero": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "heavy tail": np.outer(HARMONIC, HARMONIC),
    "six scales": np.kron(np.diag(10.0 ** -np.arange(6)), np.ones((4, 4)) / 4),
}
CELLS = (  # confidence, limits, seeds, budget
    *((confidence, 1, 2000, 128) for confidence in (0.95, 0.99, 0.999)),
    *((confidence, 10, 200, 128) for confidence in (0.95, 0.999)),
    *((confidence, 100, 20, 128) for confidence in (0.95, 0.999)),
)
PROSE = """# How often a gate is wrong

Made by `benchmarks/verdicts.py`: gates on matrices whose samples deceive, as what matters is seldom
seen. Each cell counts the gates, of all seeds, of which any interval of any limit missed its metric
by more than 1e-6 of it, so that a limit placed there would have been decided wrongly; first fresh
gates with all their looks, up to 128 probes, then stored reports of 32 probes. Traces and Frobenius
norms take turns as metrics.
"""


def wrong(matrix: np.ndarray, confidence: float, limits: int, seeds: int, budget: int) -> str:
    """Count the wrong gates, fresh and stored."""
    probes = np.random.default_rng(0).choice([-1.0, 1.0], (seeds * limits, budget, len(matrix)))
    products = probes @ matrix
    forms, squares = (probes * products).sum(-1), (products**2).sum(-1)
    truths = float(np.trace(matrix)), float(np.sum(matrix**2))
    asked = [(Limit("max", "gn.trace", float(i)), None) for i in range(limits)]
    test = SequentialTest(asked, confidence=confidence, max_probes=budget)
    looks = [min(test.first << look, budget) for look in range(test.num_looks)]
    counts: list[int] = []
    for numbers, alpha in ((looks, test.alpha), ([32], (1 - confidence) / limits)):
        missed = np.zeros(seeds * limits, bool)
        of_trace = np.arange(seeds * limits) % 2 == 0
        for count in numbers:
            traces = form_interval(forms[:, :count], squares[:, :count], alpha)
            norms = square_interval(squares[:, :count], alpha)
            for chosen, ends, truth in (
                (of_trace, traces, truths[0]),
                (~of_trace, norms, truths[1]),
            ):
                slack = 1e-6 * max(abs(truth), 1e-3)
                out = (ends[0] > truth + slack) | (ends[1] < truth - slack)
                missed |= chosen & out
        counts.append(int(missed.reshape(seeds, limits).any(1).sum()))
    return f"{counts[0]}, {counts[1]}"


def main() -> None:
    """Write the table."""
    heads = [f"{100 * c:g} %, {m} limit{'s' * (m > 1)}, {s:,} seeds" for c, m, s, _ in CELLS]
    most = [f"≤ {(1 - c) * s:.3g}" for c, _, s, _ in CELLS]
    lines = [PROSE, f"| matrix | {' | '.join(heads)} |", "|---" * (len(CELLS) + 1) + "|"]
    lines.append(f"| promised, of each | {' | '.join(most)} |")
    for name, matrix in OPERATORS.items():
        lines.append(f"| {name} | {' | '.join(wrong(matrix, *cell) for cell in CELLS)} |")
        print(lines[-1], flush=True)
    place = Path(__file__).parents[1] / "docs" / "verdicts.md"
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
