"""Every command under torchrun: the report of one process; processes that end together."""

import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hessdiag.training import folder, loop, sweep

pytestmark = pytest.mark.slow

ROOT = str(Path(__file__).parents[2])
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SAMPLE = ("--num-samples", 60, "--batch-size", 8, "--dtype", "float64")
FEW = ("--num-probes", 4, "--top-k", 2)
BRIEF = ("--num-probes", 4, "--top-k", 1, "--tolerance", 1e-3, "--no-density")
COMMANDS: dict[str, tuple[Any, ...]] = {
    "spectrum": ("spectrum", "a.safetensors", *SAMPLE, *FEW, "--per-layer"),
    "shard": ("spectrum", "a.safetensors", *SAMPLE, *BRIEF, "--shard"),
    "many": ("spectrum", "a.safetensors", "b.safetensors", *SAMPLE, *FEW),
    "compare": ("compare", "a.safetensors", "b.safetensors", *SAMPLE, *FEW),
    "gate": ("gate", "a.safetensors", *SAMPLE, "--max", "hessian.trace=1e6"),
    "compare-shard": (
        *("compare", "a.safetensors", "b.safetensors", *SAMPLE, *BRIEF),
        *("--part", "hessian", "--shard"),
    ),
    "gate-shard": ("gate", "a.safetensors", *SAMPLE, "--max", "hessian.trace=1e6", "--shard"),
    "fail": ("gate", "a.safetensors", *SAMPLE, "--max", "hessian.trace=1e-6"),
    "sparsity": ("sparsity", "a.safetensors", *SAMPLE),
    "landscape": ("landscape", "a.safetensors", *SAMPLE, "--plane", "random", "--resolution", 5),
    "blocks": ("blocks", "a.safetensors", *SAMPLE, "--num-probes", 4),
}
OWN = {
    *("cost", "seconds", "path", "checkpoint", "passes", "num_processes", "images_per_second"),
    *("truth", "notes"),  # a sharded network has no means to check its derivatives
}
"""What a report says of its making."""


def begin(*args: object, cwd: Path, shared: bool) -> subprocess.Popen[str]:
    launcher = (*TORCHRUN, "-m", "--", "hessdiag") if shared else ("-m", "hessdiag")
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, args)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def leaves(report: Any, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Lay a report out by the paths of its values, but for what it says of its making."""
    if not isinstance(report, (dict, list)):
        return {at: report}
    items = report.items() if isinstance(report, dict) else enumerate(report)
    found: dict[tuple[str, ...], Any] = {}
    for key, value in items:
        if key not in OWN:
            found |= leaves(value, (*at, str(key)))
    return found


def differences(reports: Sequence[Any], rel: float) -> list[str]:
    """Tell where two reports differ by more than rounding, of what is alike the largest number."""
    one, two = map(leaves, reports)
    scales: dict[tuple[str, ...], float] = {}
    for at, value in one.items():
        if isinstance(value, float):
            scales[at[:2]] = max(scales.get(at[:2], 1e-6), abs(value))
    return [
        f"{'.'.join(at)}: {one.get(at)} and {two.get(at)}"
        for at in sorted({*one, *two})
        if (one.get(at) != two.get(at))
        and not (
            isinstance(one.get(at), float)
            and isinstance(two.get(at), float)
            and math.isclose(one[at], two[at], rel_tol=rel, abs_tol=rel * scales[at[:2]])
        )
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_two_processes_report_what_one_does(name: str, here: Path, checkpoint: Path):
    for letter in "ab":
        shutil.copy(checkpoint, here / f"{letter}.safetensors")
    command = tuple(option for option in COMMANDS[name] if option != "--shard")
    target = "{}/" if name == "many" else "{}.json"
    alone = begin(*command, "--json", target.format("one"), cwd=here, shared=False)
    told = alone.communicate(timeout=200)
    shared = begin(*COMMANDS[name], "--json", target.format("two"), cwd=here, shared=True)
    out, err = shared.communicate(timeout=200)
    verdict = re.search(r"exitcode *: (\d)", err)
    assert alone.returncode == (int(verdict[1]) if verdict else shared.returncode), err
    assert out.splitlines()[:2] == told[0].splitlines()[:2]
    paths = [sorted(here.glob(f"{which}*/*.json") or ()) for which in ("one", "two")]
    if name != "many":
        paths = [[here / "one.json"], [here / "two.json"]]
    for one, two in zip(*paths, strict=True):
        reports = [json.loads(path.read_text("utf-8")) for path in (one, two)]
        assert not differences(reports, rel=1e-6)


def half_trained(place: Path) -> None:
    """Leave a run that was stopped in its second epoch."""
    planned = sweep.plan(
        "digits-wrn10-1",
        seeds=[0],
        regularisers=["sam"],
        strengths={},
        changes={"model": "mlp-8", "epochs": 2, "batch_size": 16},
        num_samples=64,
    )
    config = planned.trials[0].config
    steps = itertools.count(1)
    place.mkdir()

    def stop(_: Any) -> None:
        if next(steps) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(config, *loop.load_data(config), out=place, on_step=stop)


@pytest.mark.parametrize("command", ["run", "resume"])
def test_two_processes_train_the_run_of_one(command: str, here: Path):
    runs = ("--model", "mlp-8", "--epochs", 2, "--num-samples", 64, "--reg", "sam")
    for place, shared in (("one", False), ("two", True)):
        if command == "resume":
            half_trained(here / place)
            process = begin("train", "resume", place, "--quiet", cwd=here, shared=shared)
        else:
            given = ("train", "run", *runs, "--out", place, "--quiet")
            process = begin(*given, cwd=here, shared=shared)
        out, err = process.communicate(timeout=200)
        assert (process.returncode, out) == (0, ""), err
    rows = [folder.read_metrics(here / place) for place in ("one", "two")]
    assert len(rows[0]) == 2
    assert not differences(rows, rel=1e-3)


def members(process: subprocess.Popen[str]) -> list[int]:
    """List the processes that torchrun started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found = path.read_text().split() if path.exists() else []
    return [pid for pid in map(int, found) if b"hessdiag" in cmdline(pid)]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("instant", range(20))
def test_the_death_of_one_ends_the_other_with_one_message(
    instant: int, here: Path, checkpoint: Path
):
    command = ("spectrum", checkpoint, *SAMPLE, "--num-probes", 20000, "--json", "r.json", "-q")
    process = begin(*command, cwd=here, shared=True)
    began = time.monotonic()
    while len(own := members(process)) < 2:
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    time.sleep(0.8 * instant)
    os.kill(own[instant % 2], signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=100)
    assert time.monotonic() - killed < 60
    assert process.returncode != 0
    assert out == ""
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(said) <= 1, err
    assert "/hessdiag/" not in err, err  # the only trace is torchrun's own
    assert [path.name for path in here.iterdir()] == []
    assert not any(map(cmdline, own))
