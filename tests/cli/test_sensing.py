"""``hessdiag train sensing``."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hessdiag.training.sensing import Settings
from hessdiag.training.sensing import sensing as descend
from tests.cli.conftest import Run
from tests.cli.test_bad_input import refused


def test_it_is_a_thin_layer_over_the_library(run: Run):
    options = ("--steps", 2, "--num-pairs", 2, "--sigma", 0.1, "--seed", 5, "--dtype", "float64")
    outcome = run("train", "sensing", *options, "--device", "cpu", "--json", "-")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out, parse_constant=lambda name: pytest.fail(name))
    settings = Settings(steps=2, num_pairs=2, sigma=0.1, seed=5, dtype="float64", device="cpu")
    curves = descend(settings).curves
    for method in found["methods"]:
        wanted = curves[method["name"]]
        assert method["relative_error"] == pytest.approx(wanted.relative_error, rel=1e-10)
        assert method["trace"] == pytest.approx(wanted.trace, rel=1e-10)


def test_files_are_written_whole(run: Run, here: Path):
    outcome = run("train", "sensing", "--steps", 1, "--plot", "p.png", "--json", "r.json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("matrix sensing: rank 5 of 100 × 100, 2,500 measurements\n")
    assert sorted(path.name for path in here.iterdir()) == ["p.png", "r.json"]
    with Image.open(here / "p.png") as image:
        image.verify()


def test_quiet_prints_nothing(run: Run):
    outcome = run("train", "sensing", "--steps", 1, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", 0), "--steps is too small"),
        (("--num-pairs", 0), "--num-pairs is too small"),
        (("--sigma", -1), "sigma is out of range"),
        (("--sigma", "nan"), "sigma is out of range"),
        (("--dtype", "float16"), "unknown dtype"),
        (("--device", "gpu"), "unknown device"),
        (("--plot", "p.gif"), "unknown kind of plot"),
        (("--json", "none/r.json"), "folder does not exist"),
    ],
)
def test_bad_input(run: Run, here: Path, options: tuple[Any, ...], words: str):
    refused(run("train", "sensing", "--json", "r.json", *options), words)
    assert list(here.iterdir()) == []


def test_help_names_every_option_and_does_not_import_torch():
    code = (
        "import sys, atexit\n"
        "heavy = ('torch', 'numpy', 'scipy', 'matplotlib', 'torchvision', 'safetensors')\n"
        "atexit.register(lambda: print(*(set(heavy) & set(sys.modules)), file=sys.stderr))\n"
        "sys.argv = ['hessdiag', 'train', 'sensing', '--help']\n"
        "from hessdiag.__main__ import main\n"
        "main()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.returncode, found.stderr.strip()) == (0, "")
    options = "--steps --num-pairs --sigma --device --dtype --seed --json --plot --quiet"
    assert [option for option in options.split() if option not in found.stdout] == []
