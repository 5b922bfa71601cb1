"""Sparsity: inputs of every kind, what is refused, what is noted, what stays as it was."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.errors import InputError
from hessdiag.sparsities.sparsity_run import sparsity
from tests.cases import BY_NAME, labels, normal, seeded
from tests.curvature.test_state import assert_unchanged, images, restless, snapshot
from tests.oracles import truth_of

X, Y = normal(9, 4), labels(9)


def small(act: type[nn.Module] = nn.GELU) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(4, 5), act(), nn.Linear(5, 3)))


@pytest.mark.parametrize("with_nme", [False, True])
@pytest.mark.parametrize("options", [{}, {"bn": "batch"}, {"dtype": torch.float32}], ids=str)
def test_the_network_stays_as_it_was(with_nme: bool, options: dict[str, Any]):
    model, batches = restless(), images()
    before, old = snapshot(model), [(x.clone(), y.clone()) for x, y in batches]
    random = torch.get_rng_state()
    found = sparsity(model, batches, with_nme=with_nme, num_probes=1, **options)
    assert [call.name for call in found.calls] == ["act1", "act2"]
    assert_unchanged(model, before)
    assert torch.equal(random, torch.get_rng_state())
    for batch, old_batch in zip(batches, old, strict=True):
        assert all(map(torch.equal, batch, old_batch))


def test_the_blocks_of_n_have_their_names_and_norms():
    model, batches, loss = BY_NAME["mlp-gelu"]
    seen: list[tuple[float, float]] = []
    found = sparsity(
        model,
        batches,
        loss=loss,
        with_nme=True,
        num_probes=100,
        on_progress=lambda now: seen.append((now.done, now.expected)),
    )
    assert found.block_norms is not None
    assert list(found.block_norms) == [name for name, _ in model.named_parameters()]
    nme, start = truth_of("mlp-gelu").nme, 0
    for name, p in model.named_parameters():
        at = slice(start, start + p.numel())
        start = at.stop
        wanted = float(nme[at, at].norm())
        norm = found.block_norms[name]
        if wanted < 1e-12:
            assert norm.value < 1e-12
        else:
            assert abs(norm.value - wanted) < 4 * (norm.stderr or 0) + 1e-12
    assert seen[-1][0] == seen[-1][1]
    assert sparsity(model, batches).block_norms is None


def test_relu_has_no_blocks():
    model, batches, loss = BY_NAME["mlp-relu"]
    found = sparsity(model, batches, loss=loss, with_nme=True, num_probes=2)
    assert found.block_norms is not None
    assert {norm.value for norm in found.block_norms.values()} == {0}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(left + right)))


@pytest.mark.parametrize("x", [(X, X), [X, X], {"right": X, "left": X}], ids=["", "list", "dict"])
def test_inputs_may_be_tuples_and_mappings(x: Any):
    (call,) = sparsity(seeded(Pair), [(x, Y)]).calls
    assert (call.name, call.shares.num_preactivations) == ("gelu", 45)


class Noisy(nn.Module):
    """Dropout that evaluation mode does not turn off."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(F.dropout(self.fc1(x), training=True)))


class Varying(Noisy):
    """Another number of pre-activations on every run."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        Varying.runs += 1
        return self.fc2(F.gelu(self.fc1(x.repeat(self.runs, 1)))[: len(x)])


@pytest.mark.parametrize("build", [Noisy, Varying])
def test_a_network_that_runs_differently_is_refused(build: type[nn.Module]):
    with pytest.raises(InputError, match="ran differently"):
        sparsity(seeded(build), [(X, Y)])


class Growing:
    """One more batch every time."""

    length = 0

    def __iter__(self) -> Any:
        self.length += 1
        return iter([(X, Y)] * self.length)


def test_data_that_change_are_refused():
    with pytest.raises(InputError, match=r"differently|changed"):
        sparsity(small(), Growing())


def test_an_iterator_is_read_once():
    assert sparsity(small(), iter([(X, Y), (X, Y)])).num_samples == 18


class Recurrent(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.lstm, self.fc, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3), head

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.lstm(x)[0][:, -1]))


def test_fused_recurrent_layers_are_noted():
    found = sparsity(seeded(lambda: Recurrent(nn.Tanh())), [(normal(9, 2, 4), Y)])
    assert [call.name for call in found.calls] == ["head"]
    (note,) = found.notes
    assert "within the fused recurrent layer lstm are not seen" in note
    assert sparsity(small(), [(X, Y)]).notes == ()


def test_a_clamp_between_buffers_is_no_error():
    class Clamped(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clamp(min=-x.new_ones(4)))

    model = seeded(lambda: Clamped(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)))
    assert len(sparsity(model, [(X, Y)]).calls) == 1


def test_pre_activations_are_not_kept():
    """What the first microbatch leaves in memory must not outlive its pass over the data."""
    alive: list[int] = []

    class Data:
        def __iter__(self) -> Any:
            gc.collect()
            held = [t for t in gc.get_objects() if type(t) is Tensor]
            alive.append(sum(t.shape == (11, 13) for t in held))
            yield normal(11, 4), labels(11)

    sparsity(seeded(lambda: nn.Sequential(nn.Linear(4, 13), nn.GELU(), nn.Linear(13, 3))), Data())
    assert alive == [0, 0]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "threshold 1": ({"threshold": 1.0}, "threshold is out of range"),
    "threshold -1": ({"threshold": -1.0}, "threshold is out of range"),
    "threshold NaN": ({"threshold": float("nan")}, "threshold is out of range"),
    "no probes": ({"num_probes": 0}, "`num_probes` is out of range"),
    "too many probes": ({"num_probes": 10**9}, "1 to 100,000"),
    "bn": ({"bn": "evil"}, "unknown BatchNorm mode"),
    "loss": ({"loss": "mze"}, "unknown loss"),
    "params": ({"params": "fc9.*"}, "no trainable parameter"),
    "after the last activation": ({"params": "2.*"}, "no activation that is recognised"),
    "no data": ({"batches": []}, "there is no data"),
    "no pair": ({"batches": [X]}, "not a pair"),
    "other inputs": ({"batches": [(X[:, :2], Y)]}, "cannot take this input"),
    "NaN inputs": ({"batches": [(X / 0, Y)]}, "not finite"),
    "overflow": ({"batches": [(X * 1e306, Y)]}, "pre-activations of 1 are not finite"),
    "linear": ({"model": small(nn.Identity)}, "no activation that is recognised"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str):
    options, words = BAD[case]
    model = small()
    nn.init.constant_(model.get_parameter("0.weight"), 1e3)
    with pytest.raises(InputError, match=words):
        sparsity(**{"model": model, "batches": [(X, Y)], **options})
