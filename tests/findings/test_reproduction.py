"""Studies that are run: each run once, gone on with, judged, shown."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from hessdiag import results
from hessdiag.findings import reproduction_run
from hessdiag.findings.finding import Choice, Design, Finding, Statement, Term
from hessdiag.findings.reproduction_run import Plan
from hessdiag.jobs import local_jobs
from hessdiag.training import loop

DESIGN = Design(
    "digits-wrn10-1",
    choices={
        "none": Choice("none", 0.0, {"regulariser": "none"}),
        "sam": Choice("sam", 0.1, {"regulariser": "sam"}, {"rho": 0.1}),
        "wild": Choice("wild", 0.2, {"regulariser": "none", "lr": 1e20, "batch_size": 8}),
    },
    statements=(
        Statement("SAM is no worse", (Term(1, "sam"), Term(-1, "none")), "near", 0.9),
        Statement("it needs no luck", (Term(1, "wild"),), "above"),
    ),
    changes={"model": "mlp-8", "epochs": 1, "label_noise": 0.2},
    options={"num_samples": 64},
)
FINDING = Finding(3, "toy", "SAM works", "nobody", {"sam": (0.0, 1.0)}, {"small": (DESIGN,)})


def run(out: Path, seeds=(1, 2), **options) -> results.Result:
    *_, last = reproduction_run.run(Plan([FINDING], "small", seeds, {}, {}), out, **options)
    return last


def test_a_study_is_run_judged_and_gone_on_with(tmp_path: Path, monkeypatch):
    found = run(tmp_path)
    (study,) = found.findings[0].studies
    assert (study.num_runs, study.num_finished) == (6, 4)
    assert [each.verdict for each in study.statements] == ["shown", "cannot tell"]
    assert study.verdict == "cannot tell"
    assert len(study.failures) == 2
    assert "diverged" in study.failures[0]
    gains = study.statements[0].values
    assert gains.keys() == {1, 2}
    by_name = {point.name: point.value for point in study.points}
    assert by_name["sam"].mean - by_name["none"].mean == pytest.approx(sum(gains.values()) / 2)
    (tmp_path / "r.json").write_text(found.to_json())
    assert results.read(tmp_path / "r.json") == found
    assert found.document().facts

    trained = []
    monkeypatch.setattr(loop, "train", lambda config, *_, **__: trained.append(config) or 1 / 0)
    sane = {name: choice for name, choice in DESIGN.choices.items() if name != "wild"}
    again = replace(DESIGN, choices=sane, statements=DESIGN.statements[:1])
    finding = replace(FINDING, designs={"small": (again,)})
    *_, last = reproduction_run.run(Plan([finding], "small", (1, 2), {}, {}), tmp_path)
    assert last.findings[0].studies[0].verdict == "shown"
    assert not trained


@pytest.mark.slow
def test_processes_share_the_runs(tmp_path: Path):
    engine = partial(local_jobs.run, count=2, folder=tmp_path / "jobs")
    alone, shared = run(tmp_path / "a"), run(tmp_path / "b", engine=engine)
    one, two = (found.findings[0].studies[0].statements for found in (alone, shared))
    assert [each.values for each in one] == [each.values for each in two]
