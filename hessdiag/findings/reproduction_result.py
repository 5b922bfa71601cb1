"""What came of the findings' studies, ``hessdiag.reproduction/1``."""

from __future__ import annotations

from msgspec import Struct

from hessdiag.codec import Count, Whole
from hessdiag.linalg.paired import Difference
from hessdiag.results import Result


class Judged(Struct, frozen=True):
    """A statement and what the seeds say of it.

    Attributes:
        says: the claim in words.
        claim: "above" or "below" 0, or "near" it.
        margin: how far from 0 is still near.
        values: the weighted sum, by seed.
        difference: its mean, with an interval that holds together with those of the finding's
            other statements at 95 %; null without seeds.
        verdict: "shown", "contradicted" or "cannot tell".
    """

    says: str
    claim: str
    margin: float
    values: dict[Whole, float]
    difference: Difference | None
    verdict: str


class Point(Struct, frozen=True):
    """A choice of the grid.

    Attributes:
        name: of the choice.
        curve: on which the chart draws it.
        at: its place along the chart.
        value: mean and error of the statistic that the chart draws; null if not known.
    """

    name: str
    curve: str
    at: float
    value: Difference | None


class StudyReport(Struct, frozen=True):
    """A finding at one scale.

    Attributes:
        recipe: of the runs.
        summary: the first run's recipe in a line; empty where nothing is trained.
        axis: what lies along the chart.
        statistic: that the chart draws.
        num_runs: of the grid over all seeds.
        num_finished: those done.
        seconds: that their training took.
        statements: with their verdicts.
        points: of the grid.
        verdict: of all statements.
        failures: why runs could not be finished.
    """

    recipe: str
    summary: str
    axis: str
    statistic: str
    num_runs: Count
    num_finished: Count
    seconds: float
    statements: tuple[Judged, ...]
    points: tuple[Point, ...]
    verdict: str
    failures: tuple[str, ...] = ()


class Reproduced(Struct, frozen=True):
    """A finding and its studies.

    Attributes:
        number: in the list.
        name: in a word.
        claim: in a sentence.
        source: where it stands.
        sketch: its direction, as curves of no unit.
        studies: one a recipe.
    """

    number: Count
    name: str
    claim: str
    source: str
    sketch: dict[str, tuple[float, ...]]
    studies: tuple[StudyReport, ...]


class Reproduction(Result, frozen=True, kw_only=True, tag="hessdiag.reproduction/1"):
    """The papers' findings as studies with verdicts.

    Attributes:
        scale: "small" or "paper".
        seeds: of all runs.
        findings: as far as they are known.
        notes: what qualifies the verdicts.
    """

    scale: str
    seeds: tuple[Whole, ...]
    findings: tuple[Reproduced, ...]
    notes: tuple[str, ...] = ()
