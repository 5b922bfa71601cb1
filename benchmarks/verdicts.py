"""How often a gate's intervals are wrong on what deceives it; writes docs/verdicts.md.

    python benchmarks/verdicts.py [FILE]

A verdict can only be wrong where an interval misses its metric. Fresh gates look after 32, 64, …
probes until the budget is spent, stored reports are looked at once; a gate of M limits, each on a
matrix and probes of its own, is wrong if any of them is. Takes about half an hour; FILE keeps
what is counted, so that a run that was ended goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
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

Counts = dict[str, dict[str, list[int]] | list[int]]

SEEDS, CHUNK, BUDGET, STORED = 2000, 50, 128, 32
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
PROSE = """# How often a gate is wrong

Made by `benchmarks/verdicts.py`: gates on matrices whose samples deceive, as what matters is seldom
seen. Each cell counts the gates, of {seeds:,} seeds, of which any interval of any limit missed its
metric by more than 1e-6 of it, so that a limit placed there would have been decided wrongly; first
fresh gates with all their looks, up to 128 probes, then stored reports of 32 probes. Traces and
Frobenius norms take turns as metrics.
"""
OF_EIGENVALUES = """
Eigenvalues are found from one Gaussian start, and their intervals miss with a chance of 1e-6,
whatever a gate's confidence and however many its limits; they take that chance from its α. Of
{seeds:,} seeds, every other in float32: how many times λ max or λ min missed its interval, and how
many times any of the five outermost eigenvalues at either end.
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


def wrong(name: str, seed: int) -> dict[str, list[int]]:
    """Count the wrong gates, fresh and stored, by confidence and limits; all have common probes."""
    matrix, rng = OPERATORS[name], np.random.default_rng(seed)
    probes = 2.0 * rng.integers(0, 2, (CHUNK, max(LIMITS), BUDGET, len(matrix)), np.int8) - 1
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


def wrong_eigenvalues(name: str, chunk: int) -> list[int]:
    """Count the seeds of which λ max or λ min, and any of the outermost five, missed."""
    matrix = hidden(name).astype(np.float32).astype(np.float64)
    matrix = (matrix + matrix.T) / 2
    exact = np.linalg.eigvalsh(matrix)
    slack = 1e-13 * float(np.abs(exact).max())
    counts = [0, 0]
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        for place, top_k in enumerate((1, 5)):
            found = extremes(matrix, top_k, seed)
            top, bottom = (
                zip(*both, strict=False)
                for both in ((found.top, exact[::-1]), (found.bottom, exact))
            )
            counts[place] += any(
                ritz.interval is None
                or not ritz.interval[0] - slack <= value <= ritz.interval[1] + slack
                for ritz, value in (*top, *bottom)
            )
    return counts


def main(kept: Path | None) -> None:
    """Count what is not counted yet, and write the tables."""
    known: Counts = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for names, count in ((OPERATORS, wrong), (SPECTRA, wrong_eigenvalues)):
        for at in range(SEEDS // CHUNK):
            for name in names:
                if f"{name} {at}" not in known:
                    known[f"{name} {at}"] = count(name, at)
                    if kept:
                        kept.write_text(json.dumps(known))
            print(f"{count.__name__}: {CHUNK * (at + 1):,} of {SEEDS:,} seeds", flush=True)
    place = Path(__file__).parents[1] / "docs" / "verdicts.md"
    place.write_text(tables(known), encoding="utf-8")


def tables(known: Counts) -> str:
    """Write both tables, of the seeds that are counted for all rows."""
    cells = [f"{confidence} {limits}" for limits in LIMITS for confidence in CONFIDENCES]
    gates = {name: counted(known, name, OPERATORS) for name in OPERATORS}
    eigenvalues = {name: counted(known, name, SPECTRA) for name in SPECTRA}
    seeds = [CHUNK * len(next(iter(rows.values()))) for rows in (gates, eigenvalues)]
    lines = [PROSE.format(seeds=seeds[0])]
    heads = [f"{100 * c:g} %, {m} limit{'s' * (m > 1)}" for m in LIMITS for c in CONFIDENCES]
    most = [f"≤ {(1 - confidence) * seeds[0]:.3g}" for _ in LIMITS for confidence in CONFIDENCES]
    lines += [f"| matrix | {' | '.join(heads)} |", "|---" * (len(cells) + 1) + "|"]
    lines.append(f"| promised, of each | {' | '.join(most)} |")
    for name, chunks in gates.items():
        counts = [np.sum([chunk[cell] for chunk in chunks], 0) for cell in cells]
        lines.append(f"| {name} | {' | '.join(f'{a}, {b}' for a, b in counts)} |")
    lines += [OF_EIGENVALUES.format(seeds=seeds[1]), "| eigenvalues | λ max, λ min | any of ten |"]
    lines.append("|---" * 3 + "|")
    for name, chunks in eigenvalues.items():
        lines.append(f"| {name} | {' | '.join(map(str, np.sum(chunks, 0)[:2]))} |")
    return "\n".join(lines) + "\n"


def counted(known: Counts, name: str, names: Iterable[str]) -> list[Any]:
    """Give the counts of a row, of the chunks of seeds that no row lacks."""
    chunks = (at for at in range(SEEDS // CHUNK) if all(f"{row} {at}" in known for row in names))
    return [known[f"{name} {at}"] for at in chunks]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
