"""``hessdiag compare`` of checkpoints and of reports."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hessdiag
from hessdiag.subjects.subject import load
from tests.cli.conftest import FAST, Run, images, tampered


@pytest.fixture
def other(checkpoint: Path, here: Path) -> Path:
    """The checkpoint a little way along a random direction."""

    def change(tensors: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        for tensor in tensors.values():
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator)

    return tampered(here / "other.safetensors", checkpoint, change)


def comparison(run: Run, *args: Any) -> dict[str, Any]:
    """Compare with ``--json -`` and read stdout, which must hold nothing else."""
    outcome = run("compare", *args, "--json", "-")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out, parse_constant=lambda name: pytest.fail(name))


def refusal(run: Run, *args: Any) -> str:
    outcome = run("compare", *args)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err
    return outcome.err


@pytest.fixture
def reports(run: Run, checkpoint: Path, other: Path, here: Path) -> tuple[str, str]:
    """Spectra of both, with densities, written as JSON."""
    fast = ("--num-samples", 20, "--num-probes", 13, "--top-k", 1, "--depth", 4, "--quiet")
    for path, name in ((checkpoint, "a.json"), (other, "b.json")):
        assert run("spectrum", path, *fast, "--json", name).code == 0
    return "a.json", "b.json"


def test_two_checkpoints_are_enough(run: Run, checkpoint: Path, other: Path):
    found = comparison(run, checkpoint, other, *FAST)
    assert found["schema"] == "hessdiag.compare/1"
    assert found["paired"] is True
    assert list(found["parts"]) == ["hessian", "gn", "nme"]
    assert found["a"]["checkpoint"]["path"] == str(checkpoint)
    assert found["b"]["checkpoint"]["path"] == str(other)
    assert found["a"]["data"] == found["b"]["data"]
    assert found["a"]["data"]["num_samples"] == 20
    assert 0 < found["parts"]["gn"]["overlap"]["value"] <= 1


def test_it_is_a_thin_layer_over_the_library(run: Run, checkpoint: Path, other: Path):
    options = ("--dtype", "float64", "--seed", 3, "--params", "layers.2.*", "--part", "nme")
    found = comparison(run, checkpoint, other, *FAST, *options)
    a, b = (
        load(str(path), num_samples=20, dtype="float64", seed=3) for path in (checkpoint, other)
    )
    own = hessdiag.compare(
        a.model,
        b.model,
        a.batches(),
        params="layers.2.*",
        dtype=a.dtype,
        parts=("nme",),
        num_probes=2,
        top_k=1,
        density=False,
        seed=3,
    )
    (part,) = found["parts"].values()
    trace = own.parts["nme"].trace
    assert part["trace"]["difference"]["value"] == pytest.approx(trace.value, rel=1e-9)
    assert part["trace"]["difference"]["error"] == pytest.approx(trace.error, rel=1e-9)
    assert found["loss"]["difference"] == pytest.approx(own.b.loss - own.a.loss)


def test_the_table_goes_to_stdout_and_files_are_whole(
    run: Run, checkpoint: Path, other: Path, here: Path
):
    args = ("--num-samples", 20, "--num-probes", 2, "--top-k", 1, "--depth", 4)
    outcome = run("compare", checkpoint, other, *args, "--json", "c.json", "--plot", "c.png")
    assert (outcome.code, outcome.err) == (0, "")
    for words in ("Hessian H", "NME N", "B − A", "mlp-8 gelu on digits (train)", "the same probes"):
        assert words in outcome.out
    with Image.open(here / "c.png") as image:
        image.verify()
    assert json.loads((here / "c.json").read_text("utf-8"))["parts"]["nme"]["density"]["a"]


def test_data_loss_and_sample_are_those_of_a(run: Run, checkpoint: Path, other: Path, here: Path):
    found = comparison(run, checkpoint, other, *FAST, "--data", images(here / "own.npz"))
    assert found["a"]["data"]["spec"].endswith("own.npz")
    assert found["a"]["data"]["sha256"] == found["b"]["data"]["sha256"]
    found = comparison(run, checkpoint, other, *FAST, "--loss", "mse", "--split", "test")
    assert (found["loss"]["name"], found["b"]["data"]["split"]) == ("mse", "test")


def test_networks_of_different_shapes_are_compared_unpaired(run: Run, checkpoint: Path, here: Path):
    options = ("--model", "mlp-6", "--epochs", 1, "--num-samples", 100, "--out", "six")
    assert run("train", "--quiet", *options).code == 0
    found = comparison(run, checkpoint, "six/model.safetensors", *FAST)
    assert found["paired"] is False
    assert found["parts"]["gn"]["overlap"] is None
    assert "differ in names or shapes" in found["notes"][0]


def test_two_reports(run: Run, reports: tuple[str, str], here: Path):
    outcome = run("compare", *reports, "--json", "c.json", "--plot", "c.svg")
    assert (outcome.code, outcome.err) == (0, "")
    assert "share a seed" in " ".join(outcome.out.split())
    assert (here / "c.svg").exists()
    found = json.loads((here / "c.json").read_text("utf-8"))
    stored = [json.loads((here / name).read_text("utf-8")) for name in reports]
    for name, part in found["parts"].items():
        a, b = (report["parts"][name]["trace"] for report in stored)
        difference = part["trace"]["difference"]
        assert difference["value"] == pytest.approx(b["value"] - a["value"])
        assert difference["error"] < np.hypot(a["stderr"], b["stderr"])
        assert part["overlap"] is None
        assert part["density"]["b"] == stored[1]["parts"][name]["density"]
    for side, report in zip("ab", stored, strict=True):
        assert found[side] == {key: report[key] for key in found[side]}


def test_reports_know_their_differences_as_well(
    run: Run, checkpoint: Path, other: Path, reports: tuple[str, str]
):
    fast = ("--num-samples", 20, "--num-probes", 13, "--top-k", 1, "--depth", 4)
    paired = comparison(run, checkpoint, other, *fast)
    stored = comparison(run, *reports)
    for name in ("hessian", "gn"):
        own, kept = (of["parts"][name]["trace"]["difference"] for of in (paired, stored))
        assert kept["value"] == pytest.approx(own["value"], abs=1e-4)
        assert kept["error"] == pytest.approx(own["error"], rel=0.01)


def test_reports_on_different_data_are_refused_unless_allowed(
    run: Run, checkpoint: Path, reports: tuple[str, str]
):
    options = ("--quiet", "--seed", 5, "--json", "c.json")
    assert run("spectrum", checkpoint, *FAST, *options).code == 0
    message = refusal(run, reports[0], "c.json")
    assert "not known to have seen the same data" in message
    assert "--allow-different-data" in message
    assert run("compare", reports[0], "c.json", "--allow-different-data").code == 0


def test_data_that_change_between_the_two_are_refused(run: Run, checkpoint: Path, here: Path):
    (here / "moody.py").write_text(
        "import torch\ndef data(): return torch.rand(12, 1, 8, 8), torch.arange(12) % 10\n"
    )
    fast = ("--num-probes", 2, "--top-k", 1, "--no-density", "--data", "moody:data")
    assert "not known to have seen the same data" in refusal(run, checkpoint, checkpoint, *fast)


def test_a_report_and_a_checkpoint_are_refused(run: Run, checkpoint: Path, reports):
    for pair in ((checkpoint, reports[0]), (reports[0], checkpoint)):
        assert "a report can only be compared with a report" in refusal(run, *pair)


@pytest.mark.parametrize(
    "options", [("--num-probes", 4), ("--data", "digits"), ("--no-density",), ("--part", "gn")]
)
def test_options_that_reports_cannot_heed_are_refused(run: Run, reports, options: tuple[Any, ...]):
    message = refusal(run, *reports, *options)
    assert "cannot be applied to reports" in message
    assert options[0].replace("--no-", "--") in message


def test_checkpoints_meet_the_same_data_always(run: Run, checkpoint: Path):
    message = refusal(run, checkpoint, checkpoint, "--allow-different-data")
    assert "checkpoints are compared on the same data" in message


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--part", "curl"), "unknown part"),
        (("--plot", "c.png", "--no-density"), "--plot draws the densities"),
        (("--plot", "c.gif"), "unknown kind of plot"),
        (("--json", "missing/c.json"), "folder does not exist"),
        (("--dtype", "float8"), "unknown dtype"),
        (("--top-k", 100_000), "more eigenvalues are asked for"),
    ],
)
def test_bad_options(run: Run, checkpoint: Path, here: Path, args: tuple[Any, ...], words: str):
    assert words in refusal(run, checkpoint, checkpoint, "--num-samples", 20, *args)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "hessdiag.spectrum/1"}', "[" * 10_000])
def test_damaged_reports(run: Run, here: Path, content: str):
    (here / "a.json").write_text(content)
    assert "a.json" in refusal(run, "a.json", "a.json")
    assert "cannot be read" in refusal(run, "none.json", "none.json")


def test_help_says_what_a_and_b_are(run: Run):
    outcome = run("compare", "--help")
    assert outcome.code == 0
    assert re.search(r"\[OPTIONS\] \W?A\W? \W?B", outcome.out)
    assert "--allow-different-data" in outcome.out
