"""``hessdiag train resume``, and what stopped or failed runs leave behind."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hessdiag import locks
from hessdiag.training import folder, loop, state
from hessdiag.training.history import Finished, Standing
from tests.cli.conftest import Run, images
from tests.cli.test_bad_input import refused
from tests.cli.test_train import TINY


def contents(place: Path) -> dict[str, Any]:
    """What a run's folder holds; of the report all but what it cost."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in place.iterdir()}
    if folder.REPORT in found:
        found[folder.REPORT] = json.loads(found[folder.REPORT]) | {"cost": None}
    return found


class Stopped(KeyboardInterrupt):
    """An interruption at a chosen step."""


def stopped(run: Run, monkeypatch: pytest.MonkeyPatch, step: int, *args: Any) -> None:
    """Train, and interrupt it."""
    real = loop.train

    def train(*positional: Any, on_step: Any, **options: Any) -> Finished:
        def interrupt(now: Standing) -> None:
            on_step(now)
            if now.step == step:
                raise Stopped

        return real(*positional, on_step=interrupt, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", train)
        outcome = run("train", *args)
    assert (outcome.code, outcome.out) == (130, "")
    assert "Traceback" not in outcome.err


LONGER = (*TINY[:2], "--epochs", 3, "--num-samples", 64, "--batch-size", 16, "--reg", "nso")


@pytest.mark.parametrize("options", [(), ("--save-every", 1)], ids=str)
def test_an_interrupted_run_goes_on(run: Run, here: Path, monkeypatch, options: tuple[Any, ...]):
    assert run("train", *LONGER, *options, "--out", "whole").code == 0
    stopped(run, monkeypatch, 7, *LONGER, *options, "--out", "parts")
    assert "curves.png" not in contents(here / "parts")
    outcome = run("train", "resume", "parts")
    assert (outcome.code, outcome.out) == (0, "parts/model.safetensors\n")
    assert "epoch 3: loss" in outcome.err
    whole, parts = contents(here / "whole"), contents(here / "parts")
    for name in ("model.safetensors", "best.safetensors", "metrics.jsonl", "config.toml"):
        assert whole[name] == parts[name]
    assert parts["curves.png"].startswith(b"\x89PNG")


def test_a_run_stopped_before_its_first_state_leaves_nothing(run: Run, here: Path, monkeypatch):
    stopped(run, monkeypatch, 3, *LONGER, "--out", "a/run")
    assert list(here.iterdir()) == []


def test_a_factorys_run_goes_on(run: Run, here: Path, monkeypatch):
    (here / "resumable_nets.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    model = ("--model", "resumable_nets:net")
    stopped(run, monkeypatch, 7, *LONGER, *model, "--out", "run")
    outcome = run("train", "resume", "run", *model)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("name", ["model", "data"])
def test_a_folder_alone_does_not_run_a_factory(run: Run, here: Path, name: str):
    """A folder from somebody else must not choose which code of this machine is called."""
    (here / "trap.py").write_text("from pathlib import Path\nPath('it-ran').touch()\n")
    assert run("train", *TINY, "--out", "run").code == 0
    config = here / "run/config.toml"
    text = re.sub(rf'^{name} = ".*"', f'{name} = "trap:f"', config.read_text("utf-8"), flags=re.M)
    config.write_text(text, "utf-8")
    refused(run("train", "resume", "run"), f"names code to run.*trap:f.*--{name} trap:f")
    refused(run("train", "resume", "run", f"--{name}", "trap:g"), f"another {name}.*trap:g.*trap:f")
    assert not (here / "it-ran").exists()


def test_a_finished_run_stays_as_it_is(run: Run, here: Path):
    assert run("train", *TINY, "--out", "run").code == 0
    before = contents(here / "run")
    outcome = run("train", "resume", "run")
    assert (outcome.code, outcome.out) == (0, "run/model.safetensors\n")
    assert contents(here / "run") == before
    outcome = run("train", "resume", "run", "--quiet")
    assert (outcome.out, outcome.err) == ("", "")


def test_without_its_state_a_run_starts_from_the_beginning(run: Run, here: Path):
    assert run("train", *TINY, "--out", "run").code == 0
    before = contents(here / "run")
    (here / "run/state.pt").unlink()
    outcome = run("train", "resume", "run")
    assert outcome.code == 0
    assert outcome.err.startswith("note: no state was written yet; starting from the beginning\n")
    after = contents(here / "run")
    assert after.keys() == before.keys()
    for name in ("model.safetensors", "best.safetensors", "metrics.jsonl", "config.toml"):
        assert after[name] == before[name]


def test_a_damaged_state_is_told_and_the_one_before_taken(run: Run, here: Path, monkeypatch):
    assert run("train", *LONGER, "--out", "whole").code == 0
    assert run("train", *LONGER, "--out", "parts").code == 0
    path = here / "parts" / state.CURRENT
    path.write_bytes(path.read_bytes()[:-1])
    outcome = run("train", "resume", "parts")
    assert outcome.code == 0
    assert outcome.err.startswith("note: state.pt is damaged")
    whole, parts = contents(here / "whole"), contents(here / "parts")
    for name in ("model.safetensors", "best.safetensors", "metrics.jsonl"):
        assert whole[name] == parts[name]


@pytest.mark.parametrize("size", [None, 0, 100])
@pytest.mark.parametrize("name", ["model.safetensors", "best.safetensors", "metrics.jsonl"])
def test_what_a_finished_run_has_lost_comes_from_its_state(
    run: Run, here: Path, name: str, size: int | None
):
    assert run("train", *TINY, "--out", "run").code == 0
    before = contents(here / "run")
    path = here / "run" / name
    if size is None:
        path.unlink()
    else:
        path.write_bytes(before[name][:size])
    outcome = run("train", "resume", "run")
    assert outcome.code == 0
    assert f"note: {name} was damaged or missing, and is written anew" in outcome.err
    assert contents(here / "run") == before


def test_a_best_checkpoint_that_no_state_holds_is_told(run: Run, here: Path):
    """At a learning rate that rises too far, the best epoch is not the last."""
    (here / "r.toml").write_text('lr = 6.0\nschedule = "constant"\nwarmup_epochs = 6.0\n')
    args = ("--config", "r.toml", "--model", "mlp-16", "--epochs", 6, "--num-samples", 300)
    assert run("train", *args, "--out", "run").code == 0
    (here / "run/best.safetensors").write_bytes(b"")
    outcome = run("train", "resume", "run")
    assert outcome.code == 0
    assert "note: best.safetensors is lost: no state holds the weights of epoch" in outcome.err


def test_threads_are_those_that_the_run_began_with(run: Run, here: Path, monkeypatch):
    counts: list[int] = []
    real = loop.Run.advance
    monkeypatch.setattr(
        loop.Run, "advance", lambda r: (counts.append(torch.get_num_threads()), real(r))
    )
    own = torch.get_num_threads()
    stopped(run, monkeypatch, 7, *LONGER, "--out", "run")
    torch.set_num_threads(own + 1)
    try:
        assert run("train", "resume", "run").code == 0
        assert torch.get_num_threads() == own + 1
    finally:
        torch.set_num_threads(own)
    assert set(counts) == {own}


def test_a_run_in_use_is_left_alone(run: Run, here: Path):
    assert run("train", *TINY, "--out", "run").code == 0
    before = contents(here / "run")
    with locks.owning(here / "run"):
        for command in (("resume", "run"), ("--out", "run", "--force")):
            refused(run("train", *command), r"another process works in.*process \d+ on .* since")
    assert contents(here / "run") == before


def test_only_damaged_states(run: Run, here: Path):
    assert run("train", *TINY, "--out", "run").code == 0
    (here / "run/state.pt").write_bytes(b"")
    before = contents(here / "run")
    refused(run("train", "resume", "run"), "state cannot be read.*state.pt is damaged.*--force")
    assert contents(here / "run") == before


def test_what_is_no_run_cannot_go_on(run: Run, here: Path):
    refused(run("train", "resume", "none"), "no run to go on with.*none.*No such file")
    (here / "run").mkdir()
    refused(run("train", "resume", "run"), "no run to go on with")
    (here / "run/config.toml").write_text("lr = ")
    refused(run("train", "resume", "run"), "config.toml")
    outcome = run("train", "resume")
    assert outcome.code == 2
    assert "Missing argument" in outcome.err


@pytest.mark.parametrize(
    ("old", "new"), [("lr = 0.1", "lr = 0.2"), ("seed = 0", "seed = 1")], ids=str
)
def test_a_changed_run_cannot_go_on(run: Run, here: Path, old: str, new: str):
    assert run("train", *TINY, "--out", "run").code == 0
    config = here / "run/config.toml"
    text = config.read_text("utf-8")
    assert old in text
    config.write_text(text.replace(old, new, 1), "utf-8")
    refused(run("train", "resume", "run"), "configuration changed.*undo the change")


def test_changed_data_cannot_go_on(run: Run, here: Path):
    args = ("--data", images(here / "own.npz"), "--model", "mlp-8", "--epochs", 1, "--out", "run")
    assert run("train", *args).code == 0
    images(here / "own.npz", num_samples=31)
    refused(run("train", "resume", "run"), "training data changed")


def test_a_refused_run_spares_the_one_it_was_to_replace(run: Run, here: Path):
    """A mistyped network must not cost an earlier run, although it may be replaced."""
    assert run("train", *TINY, "--out", "run").code == 0
    before = contents(here / "run")
    for args, words in (
        (("--lr", -1), "out of range"),
        (("--data", "none.npz"), "does not exist"),
        (("--model", "mlp-x"), "mlp-x"),
        (("--activation", "rleu"), "unknown activation"),
    ):
        refused(run("train", *TINY, "--out", "run", "--force", *args), words)
        assert contents(here / "run") == before, args


def test_divergence_keeps_the_last_good_state(run: Run, here: Path):
    args = ("--lr", 1e12, "--epochs", 3, "--reg", "sam", "--out", "run", "--quiet")
    refused(run("train", *TINY, *args), "diverged.*in step 3 of 3")
    before = contents(here / "run")
    payload, _ = state.load(here / "run")
    assert payload is not None
    assert payload["step"] == 2
    again = run("train", "resume", "run", "--quiet")
    refused(again, "diverged.*in step 3 of 3")  # the same, of course
    assert contents(here / "run") == before


def test_an_epoch_of_skipped_steps_alone(run: Run, here: Path):
    inputs = np.full((32, 64), 3e38, np.float32)
    np.savez(here / "own.npz", inputs=inputs, labels=np.arange(32) % 4)
    args = ("--data", "own.npz", "--batch-size", 8, "--on-nonfinite", "skip", "--out", "run")
    outcome = run("train", *TINY[:2], "--epochs", 2, *args)
    assert outcome.code == 0, outcome.err
    rows = folder.read_metrics(here / "run")
    assert [(row["num_skipped"], row["train_loss"]) for row in rows] == [(4, None)] * 2
    assert (here / "run/curves.png").exists()
    before = contents(here / "run")
    assert run("train", "resume", "run").code == 0
    assert contents(here / "run") == before
