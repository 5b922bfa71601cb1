"""Count how often intervals of traces and norms hold, on operators made to be missed.

Run as ``python benchmarks/coverage.py > docs/coverage.md``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hessdiag.linalg.trace import Samples

SEEDS = 2000
PROBES = (2, 4, 8, 12, 13, 16, 20, 24, 32, 64)


def equal(count: int) -> NDArray[np.floating]:
    """A rank-one operator with so many equal entries."""
    return np.full((count, count), 1 / count)


def operators() -> dict[str, NDArray[np.floating]]:
    """Matrices by what they are."""
    rng = np.random.default_rng(0)
    spike = np.r_[1.0, np.full(20, 0.1)]
    between = np.zeros((24, 24))  # ReLU's N: products of weights of different layers alone
    between[:12, 12:] = np.outer(rng.exponential(1, 12), rng.exponential(1, 12))
    tails = rng.standard_cauchy((20, 20))
    generic = rng.standard_normal((40, 40))
    return {
        **{f"rank one, {count} equal entries": equal(count) for count in (2, 3, 4, 8, 32)},
        "rank one, a spike and 20 small": np.outer(spike, spike),
        "sparse diagonal": np.diag(rng.standard_normal(40) * (rng.random(40) < 0.1)),
        "sparse diagonal and a little": np.diag(np.r_[5.0, np.zeros(19)]) + 0.05,
        "N of a ReLU network": between + between.T,
        "heavy tails": tails + tails.T,
        "trace 0, rank two": np.kron(np.diag([1.0, -1.0]), equal(4)),
        "trace 0, two entries": np.array([[0.0, 1.0], [1.0, 0.0]]),
        "rare and large beside small": np.kron(np.diag([1.0, 0.01]), equal(3)),
        "generic": generic + generic.T,
        "generic, times 1e-30": 1e-30 * (generic + generic.T),
        "rank one, 4 equal entries, times 1e+30": 1e30 * equal(4),
    }


def coverage(matrix: NDArray[np.floating], num_probes: int) -> tuple[float | None, float | None]:
    """Count how often the intervals of tr A and ‖A‖_F hold; None where none is given."""
    rng = np.random.default_rng(num_probes)
    signs = rng.choice(np.array([-1.0, 1.0]), (SEEDS, num_probes, len(matrix)))
    products = signs @ matrix
    forms, squares = (signs * products).sum(2), (products**2).sum(2)
    rounding = 1e-12 * float(np.abs(matrix).sum())
    held: list[tuple[bool, bool]] = []
    for row, square in zip(forms, squares, strict=True):
        samples = Samples(tuple(row.tolist()), tuple(square.tolist()))
        trace, norm = samples.trace().ci95, samples.frobenius_norm().ci95
        if trace is None or norm is None:
            return None, None
        exact = float(np.trace(matrix)), float(np.linalg.norm(matrix))
        held.append(
            (
                trace[0] - rounding <= exact[0] <= trace[1] + rounding,
                norm[0] - rounding <= exact[1] <= norm[1] + rounding,
            )
        )
    trace_rate, norm_rate = np.mean(held, axis=0)
    return float(trace_rate), float(norm_rate)


def main() -> None:
    """Print the table as Markdown."""
    print("# How often intervals hold\n")
    print(
        f"Share of {SEEDS:,} seeds whose 95 % interval holds the truth, of the trace and of the "
        "Frobenius norm, by the\nnumber of probes. Below 13 probes no interval is given. Made by "
        "`python benchmarks/coverage.py`.\n"
    )
    print("| operator | " + " | ".join(str(count) for count in PROBES) + " |")
    print("|---|" + "---|" * len(PROBES))
    least = 1.0
    for name, matrix in operators().items():
        cells: list[str] = []
        for count in PROBES:
            rates = coverage(matrix, count)
            cells.append(" · ".join("none" if r is None else f"{100 * r:.1f}" for r in rates))
            least = min(least, *(rate for rate in rates if rate is not None), 1.0)
        print(f"| {name} | " + " | ".join("none" if "none" in c else c for c in cells) + " |")
    print(f"\nThe least of all: {100 * least:.1f} %.")


if __name__ == "__main__":
    main()
