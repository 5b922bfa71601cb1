"""Places that cannot be read or written, or lead nowhere: refused in words, nothing left behind."""

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hessdiag
from tests.cli.conftest import FAST, Run
from tests.privileges import ordinary

Place = Callable[[Path], Path]


def a_folder(here: Path) -> Path:
    (here / "folder.json").mkdir()
    return here / "folder.json"


def a_loop(here: Path) -> Path:
    (here / "loop.json").symlink_to(here / "loop.json")
    return here / "loop.json"


def a_loop_of_folders(here: Path) -> Path:
    (here / "one").symlink_to(here / "two")
    (here / "two").symlink_to(here / "one")
    return here / "one" / "r.json"


def below_a_file(here: Path) -> Path:
    (here / "file").touch()
    return here / "file" / "r.json"


def a_full_disk(here: Path) -> Path:
    return Path("/dev/full")


def a_link_to_a_full_disk(here: Path) -> Path:
    (here / "full.json").symlink_to("/dev/full")
    return here / "full.json"


def a_pipe(here: Path) -> Path:
    os.mkfifo(here / "pipe.json")
    return here / "pipe.json"


def nowhere(here: Path) -> Path:
    return here / "missing" / "r.json"


def a_read_only_folder(here: Path) -> Path:
    (here / "read-only").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    return here / "read-only" / "r.json"


PLACES = (
    *(a_folder, a_loop, a_loop_of_folders, below_a_file, a_full_disk, a_link_to_a_full_disk),
    *(a_pipe, nowhere, a_read_only_folder),
)
each_place = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
OUTPUTS = {
    "spectrum --json": ["spectrum", *FAST, "model.safetensors", "--json"],
    "sparsity --json": ["sparsity", "model.safetensors", "--json"],
    "landscape --json": ["landscape", "--json"],
    "compare --json": ["compare", "spectrum.json", "spectrum.json", "--json"],
    "gate --json": ["gate", "--max", "loss=99", "spectrum.json", "--json"],
    "gate --junit": ["gate", "--max", "loss=99", "spectrum.json", "--junit"],
    "gate --gitlab": ["gate", "--max", "loss=99", "spectrum.json", "--gitlab"],
    "gate --write-baseline": ["gate", "model.safetensors", "--write-baseline"],
    "train --out": ["train", "--model", "mlp-4", "--num-samples", "20", "--out"],
}
INPUTS = {
    "spectrum": ["spectrum"],
    "spectrum --data": ["spectrum", "model.safetensors", "--data"],
    "gate": ["gate", "--max", "loss=99"],
    "gate --baseline": ["gate", "--max-increase", "loss=99", "spectrum.json", "--baseline"],
    "gate --config": ["gate", "spectrum.json", "--config"],
    "compare": ["compare", "spectrum.json"],
    "report": ["report"],
    "train --config": ["train", "--config"],
    "train resume": ["train", "resume"],
}


@pytest.fixture
def here(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("spectrum.json", "model.safetensors"):
        (tmp_path / name).write_bytes((samples / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@each_place
@pytest.mark.parametrize("command", OUTPUTS)
def test_a_place_that_cannot_be_written(run: Run, here: Path, place: Place, command: str):
    if command == "train --out" and place in (a_folder, nowhere):
        pytest.skip("a run makes its folder")
    target = place(here)
    before = sorted(here.rglob("*"))
    with ordinary():
        outcome = run(*OUTPUTS[command], target)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("place", [one for one in PLACES if one is not a_pipe])
@pytest.mark.parametrize("command", INPUTS)
def test_a_place_that_cannot_be_read(run: Run, here: Path, place: Place, command: str):
    target = place(here)
    with ordinary():
        outcome = run(*INPUTS[command], target)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("command", [name for name in INPUTS if name != "train resume"])
def test_a_file_that_must_not_be_read(run: Run, here: Path, command: str):
    suffix = {"spectrum": "safetensors", "spectrum --data": "npz"}.get(command, "json")
    path = here / f"secret.{suffix}"
    path.touch(mode=0)
    with ordinary():
        outcome = run(*INPUTS[command], path)
    assert (outcome.code, "Permission denied" in outcome.err) == (2, True), outcome.err


@pytest.mark.parametrize("megabytes", [120, 400])
def test_an_address_space_without_room_for_torch(here: Path, megabytes: int):
    size = megabytes << 20
    done = subprocess.run(
        [sys.executable, "-m", "hessdiag", "gate", "spectrum.json", "--max", "loss=99"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(hessdiag.__file__).parents[1])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
    )
    told = f"error: the address space does not hold torch\n  got: a limit of {megabytes:,} MiB\n"
    assert done.returncode == 2
    assert done.stderr.decode().startswith(told)
    assert done.stderr.count(b"\n") == 3
