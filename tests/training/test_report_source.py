"""Reading reports and folders, and refusing what is neither."""

import json
from pathlib import Path
from typing import Any

import pytest

from hessdiag.errors import InputError
from hessdiag.show.page import page
from hessdiag.training import folder
from hessdiag.training.folder import Config
from hessdiag.training.recipes import find
from hessdiag.training.report_source import read
from tests.results import RESULTS
from tests.runs import EPOCHS


def written(path: Path, content: str | bytes | dict[str, Any]) -> str:
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    config = Config(find("digits-wrn10-1"))
    folder.prepare(tmp_path, config)
    return tmp_path


@pytest.mark.parametrize(("name", "kind"), [("report.json", "train"), ("sweep.json", "sweep")])
def test_a_folder_gives_its_report(run_folder: Path, name: str, kind: str):
    result = RESULTS[kind]()
    written(run_folder / name, result.to_json())
    assert read(str(run_folder)).to_json() == result.to_json()


def test_a_run_under_way_gives_its_epochs(run_folder: Path):
    folder.write_metrics(run_folder, [epoch.to_row() for epoch in EPOCHS])
    text = page([read(str(run_folder)).document()])
    assert "<li>the run is not finished: 4 of 15 epochs</li>" in text
    assert "wrn10-1 gelu on digits (train)" in text


def test_a_run_without_an_epoch_is_shown_too(run_folder: Path):
    text = page([read(str(run_folder)).document()])
    assert "0 of 15 epochs" in text


def test_damaged_metrics_are_refused_by_name(run_folder: Path):
    written(run_folder / folder.METRICS, '{"number": 1}\n{"numb')
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged"):
        read(str(run_folder))


@pytest.mark.parametrize("name", ["missing.json", "nul\0l", "x" * 5000])
def test_what_is_not_there_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError):
        read(str(tmp_path / name))


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="holds no run"):
        read(str(tmp_path))


def test_a_damaged_configuration_is_refused(run_folder: Path):
    written(run_folder / folder.CONFIG, "recipe = 3")
    with pytest.raises(InputError, match="configuration"):
        read(str(run_folder))
