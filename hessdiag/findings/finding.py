"""What a study is: a grid of runs, statements on them, and the rule of its verdict.

All of it is declared before a seed is run. A statement is a weighted sum of numbers that the runs
of one seed gave, so that it is paired by seed; it is shown if its interval over the seeds lies
where the paper says, contradicted if all of it lies elsewhere, and not told otherwise. The
intervals of a finding's statements hold together with 95 % (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SHOWN, CONTRADICTED, UNDECIDED = "shown", "contradicted", "cannot tell"
CONFIDENCE = 0.95

Claim = Literal["above", "below", "near"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Term:
    """A weight times a statistic of the run of one choice.

    Attributes:
        weight: its factor.
        choice: name of the choice.
        statistic: what is read from the run, see :mod:`hessdiag.findings.run_statistics`.
    """

    weight: float
    choice: str
    statistic: str = "accuracy"


@dataclass(frozen=True)
class Statement:
    """What is claimed of a weighted sum of numbers.

    Attributes:
        says: the claim in words.
        terms: of the sum.
        claim: "above" or "below" 0, or "near" it.
        margin: how far from 0 is still near.
    """

    says: str
    terms: Sequence[Term]
    claim: Claim
    margin: float = 0.0

    def judge(self, interval: Interval | None) -> str:
        """Compare an interval of the sum with the claim."""
        if interval is None:
            return UNDECIDED
        low, high = interval
        if self.claim == "near":
            if -self.margin <= low and high <= self.margin:
                return SHOWN
            return CONTRADICTED if low > self.margin or high < -self.margin else UNDECIDED
        if self.claim == "below":
            low, high = -high, -low
        return SHOWN if low > 0 else CONTRADICTED if high < 0 else UNDECIDED


@dataclass(frozen=True)
class Choice:
    """A cell of the grid.

    Attributes:
        curve: of the chart that it lies on.
        at: its place along the chart.
        changes: fields of the recipe, and ``regulariser``.
        strengths: options of the method.
    """

    curve: str
    at: float
    changes: Mapping[str, Any]
    strengths: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Design:
    """A finding's grid at one scale.

    Attributes:
        recipe: name of the recipe.
        changes: fields of the recipe that all runs change.
        options: further fields of a run's configuration, such as ``num_samples`` and ``track``.
        choices: by name.
        statements: on them.
        axis: what lies along the chart.
        shown: the statistic that the chart draws.
        compute: for what needs no training: from a seed to each choice's statistics.
    """

    recipe: str
    choices: Mapping[str, Choice]
    statements: Sequence[Statement]
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    axis: str = "ρ"
    shown: str = "accuracy"
    compute: Callable[[int], Mapping[str, Mapping[str, float]]] | None = None

    @property
    def confidence(self) -> float:
        """Of each statement's interval, so that all hold together."""
        return 1 - (1 - CONFIDENCE) / len(self.statements)


@dataclass(frozen=True)
class Finding:
    """A finding of the papers.

    Attributes:
        number: in the list.
        name: for the command line.
        claim: in a sentence.
        source: where it stands.
        sketch: its direction, as curves over the chart's axis; heights are of no unit.
        designs: by scale.
    """

    number: int
    name: str
    claim: str
    source: str
    sketch: Mapping[str, Sequence[float]]
    designs: Mapping[str, Sequence[Design]]


def verdict(judged: Sequence[str]) -> str:
    """Join the verdicts of statements: shown if all are, contradicted if any is."""
    if CONTRADICTED in judged:
        return CONTRADICTED
    return SHOWN if judged and all(one == SHOWN for one in judged) else UNDECIDED
