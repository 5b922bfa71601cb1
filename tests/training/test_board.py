"""A run's metrics as TensorBoard's events, with a writer that only notes."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hessdiag.errors import InputError
from hessdiag.training import folder
from hessdiag.training.board import open_board
from hessdiag.training.history import Finished
from tests.runs import finished


@pytest.fixture
def found() -> Finished:
    return finished()


MODULE = "torch.utils.tensorboard"


class Writer:
    """Stands in for TensorBoard's writer."""

    made: list["Writer"]

    def __init__(self, place: str, filename_suffix: str) -> None:
        assert filename_suffix == folder.EVENTS
        self.place, self.flushes = place, 0
        self.scalars: dict[tuple[str, int], Any] = {}
        Writer.made.append(self)

    def add_scalar(self, name: str, value: Any, step: int) -> None:
        self.scalars[name, step] = value

    def flush(self) -> None:
        self.flushes += 1


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    module = ModuleType(MODULE)
    module.SummaryWriter = Writer  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, MODULE, module)
    Writer.made = []
    return Writer.made


def test_every_epoch_is_written_at_once(found: Finished, writers: list[Writer]):
    write = open_board(Path("a/run"))
    assert writers == []  # nothing is made before there is something to write
    for number, epoch in enumerate(found.epochs, 1):
        write(epoch)
        (writer,) = writers
        assert writer.place == str(Path("a/run/tensorboard"))
        assert writer.flushes == number
    losses = [value for (name, _), value in writer.scalars.items() if name == "train_loss"]
    assert losses == [2.0, 1.0, 0.5, 0.25]
    assert writer.scalars["nme.lambda_max", 2] == 4.0
    assert writer.scalars["lr", 4] == 0.0
    assert ("nme.lambda_max", 1) not in writer.scalars
    names = {"lr", "train_loss", "train_accuracy", "validation_accuracy", "test_accuracy"}
    assert {name for name, _ in writer.scalars} == names | {*found.epochs[1].curvature}


def test_what_is_not_known_is_left_out(found: Finished, writers: list[Writer]):
    open_board(Path("run"))(replace(found.epochs[0], validation_accuracy=None, test_accuracy=None))
    assert {name for name, _ in writers[0].scalars} == {"lr", "train_loss", "train_accuracy"}


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(InputError) as caught:
        open_board(tmp_path)
    assert "--tensorboard needs the package tensorboard" in str(caught.value)
    assert "pip install tensorboard" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
