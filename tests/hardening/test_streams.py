"""Streams that are closed, full, broken, narrow or of few signs: every exit code stays right."""

import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hessdiag.__main__ import main
from tests.cli.conftest import FAST, Run

GATE = ("gate", "spectrum.json", "--max")
COMMANDS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "passes": (0, (*GATE, "loss=99")),
    "fails": (1, (*GATE, "loss=1e-9")),
    "fails, JSON": (1, (*GATE, "loss=1e-9", "--json", "-")),
    "is inconclusive": (3, (*GATE, "hessian.trace=5")),
    "bad input": (2, ("gate", "none.json", "--max", "loss=1")),
    "bad usage": (2, ("gate", "--nonsense")),
    "help": (0, ("gate", "--help")),
    "version": (0, ("--version",)),
    "spectrum": (0, ("spectrum", "model.safetensors", *FAST)),
    "spectrum, JSON": (0, ("spectrum", "model.safetensors", *FAST, "--json", "-")),
    "sparsity": (0, ("sparsity", "--activation", "gelu")),
    "landscape": (0, ("landscape", "--resolution", "5")),
    "compare": (0, ("compare", "spectrum.json", "spectrum.json")),
    "report": (0, ("report", "spectrum.json", "--output", "out.html")),
    "doctor": (0, ("doctor",)),
    "recipes": (0, ("train", "recipes")),
    "train": (0, ("train", "--model", "mlp-4", "--num-samples", "16", "--epochs", "1")),
}
VERDICTS = ("passes", "fails", "fails, JSON", "is inconclusive")
ENCODINGS = ("ascii", "ascii:surrogateescape", "cp1252", "utf-16", "cp037", "latin-1")


def closed(descriptor: int) -> None:
    os.close(descriptor)


def full(descriptor: int) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)


def broken(descriptor: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, descriptor)


FAULTS = [(fault, stream) for fault in (closed, full, broken) for stream in (1, 2)]


@pytest.fixture
def here(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a report and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    for name in ("spectrum.json", "model.safetensors"):
        (tmp_path / name).write_bytes((samples / name).read_bytes())
    return tmp_path


def called(args: tuple[Any, ...], encoding: str, prepare: Callable[[], None]) -> tuple[int, bytes]:
    """Run a command in a forked child with streams of its own; its exit code, and what it said."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: there are none in the way
        pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            for descriptor in (1, 2):
                os.dup2(writer, descriptor)
            prepare()
            name, _, errors = encoding.partition(":")
            sys.stdout, sys.stderr = (
                _opened(number, name, errors or "strict") for number in (1, 2)
            )
            sys.argv = ["hessdiag", *map(str, args)]
            main()
        except SystemExit as done:
            os._exit(int(done.code or 0))
        finally:
            os._exit(99)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said


def _opened(descriptor: int, encoding: str, errors: str) -> Any:
    try:
        return io.TextIOWrapper(open(descriptor, "wb", closefd=False), encoding, errors)
    except OSError:  # closed: Python has no stream then
        return None


def warm(run: Run, name: str) -> None:
    """Leave nothing for children to import."""
    code, args = COMMANDS[name]
    assert run(*args).code == code


def check_fault(name: str, fault: Callable[[int], None], stream: int) -> None:
    code, args = COMMANDS[name]
    if stream == 1 and name not in VERDICTS and code == 0:
        code = 2  # the output is lost
    found, said = called(args, "utf-8", lambda: fault(stream))
    assert found == code, said.decode()
    assert b"Traceback" not in said
    assert b"unforeseen" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_on_every_faulty_stream(run: Run, here: Path, name: str):
    warm(run, name)
    for fault, stream in FAULTS:
        check_fault(name, fault, stream)


@pytest.mark.parametrize(("fault", "stream"), [(full, 1), (closed, 2), (closed, 1), (broken, 2)])
@pytest.mark.parametrize("name", ["fails", "passes", "bad input"])
def test_a_verdict_on_a_faulty_stream(here: Path, name: str, fault: Any, stream: int):
    check_fault(name, fault, stream)


@pytest.mark.parametrize("width", ["²", "9" * 5000, "-1", ""])
@pytest.mark.parametrize("name", ["fails", "passes"])
def test_a_verdict_on_a_width_that_is_none(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, width: str
):
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("LINES", width)
    check_fault(name, lambda _: None, 2)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_every_encoding_and_width(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str
):
    warm(run, name)
    code, args = COMMANDS[name]
    for width in ("1", "2", "20", "80", "400", "²", "9" * 5000):
        monkeypatch.setenv("COLUMNS", width)
        found, said = called(args, encoding, lambda: None)
        assert found == code, said
        said.decode(encoding.partition(":")[0])
        assert b"Traceback" not in said
