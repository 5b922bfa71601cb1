"""Streams that are closed, full, broken or narrow change no verdict and hide no failure."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hessdiag.cli import stdio
from tests.cli.conftest import Run

SHARPNESS = {"hessian": {"trace": {"value": 5.0, "stderr": 2.0, "num_probes": 8}}}
LIMITS = {0: "loss=9", 1: "loss=0.1", 3: "hessian.trace=5"}
COMMANDS = {f"gate: {code}": (code, ["gate", "s.json", "--max", LIMITS[code]]) for code in LIMITS}
COMMANDS |= {"recipes": (None, ["train", "recipes"]), "bad input": (2, ["gate", "none.json"])}


def closed(descriptor: int) -> Callable[[], None]:
    return lambda: os.close(descriptor)


def full(descriptor: int) -> Callable[[], None]:
    return lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor) and None


def broken(descriptor: int) -> Callable[[], None]:
    def breaks() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, descriptor)

    return breaks


@pytest.fixture
def here(tmp_path: Path) -> Path:
    report = {"schema": "hessdiag.spectrum/1", "loss": {"value": 0.5}, "parts": SHARPNESS}
    (tmp_path / "s.json").write_text(json.dumps(report))
    return tmp_path


def call(here: Path, args: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **options.pop("env", {})}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-m", "hessdiag", *args], cwd=here, env=env, **given)


EVERY = [(fault, stream) for fault in (closed, full, broken) for stream in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "stream"), EVERY)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_on_every_faulty_stream(here: Path, name: str, fault, stream: int):
    code, args = COMMANDS[name]
    done = call(here, args, preexec_fn=fault(stream))
    wanted = code if code is not None else 2 if stream == 1 else 0
    assert done.returncode == wanted, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(("fault", "stream"), [(full, 1), (closed, 2)])
def test_a_verdict_on_a_faulty_stream(here: Path, fault, stream: int):
    test_every_command_on_every_faulty_stream(here, "gate: 1", fault, stream)


def test_a_working_directory_that_is_gone(here: Path):
    done = call(
        here, ["doctor"], preexec_fn=lambda: (os.mkdir("x"), os.chdir("x"), os.rmdir("../x"))
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


def test_output_that_is_lost_is_a_failure(here: Path):
    done = call(here, ["train", "recipes"], preexec_fn=full(1))
    assert done.returncode == 2
    assert b"the output cannot be written" in done.stderr


ENCODINGS = ["ascii", "cp1252", "utf-16", "cp037", "latin-1:strict"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("width", ["1", "40", "400"])
def test_verdicts_in_every_encoding_and_width(here: Path, encoding: str, width: str):
    for name, (code, args) in COMMANDS.items():
        done = call(here, args, env={"PYTHONIOENCODING": encoding, "COLUMNS": width})
        assert done.returncode == (code or 0), name
        (done.stdout or done.stderr).decode(encoding.partition(":")[0])


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


def test_the_streams_are_given_back(run: Run):
    own = sys.stdout, sys.stderr
    run("train", "recipes")
    assert (sys.stdout, sys.stderr) == own
