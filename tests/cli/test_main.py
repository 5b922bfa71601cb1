"""The entry point: help, usage, exit codes, interruption, exceptions, hostile names."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import typer

from hessdiag import __version__
from hessdiag.spectra import spectrum_run as spectra_run
from tests.cli.conftest import FAST, Run, images
from tests.cli.test_bad_input import refused

COMMANDS = ("demo", "spectrum", "sparsity", "landscape", "gate", "train", "doctor")


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=60, check=False
    )


# --- help and usage ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        *([command, "--help"] for command in COMMANDS),
        *(["train", command, "--help"] for command in ("run", "resume", "recipes")),
    ],
    ids=" ".join,
)
def test_help_does_not_import_torch(args: list[str]):
    code = (
        "import sys, atexit\n"
        "heavy = ('torch', 'numpy', 'scipy', 'matplotlib', 'torchvision', 'safetensors')\n"
        "atexit.register(lambda: print(*(set(heavy) & set(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['hessdiag', *{args!r}]\n"
        "from hessdiag.__main__ import main\n"
        "main()\n"
    )
    found = python("-c", code)
    assert found.returncode == 0
    assert found.stderr.strip() == ""
    assert "Usage: hessdiag" in found.stdout
    words = COMMANDS if args == ["--help"] else ("--help",)
    assert all(word in found.stdout for word in words)


def test_help_names_every_option_of_the_contract(run: Run):
    text = run("spectrum", "--help").out
    options = """--part --top-k --num-probes --rel-error --density --no-density --per-layer --params
        --model --activation --beta --data --split --num-samples --batch-size --loss --bn --device
        --dtype --seed --json --plot --quiet --data-root --download --max-probes"""
    assert [option for option in options.split() if option not in text] == []


def test_version(run: Run):
    assert run("--version").out == f"hessdiag {__version__}\n"


def test_without_a_command_the_help_is_shown(run: Run):
    outcome = run()
    assert "spectrum" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["spectra"], "No such command 'spectra'.*spectrum"),
        (["spectrum", "x.safetensors", "--topk", "3"], "No such option: --topk.*--top-k"),
        (["gate"], "(?i)Missing argument 'subject'"),
        (["spectrum", "x.safetensors", "--top-k", "many"], "Invalid value for '--top-k'.*integer"),
        (["spectrum", "x.safetensors", "--top-k"], "requires an argument"),
        (["train", "--epoch", "3"], "No such option: --epoch.*--epochs"),
        (["train", "--epochs", "many"], "Invalid value for '--epochs'.*integer"),
        (["train", "surprise"], "No such command.*surprise"),
        (["train", "resume"], "(?i)Missing argument 'run'"),
        (["train", "resume", "x", "--lr", "1"], "No such option: --lr"),
    ],
)
def test_bad_usage(run: Run, args: list[str], words: str):
    outcome = run(*args)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err
    assert re.search(words, outcome.err, re.DOTALL), outcome.err


def test_doctor(run: Run):
    outcome = run("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    for words in (__version__, torch.__version__.split("+")[0], "GiB free", "H = G + N to"):
        assert words in outcome.out
    for words in ("H v in float32 to", "twice the same bits", "gloo"):
        assert words in outcome.out
    assert ("none seen" in outcome.out) == (not torch.cuda.is_available())


def test_doctor_says_if_the_decomposition_is_wrong(run: Run, monkeypatch):
    monkeypatch.setattr("hessdiag.Decomposition.residual", lambda _: 1e-3)
    outcome = run("doctor")
    assert outcome.code == 2
    assert outcome.err.startswith("error: the decomposition does not come out right")


# --- exceptions --------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the computation fail midway."""

    def drive(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(spectra_run, "drive", drive)


@pytest.mark.parametrize(
    "error",
    [
        *(KeyError("x"), RuntimeError("shape\nmismatch"), RuntimeError(), OSError("odd")),
        *(SystemExit(0), SystemExit(1), SystemExit("x"), EOFError(), BrokenPipeError(32, "x")),
        *(typer.Exit(0), typer.Abort(), RecursionError("\x1b[31m")),
    ],
    ids=repr,
)
def test_what_nobody_foresaw_is_a_line_and_a_trace_in_a_file(
    run: Run, checkpoint: Path, here: Path, tmp_path_factory, monkeypatch, error: BaseException
):
    """Whatever is raised, it is no verdict."""
    failing(monkeypatch, error)
    traces = tmp_path_factory.mktemp("traces")
    monkeypatch.setattr(tempfile, "tempdir", str(traces))
    outcome = run("spectrum", checkpoint, *FAST, "--json", "r.json")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err[:-1].isprintable()
    (trace,) = traces.iterdir()
    assert outcome.err.startswith(f"error: unforeseen, its trace is in {trace}: ")
    assert type(error).__name__ in outcome.err
    assert "Traceback" in trace.read_text()
    assert list(here.iterdir()) == []


def test_even_what_passes_all_handlers_is_no_verdict(checkpoint: Path, here: Path):
    (here / "odd.py").write_text(
        "from torch import nn\n"
        "class Odd(BaseException): pass\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(4, 2)\n"
        "    def forward(self, x): raise Odd('well')\n"
    )
    torch.save(torch.nn.Linear(4, 2).state_dict(), here / "net.pt")
    np.savez(here / "d.npz", inputs=np.ones((3, 4), np.float32), labels=np.zeros(3, np.int64))
    args = ("gate", "net.pt", "--max", "loss=1", "--model", "odd:Net", "--data", "d.npz")
    done = python("-m", "hessdiag", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: unforeseen, its trace is in .*: Odd: well\n", done.stderr)


def test_a_trace_that_cannot_be_written(run: Run, checkpoint: Path, here: Path, monkeypatch):
    failing(monkeypatch, KeyError("x"))
    monkeypatch.setattr(tempfile, "tempdir", str(here / "none"))
    outcome = run("spectrum", checkpoint, *FAST)
    assert outcome.code == 2
    assert outcome.err == "error: unforeseen, its trace cannot be written: KeyError: 'x'\n"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError("Unable to allocate 3 TiB"),
        MemoryError(),
    ],
    ids=repr,
)
def test_out_of_memory_is_said_clearly(
    run: Run, checkpoint: Path, here: Path, monkeypatch, error: Exception
):
    failing(monkeypatch, error)
    outcome = run("spectrum", checkpoint, *FAST, "--json", "r.json")
    refused(outcome, "out of memory.*--batch-size")
    assert len(outcome.err.splitlines()) <= 4
    assert list(here.iterdir()) == []


def test_out_of_memory_inside_the_network_is_no_matter_of_its_input(run: Run, here: Path):
    (here / "hungry.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(4, 2)\n"
        "    def forward(self, x):\n"
        '        raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: 9 bytes")\n'
    )
    torch.save(torch.nn.Linear(4, 2).state_dict(), here / "net.pt")
    np.savez(here / "d.npz", inputs=np.ones((3, 4), np.float32), labels=np.zeros(3, np.int64))
    refused(run("spectrum", "net.pt", "--model", "hungry:Net", "--data", "d.npz"), "out of memory")


# --- interruption ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["hessdiag.subjects.subject.load", "hessdiag.spectra.spectrum_run.drive"]
)
def test_an_interruption(run: Run, checkpoint: Path, here: Path, monkeypatch, where: str):
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    outcome = run("spectrum", checkpoint, *FAST, "--json", "r.json")
    assert (outcome.code, outcome.out) == (130, "")
    assert "Traceback" not in outcome.err
    assert list(here.iterdir()) == []


def test_an_interruption_while_writing(run: Run, checkpoint: Path, here: Path, monkeypatch):
    def interrupt(path: Path, *_: Any, **__: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupt)
    assert run("spectrum", checkpoint, *FAST, "--json", "r.json").code == 130
    assert list(here.iterdir()) == []


LONG = ("--dtype", "float64", "--max-passes", "100000", "--tolerance", "1e-15", "--top-k", "40")


def interrupted(command: list[str], when: Callable[[int], None]) -> None:
    """Start a long command, interrupt it, and look at what is left in this folder."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *command], **pipes) as process:
        try:
            when(process.pid)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []


def test_ctrl_c(checkpoint: Path, here: Path):
    def midway(pid: int) -> None:
        deadline = time.monotonic() + 60
        while "scipy" not in Path(f"/proc/{pid}/maps").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)
        os.kill(pid, signal.SIGINT)

    outputs = ("--json", "r.json", "--plot", "p.png", "--basis-size", "170")
    interrupted(["-m", "hessdiag", "spectrum", str(checkpoint), *LONG, *outputs], midway)


def test_ctrl_c_during_an_import(checkpoint: Path, here: Path):
    """Torch imports numpy in C++, if nobody has before, and clears whatever is raised there."""
    args = ["hessdiag", "spectrum", str(checkpoint), *LONG, "--json", "r.json"]
    code = f"""
import signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "numpy._globals":
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = {args!r}
from hessdiag.__main__ import main
main()
"""
    interrupted(["-c", code], lambda _: None)


# --- hostile names -----------------------------------------------------------------------------

ESCAPE = "\x1b[31mred\x1b[0m\x07"


def test_control_characters_in_a_file_name_are_shown_not_sent(run: Run, checkpoint: Path, here):
    path = images(here / f"{ESCAPE}[bold].npz")
    outcome = run("spectrum", checkpoint, *FAST, "--data", path)
    assert outcome.code == 0
    assert "[bold].npz" in outcome.out
    assert outcome.out.replace("\n", "").isprintable()
    refused(run("spectrum", here / f"{ESCAPE}.safetensors"), r"\\x1b\[31mred")
    refused(run("spectrum", checkpoint, "--loss", ESCAPE), r"\\x1b\[31mred")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": f"[red]{ESCAPE}"}, r"unknown loss.*\[red\]"),
        ({"schema": ESCAPE}, r"metadata cannot be read.*schema"),
        ({"model": {"name": f"[/]{ESCAPE}"}}, r"unknown model.*\[/\]"),
        ({"model": {"name": "mlp-8", "surprise": 1}}, "metadata cannot be read"),
        ({"model": {"name": "mlp-8", "num_classes": -5}}, "Expected int >= 0"),
        ({"data": {"spec": f"[red]{ESCAPE}"}}, r"unknown data.*\[red\]"),
        ({"data": {"spec": "digits", "mean": [1.0, 2.0], "std": [1.0, 2.0]}}, "do not fit"),
        ({"data": {"spec": "digits", "mean": [0.1], "std": [0.0]}}, "out of range"),
    ],
    ids=str,
)
def test_hostile_metadata(run: Run, checkpoint: Path, here: Path, change: dict[str, Any], words):
    with safetensors.safe_open(checkpoint, "pt") as opened:
        header = json.loads(opened.metadata()["hessdiag"])
    tensors = safetensors.torch.load_file(checkpoint)
    meta = {"hessdiag": json.dumps(header | change)}
    safetensors.torch.save_file(tensors, here / "h.safetensors", meta)
    outcome = run("spectrum", "h.safetensors", *FAST)
    refused(outcome, words)
    assert outcome.err.replace("\n", "").isprintable()


def test_metadata_alone_does_not_run_a_factory(run: Run, checkpoint: Path, here: Path):
    """A file from somebody else must not choose which code of this machine is called."""
    (here / "trap.py").write_text("from pathlib import Path\nPath('it-ran').touch()\n")
    with safetensors.safe_open(checkpoint, "pt") as opened:
        header = json.loads(opened.metadata()["hessdiag"])
    for change in ({"model": {"name": "trap:f"}}, {"data": {"spec": "trap:f"}}):
        meta = {"hessdiag": json.dumps(header | change)}
        tensors = safetensors.torch.load_file(checkpoint)
        safetensors.torch.save_file(tensors, here / "h.safetensors", meta)
        refused(run("spectrum", "h.safetensors", *FAST), "trap:f")
    assert not os.path.exists("it-ran")
