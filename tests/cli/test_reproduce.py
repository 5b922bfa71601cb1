"""``hessdiag reproduce``."""

import json
from pathlib import Path

from tests.cli.conftest import Run
from tests.cli.test_bad_input import refused


def test_list_and_dry_run(run: Run):
    listed = run("reproduce", "list")
    assert listed.code == 0
    assert sum(line[0].isdigit() for line in listed.out.splitlines()) == 11
    dry = run("reproduce", "nso", "2", "--scale", "paper", "--dry-run", "--seeds", 3)
    for words in (
        "cifar10-wrn28-10 on cifar10: 14 runs × 3 seeds",
        "imagenet-resnet50",
        "finetune-resnet34",
        "nso: 4,230 steps, 135,000 images",
        "GPU hours",
    ):
        assert words in dry.out, dry.out


def test_a_finding_without_training(run: Run, here: Path):
    outcome = run("reproduce", "kinks", "--out", "found", "--seeds", 3)
    assert outcome.code == 0, outcome.err
    assert "shown" in outcome.out
    found = json.loads((here / "found" / "reproduction.json").read_text())
    assert found["schema"] == "hessdiag.reproduction/1"
    assert found["seeds"] == [10, 11, 12]
    assert "claimed, a sketch" in (here / "found" / "index.html").read_text()


def test_what_is_unknown_is_refused(run: Run):
    refused(run("reproduce", "12"), "unknown finding.*1 kinks")
    refused(run("reproduce", "--scale", "huge"), "unknown scale.*small, paper")
