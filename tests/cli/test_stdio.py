"""Streams that are closed, full, broken or narrow change no verdict and hide no failure."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hessdiag.cli import stdio
from tests.cli.conftest import Run


def full(descriptor: int) -> Callable[[], None]:
    return lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor) and None


def call(here: Path, args: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **options.pop("env", {})}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-m", "hessdiag", *args], cwd=here, env=env, **given)


def test_a_working_directory_that_is_gone(tmp_path: Path):
    done = call(
        tmp_path, ["doctor"], preexec_fn=lambda: (os.mkdir("x"), os.chdir("x"), os.rmdir("../x"))
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: the working directory is gone")


@pytest.mark.parametrize(
    "told",
    [
        *({"WORLD_SIZE": size} for size in ("abc", "0", "-1", "2.5", "1e3", "9" * 20, "²")),
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "http"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1", "LOCAL_RANK": "?"},
    ],
    ids=str,
)
def test_processes_that_nobody_started(run: Run, monkeypatch, told: dict[str, str]):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    outcome = run("train", "recipes")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: the environment's ")


def test_no_number_of_processes_is_one(run: Run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "")
    assert run("train", "recipes").code == 0


def test_output_that_is_lost_is_a_failure(tmp_path: Path):
    done = call(tmp_path, ["train", "recipes"], preexec_fn=full(1))
    assert done.returncode == 2
    assert b"the output cannot be written" in done.stderr


def written(encoding: str, text: str) -> str:
    raw = io.BytesIO()
    stream = stdio.Stream(io.TextIOWrapper(raw, encoding, write_through=True))
    stream.write(text)
    assert stream.failure is None
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "text", "wanted"),
    [
        ("ascii", "λ max ≤ 3 ± 10⁻²", "lambda max <= 3 +- 10-2"),
        ("cp1252", "λ ± φ''", "lambda ± phi''"),
        ("utf-8", "λ é \udcff", "λ é \\udcff"),
        ("ascii", "é 雪", "e \\u96ea"),
        ("utf-16", "λ", "λ"),
    ],
)
def test_what_has_no_code_is_spelt(encoding: str, text: str, wanted: str):
    assert written(encoding, text) == wanted


@pytest.mark.parametrize(
    "pieces",
    [
        ("::error::x",),
        (":", ":error::x"),
        ("a\n", " ::error::x"),
        ("a\r::error::x",),
        ("a ##[error]x",),
        ("#", "#", "[error]x"),
        ("##vs", "o[task]x", "\n::", "stop"),
        ("\u2028::x", "\x85::y"),
        ("###[x] ##[y]",),
    ],
    ids=repr,
)
def test_no_text_is_a_command_to_ci(pieces: tuple[str, ...]):
    raw = io.StringIO()
    stream = stdio.Stream(raw)
    assert [stream.write(piece) for piece in pieces] == [*map(len, pieces)]
    shown = raw.getvalue()
    assert not any(line.lstrip().startswith("::") for line in shown.splitlines())
    assert re.search(r"##\w*\[", shown) is None
    assert shown.replace("\\", "") == "".join(pieces).replace("\u2028", "u2028").replace(
        "\x85", "u0085"
    )


def test_a_command_of_our_own_is_one():
    raw = io.StringIO()
    stdio.Stream(raw).command("::error::ours\n")
    assert raw.getvalue() == "::error::ours\n"


def test_the_streams_are_given_back(run: Run):
    own = sys.stdout, sys.stderr
    run("train", "recipes")
    assert (sys.stdout, sys.stderr) == own


def test_no_library_speaks_of_threads(tmp_path: Path):
    args = ["sparsity", "--activation", "gelu", "--quiet"]
    done = call(tmp_path, args, env={"OMP_NUM_THREADS": "many"})
    assert (done.returncode, done.stderr) == (0, b"")
