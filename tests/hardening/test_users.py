"""As nobody, among another user's files: permissions are told in words, and nothing is lost."""

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cli.conftest import FAST, Run
from tests.hardening.test_streams import called

NOBODY = 65534
TINY = ("--model", "mlp-4", "--num-samples", "16", "--epochs", "1", "--quiet")
ALLOWED = {
    "reads": ("spectrum", "../model.safetensors", *FAST),
    "judges": ("gate", "../spectrum.json", "--max", "loss=99"),
    "writes": ("report", "../spectrum.json", "--output", "page.html"),
    "trains": ("train", *TINY, "--out", "run"),
}
REFUSED = {
    "writes where it may not": ("report", "../spectrum.json", "--output", "../page.html"),
    "replaces a report": ("gate", "../model.safetensors", "--write-baseline", "../spectrum.json"),
    "reads a secret": ("gate", "../secret.json", "--max", "loss=99"),
    "loads a secret": ("spectrum", "../secret.safetensors", *FAST),
    "goes on with a run": ("train", "resume", "../run"),
    "replaces a run": ("train", *TINY, "--out", "../run", "--force"),
    "trains where it may not": ("train", *TINY, "--out", "../other"),
    "reads a folder it may not enter": ("train", "resume", "../closed/run"),
}
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def theirs(samples: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """Root's folder, for all to read, with a folder of nobody's in it, where commands run."""
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        for name in ("spectrum.json", "model.safetensors"):
            shutil.copy(samples / name, place)
            shutil.copy(samples / name, place / f"secret{Path(name).suffix}")
        for name in ("run", "closed/run"):
            shutil.copytree(samples / "run", place / name)
        (place / "mine").mkdir()
        for path in (place, *place.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for path in (*place.glob("secret.*"), place / "closed"):
            path.chmod(0o700)
        os.chown(place / "mine", NOBODY, NOBODY)
        monkeypatch.chdir(place / "mine")
        yield place


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def contents(place: Path) -> dict[Path, bytes]:
    files = (path for path in place.rglob("*") if path.is_file() and "mine" not in path.parts)
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ALLOWED)
def test_nobody_may(run: Run, theirs: Path, name: str):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as warm:
        patch.chdir(warm)  # so that nothing is left to import, from folders that are root's
        shutil.copytree(theirs, "theirs")
        Path("theirs/here").mkdir()
        patch.chdir("theirs/here")
        assert run(*ALLOWED[name]).code == 0
    before = contents(theirs)
    code, said = called(ALLOWED[name], "utf-8", become_nobody)
    assert code == 0, said
    assert contents(theirs) == before


@pytest.mark.parametrize("name", REFUSED)
def test_nobody_may_not(theirs: Path, name: str):
    before = contents(theirs)
    code, said = called(REFUSED[name], "utf-8", become_nobody)
    assert code == 2, said
    assert said.count(b"error: ") == 1
    assert b"unforeseen" not in said
    assert b"Traceback" not in said
    assert contents(theirs) == before
    assert list((theirs / "mine").iterdir()) == []
