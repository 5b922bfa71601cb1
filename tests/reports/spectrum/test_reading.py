"""Reports read back from their JSON, and files that are none."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessdiag import InputError, Report, files
from hessdiag.metadata import ModelSpec, Provenance
from hessdiag.reports.payload import dumps
from hessdiag.reports.spectrum.reading import read_spectrum
from hessdiag.reports.spectrum.schema import spectrum_json


def write(path: Path, payload: Any) -> Path:
    path.write_text(payload if isinstance(payload, str) else json.dumps(payload), "utf-8")
    return path


@pytest.fixture
def payload(report: Report, provenance: Provenance) -> dict[str, Any]:
    return json.loads(dumps(spectrum_json(report, provenance)))


def test_a_report_comes_back_as_it_was(report: Report, provenance: Provenance, tmp_path: Path):
    before = ModelSpec("mlp-5-4", "gelu")
    told = replace(provenance, trained_with=before)
    found, of = read_spectrum(write(tmp_path / "r.json", dumps(spectrum_json(report, told))))
    assert spectrum_json(found, of) == spectrum_json(report, told)
    assert found.settings == report.settings
    assert found.cost == report.cost
    for name, part in report.parts.items():
        assert found.parts[name].top == part.top
        assert found.parts[name].trace == part.trace
        density = found.parts[name].density
        assert density is not None
        assert part.density is not None
        np.testing.assert_array_equal(density.nodes, part.density.nodes)
    assert of is not None
    assert of.trained_with == before
    assert of.data_sha256 == provenance.data_sha256


def test_what_is_absent_stays_absent(sparse_report: Report, tmp_path: Path):
    found, of = read_spectrum(write(tmp_path / "r.json", dumps(spectrum_json(sparse_report))))
    assert spectrum_json(found) == spectrum_json(sparse_report)
    assert of is None
    assert found.parts["nme"].samples is None


def test_keys_of_other_versions_do_no_harm(payload: dict[str, Any], tmp_path: Path):
    payload["parts"]["gn"]["trace"]["median"] = payload["weather"] = payload["model"]["x"] = 1
    del payload["settings"]["eigenvectors"]  # younger than the schema
    found, _ = read_spectrum(write(tmp_path / "r.json", payload))
    assert found.settings.eigenvectors is False


def at(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Put ``value`` in the place of what lies at ``keys``."""

    def change(payload: dict[str, Any]) -> None:
        for key in keys[:-1]:
            payload = payload[key]
        payload[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at("schema", value="hessdiag.sparsity/1"), "no report of hessdiag spectrum"),
        (at("schema", value=None), "no report of hessdiag spectrum"),
        (at("parts", value=[]), "parts is not of the right kind"),
        (at("parts", value={"curl": {}}), "unknown part"),
        (at("parts", "gn", "trace", "value", value=None), r"parts.gn.trace.value .*\n.*null"),
        (at("parts", "gn", "trace", "value", value="1"), "parts.gn.trace.value"),
        (at("parts", "gn", "trace", "value", value=True), "parts.gn.trace.value"),
        (at("parts", "gn", "trace", "value", value=10**400), "parts.gn.trace.value"),
        (at("parts", "gn", "trace", "ci95", value=[1.0]), "parts.gn.trace.ci95"),
        (at("parts", "gn", "trace", value={}), "parts.gn.trace.value"),
        (at("parts", "gn", "top", value=[3]), "parts.gn.top.0"),
        (at("parts", "gn", "density", "nodes", value=[]), "density of gn has no nodes"),
        (at("parts", "gn", "density", "weights", value=[1.0]), "density of gn has no nodes"),
        (at("parts", "gn", "layers", "fc1.bias", value=2), "parts.gn.layers.fc1.bias"),
        (at("checkpoint", value=3), "checkpoint is not of the right kind"),
        (at("settings", "seed", value=1.5), "settings.seed"),
        (at("settings", "num_probes", value=0), "num_probes is too small"),
        (at("data", "sha256", value=7), "data.sha256"),
        (at("model", "trained_with", value=[]), "model.trained_with"),
        (at("loss", value=None), "loss is not of the right kind"),
    ],
)
def test_what_does_not_fit_is_named(payload: dict[str, Any], tmp_path: Path, change, words: str):
    change(payload)
    with pytest.raises(InputError) as caught:
        read_spectrum(write(tmp_path / "r.json", payload))
    assert "r.json" in str(caught.value)
    caught.match(words)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "[" * 100_000,
        '{"schema": ' + "9" * 5000 + "}",
        "\x00\x01",
        "NaN",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_files_that_are_no_report_are_refused(tmp_path: Path, text: str):
    with pytest.raises(InputError, match=r"r\.json"):
        read_spectrum(write(tmp_path / "r.json", text))


def test_numbers_that_are_not_finite_are_refused(payload: dict[str, Any], tmp_path: Path):
    payload["loss"]["value"] = float("nan")
    with pytest.raises(InputError, match=r"loss\.value"):
        read_spectrum(write(tmp_path / "r.json", payload))


def test_bytes_that_are_no_text_and_what_is_no_file_are_refused(tmp_path: Path):
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read the report"):
        read_spectrum(tmp_path / "r.json")
    os.mkfifo(tmp_path / "pipe.json")  # reading it would wait for a writer for ever
    for name, reason in (
        (".", "Is a directory"),
        ("none.json", "No such file"),
        ("pipe.json", "a device or a pipe"),
    ):
        with pytest.raises(InputError, match=f"(?s)cannot read the report.*{reason}"):
            read_spectrum(tmp_path / name)


def test_a_report_that_is_too_large_is_not_read(tmp_path: Path):
    path = tmp_path / "r.json"
    with path.open("wb") as file:
        file.truncate(files.LARGEST + 1)  # takes no room
    with pytest.raises(InputError, match="at most 67,108,864 are read"):
        read_spectrum(path)
