"""How often a gate's intervals are wrong on what deceives it; writes docs/verdicts.md.

    python benchmarks/verdicts.py [FILE]

A verdict can only be wrong where an interval misses its metric. Fresh gates look after 32, 64, …
probes until the budget is spent, stored reports are looked at once; a gate of M limits, each on a
matrix and probes of its own, is wrong if any of them is. Takes about an hour; FILE keeps what is
counted, so that a run that was ended goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hessdiag.gates.limits import Limit
from hessdiag.gates.sequential import SequentialTest
from hessdiag.linalg.lanczos import LanczosResult, gaussian_rows, lanczos
from hessdiag.linalg.quadratic_forms import form_interval, square_interval

Array = NDArray[np.float64]

SEEDS, BUDGET, STORED = 2000, 128, 32
CONFIDENCES, LIMITS = (0.95, 0.99, 0.999), (1, 10, 100)
HARMONIC = 1 / np.arange(1, 25)
OPERATORS: dict[str, NDArray[Any]] = {
    **{f"rank one of {m} equal entries": np.ones((m, m)) / m for m in (2, 3, 4, 8, 32)},
    "negative, rank one of 16": -np.ones((16, 16)) / 16,
    "sparse diagonal": np.diag(np.r_[np.ones(3), np.full(20, 1e-3)]) + 1e-4,
    "trace zero": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "heavy tail": np.outer(HARMONIC, HARMONIC),
    "six scales": np.kron(np.diag(10.0 ** -np.arange(6)), np.ones((4, 4)) / 4),
}
BULK = np.cos(np.pi * (np.arange(90) + 0.5) / 90)
SPECTRA = {
    "a pair at either end": np.r_[BULK, 1.2, 1.2, -1.5, -1.5],
    "clusters 1e-4 apart": np.r_[BULK / 2, 1 + 1e-4 * np.arange(8), -1 - 1e-4 * np.arange(8)],
    "nearly equal, 1e-7 apart": np.r_[BULK, 2 + 1e-7 * np.arange(3), -2 - 1e-7 * np.arange(3)],
    "a bulk to both ends": BULK,
    "one end 400 times the other": np.r_[np.linspace(0, 1, 90), -1 / 400],
    "one end 40,000 times the other": np.r_[np.linspace(0, 1, 90), -1 / 40_000],
    "slowly decaying": np.r_[1 / np.arange(1, 90), -0.5 / np.arange(1, 9)],
    "rank three": np.r_[3.0, 1e-3, -1.0, np.zeros(90)],
    "zero": np.zeros(40),
    "hidden from signs": np.r_[0.5, np.linspace(0, 0.45, 80)],
}
"""Eigenvalues; the topmost vector of the last one is orthogonal to half of all vectors of signs."""
PROSE = f"""# How often a gate is wrong

Made by `benchmarks/verdicts.py`: gates on matrices whose samples deceive, as what matters is seldom
seen. Each cell counts the gates, of {SEEDS:,} seeds, of which any interval of any limit missed its
metric by more than 1e-6 of it, so that a limit placed there would have been decided wrongly; first
fresh gates with all their looks, up to {BUDGET} probes, then stored reports of {STORED} probes.
Traces and Frobenius norms take turns as metrics.
"""
OF_EIGENVALUES = """
Eigenvalues are found from one Gaussian start, and their intervals miss with a chance of 1e-6,
whatever a gate's confidence. Of the same seeds, every other in float32: how many times λ max and
λ min missed their intervals, how many times any of the five outermost at either end, and how many
times the interval of λ max or λ min told nothing, that is, was longer than the spectrum.
"""


def level(confidence: float, limits: int) -> tuple[list[int], float]:
    """Give the looks of a fresh gate, and the level of each."""
    asked = [(Limit("max", "gn.trace", float(i)), None) for i in range(limits)]
    test = SequentialTest(asked, confidence=confidence, max_probes=BUDGET)
    return [min(test.first << look, BUDGET) for look in range(test.num_looks)], test.alpha


def missed(forms: Array, squares: Array, matrix: Array, alpha: float) -> NDArray[np.bool_]:
    """Tell which limits ``(gates, limits)`` have an interval that misses; traces, norms in turn."""
    out = np.zeros(forms.shape[:2], bool)
    ends = form_interval(forms[:, ::2], squares[:, ::2], alpha)
    out[:, ::2] = beside(ends, float(np.trace(matrix)))
    out[:, 1::2] = beside(square_interval(squares[:, 1::2], alpha), float(np.sum(matrix**2)))
    return out


def beside(ends: tuple[Array, Array], truth: float) -> NDArray[np.bool_]:
    """Tell which intervals miss."""
    slack = 1e-6 * max(abs(truth), 1e-3)
    return (ends[0] > truth + slack) | (ends[1] < truth - slack)


def wrong(matrix: NDArray[Any], gates: int, seed: int) -> dict[str, list[int]]:
    """Count the wrong gates, fresh and stored, by confidence and limits; all have common probes."""
    rng = np.random.default_rng(seed)
    probes = 2.0 * rng.integers(0, 2, (gates, max(LIMITS), BUDGET, len(matrix)), np.int8) - 1
    products = probes @ matrix
    forms, squares = (probes * products).sum(-1), (products**2).sum(-1)
    del probes, products
    counts: dict[str, list[int]] = {}
    for confidence in CONFIDENCES:
        for limits in LIMITS:
            # a single limit is on a trace in every other gate, else on a norm
            turn = seed % 2 if limits == 1 else 0
            few, their = forms[:, turn : turn + limits], squares[:, turn : turn + limits]
            if turn:
                few, their = (np.repeat(array, 2, 1) for array in (few, their))
            looks, alpha = level(confidence, limits)
            fresh = np.zeros(few.shape[:2], bool)
            for count in looks:
                fresh |= missed(few[..., :count], their[..., :count], matrix, alpha)
            share = (1 - confidence) / limits
            stored = missed(few[..., :STORED], their[..., :STORED], matrix, share)
            chosen = slice(turn, turn + limits)
            counts[f"{confidence} {limits}"] = [
                int(found[:, chosen].any(1).sum()) for found in (fresh, stored)
            ]
    return counts


def hidden(name: str) -> Array:
    """Make the matrix of a spectrum, of random eigenvectors but for what is hidden from signs."""
    values = SPECTRA[name]
    rotation, _ = np.linalg.qr(np.random.default_rng(len(name)).standard_normal((len(values),) * 2))
    if name == "hidden from signs":
        rotation[:, 0] = np.r_[1, -1, np.zeros(len(values) - 2)]
        rotation, _ = np.linalg.qr(rotation)
    return (rotation * values) @ rotation.T


def extremes(matrix: Array, top_k: int, seed: int) -> LanczosResult:
    """Find eigenvalues as a spectrum does."""
    dtype = (torch.float32, torch.float64)[seed % 2]
    at = {kind: torch.from_numpy(matrix).to(kind) for kind in (torch.float32, torch.float64)}
    start = gaussian_rows(
        top_k + 1, len(matrix), seed=seed, dtype=dtype, device=torch.device("cpu")
    )
    run = lanczos(
        start,
        top_k=top_k,
        basis_size=min(max(48, 24 * (top_k + 1)), len(matrix)),
        refine=dtype == torch.float32,
    )
    vectors = next(run)
    while True:
        try:
            vectors = run.send(vectors @ at[vectors.dtype])
        except StopIteration as stop:
            return stop.value


def wrong_eigenvalues(name: str, seeds: range) -> list[int]:
    """Count the seeds of which λ max and λ min, any of the outermost five, missed; and no news."""
    matrix = hidden(name).astype(np.float32).astype(np.float64)
    matrix = (matrix + matrix.T) / 2
    exact = np.linalg.eigvalsh(matrix)
    scale = float(np.abs(exact).max())
    counts = [0, 0, 0]
    for seed in seeds:
        for place, top_k in enumerate((1, 5)):
            found = extremes(matrix, top_k, seed)
            pairs = [
                *zip(found.top, exact[::-1], strict=False),
                *zip(found.bottom, exact, strict=False),
            ]
            ends = [(ritz.interval or (-np.inf, np.inf), value) for ritz, value in pairs]
            slack = 1e-13 * scale
            counts[place] += any(
                not low - slack <= value <= high + slack for (low, high), value in ends
            )
            if top_k == 1:
                counts[2] += any(high - low > 2 * scale + slack for (low, high), _ in ends)
    return counts


def main(kept: Path | None) -> None:
    """Count what is not counted yet, and write the tables."""
    known = json.loads(kept.read_text()) if kept and kept.exists() else {}

    def keep(key: str, counts: Mapping[str, list[int]] | list[int]) -> None:
        known[key] = counts
        if kept:
            kept.write_text(json.dumps(known))

    chunk = 50
    chunks = range(SEEDS // chunk)
    for at in chunks:
        for name, matrix in OPERATORS.items():
            if f"{name} {at}" not in known:
                keep(f"{name} {at}", wrong(matrix, chunk, at))
        print(f"gates: {at + 1} of {len(chunks)}", flush=True)
    for at in chunks:
        for name in SPECTRA:
            if f"{name} {at}" not in known:
                seeds = range(at * chunk, (at + 1) * chunk)
                keep(f"{name} {at}", wrong_eigenvalues(name, seeds))
        print(f"eigenvalues: {at + 1} of {len(chunks)}", flush=True)
    cells = [(confidence, limits) for limits in LIMITS for confidence in CONFIDENCES]
    heads = [f"{100 * c:g} %, {m} limit{'s' * (m > 1)}" for c, m in cells]
    lines = [PROSE, f"| matrix | {' | '.join(heads)} |", "|---" * (len(cells) + 1) + "|"]
    most = [f"≤ {(1 - confidence) * SEEDS:.3g}" for confidence, _ in cells]
    lines.append(f"| promised, of each | {' | '.join(most)} |")
    for name in OPERATORS:
        counts = [np.sum([known[f"{name} {at}"][f"{c} {m}"] for at in chunks], 0) for c, m in cells]
        lines.append(f"| {name} | {' | '.join(f'{a}, {b}' for a, b in counts)} |")
    lines += [OF_EIGENVALUES, "| eigenvalues | λ max, λ min | 5 at either end | no news |"]
    lines.append("|---" * 4 + "|")
    for name in SPECTRA:
        total = np.sum([known[f"{name} {at}"] for at in chunks], 0)
        lines.append(f"| {name} | {' | '.join(map(str, total))} |")
    place = Path(__file__).parents[1] / "docs" / "verdicts.md"
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
