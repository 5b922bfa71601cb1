"""The check of the derivative: what it finds, by name, and that it is silent on right networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import hessdiag
from hessdiag.curvature import calling, composition, truth
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from tests.cases import CASES, Attention, Case, cnn, labels, mlp, normal, seeded, split

X, Y = normal(8, 4, seed=40), labels(8, seed=40)
DATA = [(X, Y)]


class Cube(torch.autograd.Function):
    """x³, whose backward pass uses an intermediate that has no graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.square = x * x
        return ctx.square * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * ctx.square * grad


class Cubed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Cube.apply(x)  # pyright: ignore[reportReturnType]


def cubed() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(4, 5), Cubed(), nn.Linear(5, 3)))


def test_a_function_that_loses_its_graph_is_named():
    with pytest.raises(InputError, match=r"(?s)second derivatives.*1 \(Cubed: Cube\).*0\.weight"):
        Decomposition(cubed(), DATA).products(normal(43))


def test_what_is_found_can_be_gone_on_with():
    dec = Decomposition(cubed(), DATA, unchecked=True)
    dec.gradient()
    assert dec.truth is not None
    assert dec.truth.worst > 0.1
    report = hessdiag.spectrum(cubed(), DATA, num_probes=2, top_k=0, density=False, unchecked=True)
    assert any("Cubed: Cube" in note for note in report.notes)
    assert report.checks.truth == dec.truth


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch):
    model = seeded(lambda: nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.GELU(), nn.Linear(5, 3)))
    Decomposition(model, DATA).gradient()
    monkeypatch.delitem(composition._TABLE, "_weight_norm")
    with pytest.raises(InputError, match="WeightNorm"):
        Decomposition(model, DATA).gradient()


def test_weights_of_the_wrong_place_are_found():
    """Recomputed with other weights: what activation checkpointing does if they are swapped."""
    stale = nn.Linear(5, 5).double()

    class Stale(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if torch.get_default_dtype() == torch.float64 and sees_ours():
                return F.linear(x, stale.weight, self.bias)
            return super().forward(x)

    def sees_ours() -> bool:
        modes = torch.overrides._get_current_function_mode_stack()
        return any(isinstance(mode, calling.OneType) for mode in modes)

    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5), Stale(5, 5), nn.Tanh(), nn.Linear(5, 3)))
    with pytest.raises(InputError, match=r"(?s)as it is called.*1\.weight"):
        Decomposition(model, DATA).gradient()


def test_a_narrower_type_within_is_noted(monkeypatch: pytest.MonkeyPatch):
    class Narrow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).to(x.dtype)

    model = seeded(lambda: nn.Sequential(Narrow(4, 8), nn.Tanh(), nn.Linear(8, 3))).float()
    dec = Decomposition(model, DATA)
    dec.gradient()
    assert dec.truth is not None
    assert dec.truth.note is None

    def through(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))

    monkeypatch.setattr(calling.OneType, "__torch_function__", through)
    monkeypatch.setattr(calling.Widened, "__torch_function__", through)
    with pytest.warns(UserWarning, match="narrower type"):
        Decomposition(model, DATA).gradient()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_right_networks_pass_in_silence(case: Case):
    for dtype in (torch.float64, torch.float32):
        dec = Decomposition(*case, dtype=dtype)
        dec.gradient()
        assert dec.truth is not None
        assert dec.truth.note is None
        assert dec.truth.worst < truth.TOLERANCE


RIGHT: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "kinks": (lambda: mlp(nn.ReLU, 4, 300, 300, 3), X),
    "kinks at zero": (lambda: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)), 0 * X),
    "max pooling": (lambda: nn.Sequential(nn.MaxPool2d(2), cnn()), normal(8, 1, 10, 10)),
    "group norm": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
        ),
        normal(8, 1, 5, 5),
    ),
    "attention": (Attention, labels(8, 3, num_classes=5)),
    "padding": (
        lambda: nn.Sequential(
            nn.Embedding(5, 4, padding_idx=0), nn.LayerNorm(4), nn.Flatten(), nn.Linear(12, 3)
        ),
        labels(8, 3, num_classes=5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
def test_right_networks_pass_for_any_seed(kind: str):
    build, x = RIGHT[kind]
    for seed in range(5):
        dec = Decomposition(seeded(build, seed), [(x, Y)])
        dec.gradient()
        assert dec.truth is not None
        assert dec.truth.note is None, (seed, dec.truth)


def test_a_chosen_second_derivative_is_not_judged():
    from hessdiag.nets import activations

    act = activations.make("augmented_relu", None)
    dec = Decomposition(seeded(lambda: nn.Sequential(nn.Linear(4, 5), act, nn.Linear(5, 3))), DATA)
    dec.gradient()
    assert dec.truth is not None
    assert dec.truth.note == "second derivatives not checked: that of augmented_relu is chosen"


class Random(nn.Module):
    how = "dropout"

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "dropout":
            return F.dropout(x, 0.5, training=True)
        if self.how == "drawn":  # and of no account
            return x + 0 * torch.rand_like(x)
        return x * float(np.random.rand())  # noqa: NPY002


@pytest.mark.parametrize("how", ["dropout", "numpy", "drawn"])
def test_random_outputs_are_refused(how: str):
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5), Random(), nn.Linear(5, 3)))
    model[1].how = how  # pyright: ignore[reportAttributeAccessIssue]
    if how == "drawn":
        assert Decomposition(model, DATA).gradient().loss > 0
        return
    with pytest.raises(InputError, match="outputs are random"):
        Decomposition(model, DATA).gradient()
    dec = Decomposition(model, DATA, unchecked=True)
    dec.gradient()
    assert dec.truth is not None
    assert "random" in str(dec.truth.note)


def test_the_check_reads_no_data_and_moves_no_random_state():
    passes: list[int] = []

    class Counted:
        def __iter__(self):
            passes.append(1)
            return iter(split(X, Y, 5, 3))

    state = torch.get_rng_state()
    dec = Decomposition(seeded(lambda: mlp(nn.GELU, 4, 5, 3)), Counted())
    dec.gradient()
    assert dec.truth is not None
    assert passes == [1]
    assert torch.equal(state, torch.get_rng_state())
