"""``hessdiag blocks``."""

import json
from pathlib import Path
from typing import Any

import pytest

from hessdiag import results
from tests.cli.conftest import Run
from tests.cli.test_bad_input import refused


def test_the_report_its_plot_and_its_page(run: Run, checkpoint: Path, tmp_path: Path):
    path, page = tmp_path / "blocks.json", tmp_path / "page.html"
    options: tuple[Any, ...] = ("--num-samples", 20, "--num-probes", 2, "--by", "parameter")
    outcome = run("blocks", checkpoint, *options, "--json", path, "--plot", tmp_path / "b.png")
    assert outcome.code == 0, outcome.err
    assert "layers.0.weight" in outcome.out
    assert (tmp_path / "b.png").stat().st_size > 1000
    found = json.loads(path.read_text())
    assert found["schema"] == "hessdiag.blocks/1"
    assert len(found["parts"]["nme"]["norm"]) == len(found["layers"]) == 4
    assert results.read(path).to_json() == path.read_text()
    assert run("report", path, "-o", page).code == 0
    assert "Norms of blocks" in page.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num-probes", 1), "--num-probes is out of range.*at least 2"),
        (("--by", "block"), "unknown by.*layer, parameter"),
        (("--part", "all", "--part", "h"), "unknown part.*hessian"),
    ],
)
def test_what_is_out_of_range_is_refused(run: Run, checkpoint: Path, options, words):
    refused(run("blocks", checkpoint, *options), words)
