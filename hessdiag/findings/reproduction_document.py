"""The findings for people: verdicts, the statements behind them, and charts beside sketches."""

from __future__ import annotations

from collections.abc import Iterator

from hessdiag.findings.finding import CONTRADICTED, SHOWN
from hessdiag.findings.reproduction_result import Judged, Reproduced, Reproduction, StudyReport
from hessdiag.show.document import (
    STYLES,
    Axis,
    Block,
    Cell,
    Chart,
    Count,
    Curve,
    Document,
    Interval,
    Item,
    Quantity,
    Row,
    Table,
)
from hessdiag.show.origin import origin


def document(found: Reproduction) -> Document:
    """Lay the findings out: all verdicts in one table, then each finding."""
    blocks = [Block("Findings", [_verdicts(found)])]
    for finding in found.findings:
        heading = f"{finding.number} {finding.name}"
        blocks.append(Block(heading, list(_items(finding)), columns=2))
    return Document(
        kind="Reproduction",
        title=f"the papers' findings at {found.scale} scale",
        facts=list(_facts(found)),
        blocks=blocks,
        footer=["shown: every statement's interval lies where the paper says"],
        notes=[*found.notes, *_failures(found)],
        origin=[*origin(found), ("seeds", ", ".join(map(str, found.seeds)))],
    )


def _facts(found: Reproduction) -> Iterator[tuple[str, Cell]]:
    told = [study.verdict for finding in found.findings for study in finding.studies]
    yield "shown", f"{told.count(SHOWN)} of {len(told)}"
    yield "contradicted", str(told.count(CONTRADICTED))
    yield "seeds", Count(len(found.seeds))


def _verdicts(found: Reproduction) -> Table:
    rows = [
        Row(
            [
                _label(finding, study),
                finding.claim,
                study.recipe,
                study.verdict,
                f"{study.num_finished} of {study.num_runs}",
                Quantity(study.seconds / 60),
            ],
            "best" if study.verdict == SHOWN else "",
        )
        for finding in found.findings
        for study in finding.studies
    ]
    return Table(["finding", "claim", "recipe", "verdict", "runs", "minutes"], rows, words=4)


def _label(finding: Reproduced, study: StudyReport) -> str:
    """Name a study by its finding, and by its place among those of one recipe."""
    alike = [other for other in finding.studies if other.recipe == study.recipe]
    place = f", study {alike.index(study) + 1}" if len(alike) > 1 else ""
    return f"{finding.number} {finding.name}{place}"


def _items(finding: Reproduced) -> Iterator[Item]:
    for study in finding.studies:
        rows = [_row(each) for each in study.statements]
        caption = f"{finding.claim} ({finding.source}). {study.summary}"
        header = ["statement", "verdict", "mean", "interval", "claimed", "seeds"]
        yield Table(header, rows, caption, words=2)
        yield _chart(finding, study)
    yield _sketch(finding)


def _row(judged: Judged) -> Row:
    found = judged.difference
    claimed = f"within ±{judged.margin:.3g}" if judged.claim == "near" else f"{judged.claim} 0"
    if found is None:
        return Row([judged.says, judged.verdict, "", "", claimed, Count(0)])
    mean = Quantity(found.mean, found.stderr)
    cells = [judged.says, judged.verdict, mean, Interval(found.interval), claimed]
    return Row([*cells, Count(found.count)], "best" if judged.verdict == SHOWN else "")


def _chart(finding: Reproduced, study: StudyReport) -> Chart:
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for point in study.points:
        if point.value is not None:
            place = point.at, point.value.mean, point.value.stderr or 0.0
            curves.setdefault(point.curve, []).append(place)
    drawn: list[Curve] = []
    for index, (label, places) in enumerate(curves.items()):
        x, y, errors = zip(*sorted(places), strict=True)
        style = STYLES[index % len(STYLES)]
        drawn.append(Curve(label, list(x), list(y), style, errors=list(errors), dots=True))
    values = [point.at for point in study.points]
    scale = "symlog" if min(values) == 0 else "log"
    least = min((value for value in values if value > 0), default=1.0)
    axis = Axis(study.axis, scale, min(values), max(values), threshold=least / 2)
    title = f"{_label(finding, study)}: found, ± standard error"
    return Chart(title, axis, Axis(study.statistic, "linear"), drawn)


def _sketch(finding: Reproduced) -> Chart:
    curves = [
        Curve(label, list(range(len(curve))), list(curve), f"{STYLES[index]} dashed")
        for index, (label, curve) in enumerate(finding.sketch.items())
    ]
    axis = Axis(finding.studies[0].axis, "linear", whole=True)
    title = f"{finding.number} {finding.name}: claimed, a sketch"
    return Chart(title, axis, Axis("no unit", "linear"), curves)


def _failures(found: Reproduction) -> Iterator[str]:
    for finding in found.findings:
        for study in finding.studies:
            yield from (f"{finding.number} {finding.name}: {told}" for told in study.failures)
