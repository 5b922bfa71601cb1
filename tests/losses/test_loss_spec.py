"""How a loss is named: names, functions of the user's modules, torch's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hessdiag.errors import InputError
from hessdiag.loss_names import NAMES
from hessdiag.losses.any_loss import AnyLoss
from hessdiag.losses.loss_spec import named, resolve

MODULE = """
import torch
from torch.nn import functional as F

def squares(z, y):
    return F.mse_loss(z, y)

def make():
    return torch.nn.HuberLoss(delta=0.5)

class Own(torch.nn.Module):
    def forward(self, z, y):
        return (z - y).abs().mean()

ready = Own()
number = 3
"""


@pytest.fixture(autouse=True)
def losses_of_mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_names_are_those_of_the_files():
    assert NAMES == ("bce", "cross-entropy", "huber", "kl", "mse", "nll", "poisson")
    assert all(named(name).name == name for name in NAMES)


@pytest.mark.parametrize("name", ["squares", "make", "Own", "ready"])
def test_functions_of_modules(name: str):
    z, y = torch.tensor([[2.0], [0.5]]), torch.tensor([[0.0], [0.25]])
    wanted = {"squares": F.mse_loss(z, y), "make": F.huber_loss(z, y, delta=0.5)}
    found = resolve(f"losses_of_mine:{name}")(z, y)
    assert float(found) == pytest.approx(float(wanted.get(name, (z - y).abs().mean())))


@pytest.mark.parametrize(
    "spec", ["losses_of_mine:none", "no_such_module:f", "losses_of_mine:number"]
)
def test_functions_that_are_not_there(spec: str):
    with pytest.raises(InputError, match="loss factory"):
        resolve(spec)


@pytest.mark.parametrize(
    "loss",
    [
        nn.PoissonNLLLoss(full=True),
        nn.BCEWithLogitsLoss(weight=torch.ones(3)),
        nn.BCELoss(),
        type("Mine", (nn.CrossEntropyLoss,), {})(),
    ],
    ids=str,
)
def test_what_torch_has_beyond_ours_goes_through_autograd(loss: nn.Module):
    assert isinstance(resolve(loss), AnyLoss)


def test_a_reduction_other_than_the_mean():
    for loss in (nn.CrossEntropyLoss(reduction="sum"), nn.MSELoss(reduction="none")):
        with pytest.raises(InputError, match="reduction"):
            resolve(loss)
