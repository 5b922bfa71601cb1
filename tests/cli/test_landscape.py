"""``hessdiag landscape`` with a checkpoint and without."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from PIL import Image

import hessdiag
from hessdiag.data import datasets
from hessdiag.metadata import ModelSpec
from hessdiag.nets import models
from tests.cli.conftest import Run
from tests.cli.test_bad_input import refused

FAST = ("--num-samples", 20, "--resolution", 3)
WEIGHTS = ("--weight", "layers.0.weight[0,20]", "--weight", "layers.0.weight[1,21]")


def landscape(run: Run, *args: Any) -> dict[str, Any]:
    """Run it with ``--json -`` and read its stdout, which must hold nothing else."""
    outcome = run("landscape", *args, "--json", "-")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    return json.loads(outcome.out, parse_constant=lambda name: pytest.fail(name))


def test_without_a_checkpoint_relu_stands_beside_beta_gelu(run: Run):
    found = landscape(run, "--resolution", 9)
    assert [(s["activation"], s["beta"]) for s in found["surfaces"]] == [
        ("relu", None),
        ("beta_gelu", 10.0),
    ]
    relu, smooth = found["surfaces"]
    assert not any(map(any, relu["nme_norm"]))
    assert max(map(max, smooth["nme_norm"])) > 1
    assert found["settings"]["dtype"] == "float64"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--beta", 3), ("beta_gelu", 3.0)),
        (("--activation", "beta_gelu"), ("beta_gelu", 10.0)),
        (("--activation", "tanh"), ("tanh", None)),
        (("--activation", "relu"), ("relu", None)),
    ],
)
def test_the_activation_can_be_chosen(run: Run, options, wanted):
    surfaces = landscape(run, "--resolution", 3, "--radius", 0.5, *options)["surfaces"]
    assert (surfaces[-1]["activation"], surfaces[-1]["beta"]) == wanted
    assert len(surfaces) == (1 if wanted[0] == "relu" else 2)


def test_files_are_written_whole(run: Run, here: Path):
    outcome = run("landscape", "--resolution", 5, "--plot", "p.png", "--json", "r.json")
    assert (outcome.code, outcome.err) == (0, "")
    assert "relu beside beta_gelu(10)" in outcome.out
    assert sorted(path.name for path in here.iterdir()) == ["p.png", "r.json"]
    assert json.loads((here / "r.json").read_text("utf-8"))["settings"]["resolution"] == 5
    with Image.open(here / "p.png") as image:
        image.verify()


def test_without_a_checkpoint_the_grid_is_fine(run: Run):
    assert f"{2 * 161**2:,} points" in run("landscape").out


def test_quiet_prints_nothing(run: Run, checkpoint: Path):
    for args in ((), (checkpoint, "--num-samples", 20)):
        outcome = run("landscape", *args, "--resolution", 2, "--quiet")
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_the_checkpoint_alone_is_enough(run: Run, checkpoint: Path):
    outcome = run("landscape", checkpoint, *FAST)
    assert (outcome.code, outcome.err) == (0, "")
    for words in ("mlp-8 gelu on digits (train)", "random direction 1", "NME norm", "at θ"):
        assert words in outcome.out


def test_the_default_resolution_of_a_checkpoint(run: Run, checkpoint: Path):
    found = landscape(run, checkpoint, "--num-samples", 5)
    assert (found["settings"]["resolution"], found["cost"]["num_points"]) == (25, 625)


def test_it_is_a_thin_layer_over_the_library(run: Run, checkpoint: Path):
    options = ("--radius", 0.5, "--num-probes", 2, "--seed", 3, "--dtype", "float64")
    found = landscape(run, checkpoint, *FAST, *WEIGHTS, *options)
    model = models.build(ModelSpec("mlp-8", "gelu", None, 10, (1, 8, 8))).double()
    model.load_state_dict(safetensors.torch.load_file(checkpoint))
    data = datasets.load("digits", num_samples=20, seed=3)
    own = hessdiag.landscape(
        model,
        [(data.inputs, data.targets)],
        weights=("layers.0.weight[0,20]", "layers.0.weight[1,21]"),
        resolution=3,
        radius=0.5,
        num_probes=2,
        seed=3,
    )
    (surface,), (wanted,) = found["surfaces"], own.surfaces
    assert found["plane"]["labels"] == list(own.labels)
    assert found["data"]["sha256"] == data.sha256
    for i, j in ((0, 0), (1, 2)):
        for name in ("loss", "gn_norm", "nme_norm"):  # statistics of the data are rounded
            assert surface[name][i][j] == pytest.approx(getattr(wanted, name)[i, j], rel=1e-4)
        assert wanted.nme_full is not None
        got = surface["nme_full"]["value"][i][j]
        assert got == pytest.approx(wanted.nme_full.value[i, j], rel=1e-4)


@pytest.mark.parametrize("plane", ["random", "hessian", "gn", "nme"])
def test_planes_by_name(run: Run, checkpoint: Path, plane: str):
    found = landscape(run, checkpoint, *FAST, "--plane", plane, "--batch-size", 7)
    assert found["plane"]["kind"] == plane
    assert len(found["plane"]["eigenvalues"]) == (0 if plane == "random" else 2)
    assert found["settings"]["batch_size"] == 7


def test_common_options_are_heeded(run: Run, checkpoint: Path):
    found = landscape(
        run,
        *(checkpoint, *FAST, "--loss", "mse", "--split", "test", "--params", "layers.2.*"),
        *("--activation", "beta_gelu", "--beta", 3, "--bn", "batch"),
    )
    assert found["loss"]["name"] == "mse"
    assert found["data"]["split"] == "test"
    before = {"activation": "gelu", "beta": None}
    model = {"name": "mlp-8", "activation": "beta_gelu", "beta": 3.0, "trained_with": before}
    assert found["model"] == model
    assert found["checkpoint"]["num_parameters"] == 90
    assert found["settings"]["bn"] == "batch"


BAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "plane": (("--plane", "randm"), "unknown plane.*did you mean random"),
    "one weight": (WEIGHTS[:2], "spanned by two weights.*--weight 1 times"),
    "three weights": ((*WEIGHTS, *WEIGHTS[:2]), "spanned by two weights.*--weight 3 times"),
    "both": ((*WEIGHTS, "--plane", "gn"), "both --weight and --plane gn"),
    "the same twice": ((*WEIGHTS[:2], *WEIGHTS[:2]), "two weights are the same"),
    "no such weight": ((*WEIGHTS[:2], "--weight", "layer.0.weight[0,0]"), "mean layers.0.weight"),
    "no index": (
        (*WEIGHTS[:2], "--weight", "layers.0.weight"),
        "missing.*0 to 7, 0 to 63",
    ),
    "far index": ((*WEIGHTS[:2], "--weight", "layers.0.weight[8,0]"), "out of range"),
    "resolution": (("--resolution", 1), "resolution is out of range"),
    "huge": (("--resolution", 10**7), "too large for the memory.*a resolution of at most"),
    "radius": (("--radius", 0), "radius is out of range"),
    "NaN radius": (("--radius", "nan"), "radius is out of range"),
    "num-probes": (("--num-probes", -1), "--num-probes is out of range"),
    "loss": (("--loss", "mes"), "unknown loss.*mse"),
    "params": (("--params", "layrs.*"), "no trainable parameter"),
    "no filters": (("--params", "*.bias"), "no filters to take random directions in"),
    "plot": (("--plot", "p.gif"), "unknown kind of plot"),
    "device": (("--device", "gpu"), "unknown device"),
}
BAD_ALONE: dict[str, tuple[tuple[Any, ...], str]] = {
    "resolution": (("--resolution", 0), "resolution is out of range"),
    "huge": (("--resolution", 10**7), "too large for the memory"),
    "radius": (("--radius", "inf"), "radius is out of range"),
    "beta": (("--beta", 0), "β is out of range"),
    "NaN beta": (("--beta", "nan"), "β is out of range"),
    "needless beta": (("--activation", "gelu", "--beta", 2), "takes no β"),
    "activation": (("--activation", "gleu"), "unknown activation.*did you mean gelu"),
    "folder": (("--json", "none/r.json"), "folder does not exist"),
}
NEED_A_CHECKPOINT = (
    WEIGHTS,
    ("--plane", "gn"),
    ("--num-probes", 0),
    ("--model", "mlp-8"),
    ("--data", "digits"),
    ("--split", "train"),
    ("--num-samples", 5),
    ("--batch-size", 5),
    ("--loss", "mse"),
    ("--bn", "eval"),
    ("--params", "*"),
    ("--data-root", "."),
    ("--download",),
    ("--device", "cpu"),
    ("--dtype", "float32"),
)


@pytest.mark.parametrize("name", BAD)
def test_bad_input(run: Run, checkpoint: Path, here: Path, name: str):
    options, words = BAD[name]
    args = [*FAST, "--json", "r.json", *options]
    refused(run("landscape", checkpoint, *args), words)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", BAD_ALONE)
def test_bad_input_without_a_checkpoint(run: Run, here: Path, name: str):
    options, words = BAD_ALONE[name]
    refused(run("landscape", "--resolution", 3, *options), words)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("options", NEED_A_CHECKPOINT, ids=lambda options: options[0])
def test_what_needs_a_checkpoint_is_refused_without_one(run: Run, options: tuple[Any, ...]):
    refused(run("landscape", "--resolution", 3, *options), f"^error: {options[0]} needs a check")


def test_several_are_named_together(run: Run):
    outcome = run("landscape", "--plane", "gn", "--num-probes", 3)
    refused(outcome, "--plane, --num-probes need a checkpoint")


def test_a_missing_file(run: Run):
    refused(run("landscape", "none.safetensors"), "none.safetensors.*No such file")


def test_help_does_not_import_torch():
    code = (
        "import sys, atexit\n"
        "heavy = ('torch', 'numpy', 'scipy', 'matplotlib', 'torchvision', 'safetensors')\n"
        "atexit.register(lambda: print(*(set(heavy) & set(sys.modules)), file=sys.stderr))\n"
        "sys.argv = ['hessdiag', 'landscape', '--help']\n"
        "from hessdiag.__main__ import main\n"
        "main()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.returncode, found.stderr.strip()) == (0, "")
    options = """--weight --plane --resolution --radius --num-probes --params --model --activation
        --beta --data --split --num-samples --batch-size --loss --bn --device --dtype --seed --json
        --plot --quiet"""
    assert [option for option in options.split() if option not in found.stdout] == []
    assert re.search(r"25,\s+or\s+161\s+without\s+a\s+checkpoint", found.stdout)
