"""Reading reports and folders, and refusing what is neither."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hessdiag.errors import InputError
from hessdiag.reports.html import sources
from hessdiag.reports.html.page import page
from hessdiag.reports.html.sources import read
from hessdiag.training import folder
from hessdiag.training.folder import Config
from hessdiag.training.recipes import find
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


def test_a_report_is_read(tmp_path: Path):
    path = written(tmp_path / "r.json", {"schema": "x", "value": 1.5})
    assert read(path) == sources.Source(path, {"schema": "x", "value": 1.5})


def test_what_is_no_finite_number_is_null(tmp_path: Path):
    path = written(tmp_path / "r.json", '{"a": [1e999, NaN, -Infinity, 1.5, 2]}')
    assert read(path).payload == {"a": [None, None, None, 1.5, 2]}


@pytest.mark.parametrize("name", ["report.json", "sweep.json"])
def test_a_folder_gives_its_report(run_folder: Path, name: str):
    written(run_folder / name, {"schema": "x"})
    assert read(str(run_folder)).payload == {"schema": "x"}


def test_a_run_under_way_gives_its_epochs(run_folder: Path):
    folder.write_metrics(run_folder, [epoch.to_row() for epoch in EPOCHS])
    text = page([read(str(run_folder))])
    assert "<li>the run is not finished: 4 of 15 epochs</li>" in text
    assert "wrn10-1 gelu on digits (train)" in text


def test_a_run_without_an_epoch_is_shown_too(run_folder: Path):
    text = page([read(str(run_folder))])
    assert "0 of 15 epochs" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged"),
        ('{"schema": ', "damaged"),
        ("[1]", "wanted: an object"),
        ("3", "wanted: an object"),
        (b"\xff\xfe{}", "cannot be read"),
        ("[" * 100_000, "damaged"),
        ('{"a": ' * 100_000, "damaged"),
        ('{"value": ' + "1" * 5000 + "}", "damaged"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: str | bytes, message: str):
    path = written(tmp_path / "broken.json", content)
    with pytest.raises(InputError) as refused:
        read(path)
    assert message in str(refused.value)
    assert "broken.json" in str(refused.value)


def test_damaged_metrics_are_refused_by_name(run_folder: Path):
    written(run_folder / folder.METRICS, '{"number": 1}\n{"numb')
    with pytest.raises(InputError, match=r"cannot be read\n.*metrics\.jsonl"):
        read(str(run_folder))


def test_a_large_file_is_refused_unread(tmp_path: Path):
    path = tmp_path / "large.json"
    path.touch()
    os.truncate(path, 32 * 2**20 + 1)
    with pytest.raises(InputError, match="at most 33,554,432 are read"):
        read(str(path))


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a device or a pipe"):
        read(str(tmp_path / "pipe"))


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
