"""Every command on what other libraries wrote: none is for our own checkpoints alone."""

import importlib
import sys
from pathlib import Path

import pytest

from tests import foreign
from tests.cli.conftest import Run

pytestmark = pytest.mark.filterwarnings("ignore")
LESS = ("--num-probes", 2, "--top-k", 1, "--quiet")
COMMANDS = {
    "sparsity": ("--quiet",),
    "landscape": ("--plane", "random", "--resolution", 3, "--quiet"),
    "gate": ("--max", "hessian.lambda_max=1e6", "--max-probes", 32, "--quiet"),
    "compare": LESS,
}
CHECKPOINTS = {
    "lit.ckpt": ("--model", "own:Lit", "--data", "own:points"),
    "timm/last.pth.tar": ("--model", "timm:test_efficientnet", "--data", "own:images"),
    "gpt": ("--data", "text:t.txt", "--num-samples", 4),
    "lora": ("--data", "text:t.txt", "--num-samples", 4),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of each library."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "own.py").write_text(foreign.FACTORIES)
    (folder / "t.txt").write_text(" ".join(foreign.WORDS[5:69]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "own", raising=False)
        own = foreign.quietly(lambda: importlib.import_module("own"))
        foreign.lightning_checkpoint(folder / "lit.ckpt", own)
        foreign.timm_checkpoint(folder / "timm")
        foreign.language_model(folder / "gpt")
        foreign.adapter(folder / "lora", folder / "gpt")
        sys.modules.pop("own", None)
    return folder


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_a_checkpoint(
    command: str,
    checkpoint: str,
    run: Run,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    names = (checkpoint, checkpoint) if command == "compare" else (checkpoint,)
    outcome = run(command, *names, *CHECKPOINTS[checkpoint], *COMMANDS[command], "--json", "-")
    assert outcome.code == 0, outcome.err
    assert '"schema"' in outcome.out
