"""φ'' at the pre-activations of a network, against a count by hand."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.nets import activations
from hessdiag.sparsities.sparsity_run import Sparsity, sparsity
from tests.cases import BY_NAME, cnn, labels, normal, seeded, split

X, Y = normal(23, 4), labels(23)
BETA, THRESHOLD = 8.0, 0.01


def network(act: str = "beta_gelu", beta: float | None = BETA) -> nn.Sequential:
    def build() -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(4, 7),
                act1=activations.make(act, beta),
                fc2=nn.Linear(7, 5),
                act2=nn.Tanh(),
                fc3=nn.Linear(5, 3),
            )
        )

    model = seeded(build)
    assert isinstance(model, nn.Sequential)
    return model


def by_hand(model: nn.Module, *names: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Collect the named layers' inputs by hooks, and φ'' there by autograd."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor]) -> None:
            x = args[0].detach().clone().requires_grad_()
            first = torch.autograd.grad(layer.forward(x).sum(), x, create_graph=True)[0]
            found[name] = x.detach(), torch.autograd.grad(first.sum(), x)[0]

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    model(X)
    for hook in hooks:
        hook.remove()
    return found


def close(a: Sparsity, b: Sparsity, rel: float = 1e-12) -> None:
    for one, other in zip((a.total, *a.calls), (b.total, *b.calls), strict=True):
        one, other = getattr(one, "shares", one), getattr(other, "shares", other)
        assert one.num_preactivations == other.num_preactivations
        for field in ("nonzero", "above", "mean_abs"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), rel=rel)
    for one, other in zip(a.calls, b.calls, strict=True):
        assert (one.mean, one.std) == pytest.approx((other.mean, other.std), rel=rel)
        assert one.histogram.edges == pytest.approx(other.histogram.edges, rel=rel)


def test_the_numbers_are_those_counted_by_hand():
    model = network()
    found = sparsity(model, split(X, Y, 9, 13, 1), threshold=THRESHOLD)
    peaks = {"act1": 2 * BETA / np.sqrt(2 * np.pi), "act2": 4 / np.sqrt(27)}
    truth = by_hand(model, "act1", "act2")
    assert [call.name for call in found.calls] == list(truth)
    assert [call.function for call in found.calls] == ["beta_gelu(8)", "tanh"]
    for call, (x, second) in zip(found.calls, truth.values(), strict=True):
        assert call.closed_form
        assert call.peak == pytest.approx(peaks[call.name], rel=1e-9)
        assert call.mean == pytest.approx(x.mean().item(), rel=1e-12)
        assert call.std == pytest.approx(x.std(correction=0).item(), rel=1e-12)
        shares = call.shares
        assert shares.num_preactivations == x.numel()
        assert shares.nonzero == (second != 0).double().mean()
        level = THRESHOLD * peaks[call.name]
        assert shares.above == pytest.approx((second.abs() > level).double().mean().item())
        assert shares.mean_abs == pytest.approx(second.abs().mean().item(), rel=1e-9)
        assert shares.above > 0
    assert found.calls[0].shares.above < 1
    every = torch.cat([second.flatten() for _, second in truth.values()])
    assert found.total.num_preactivations == len(every)
    assert found.total.nonzero == pytest.approx((every != 0).double().mean().item())
    assert found.total.mean_abs == pytest.approx(every.abs().mean().item(), rel=1e-9)
    assert (found.num_samples, found.num_parameters) == (23, 93)
    assert found.settings.threshold == THRESHOLD


@pytest.mark.parametrize("outlier", [1.0, 1e4])
def test_histograms_hold_every_pre_activation(outlier: float):
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 3)))
    x = X.clone()
    x[0] *= outlier
    (call,) = sparsity(model, split(x, Y, 20, 3)).calls
    values = model[0](x).detach().numpy().ravel()  # pyright: ignore
    edges = np.array(call.histogram.edges)
    assert call.histogram.counts == tuple(np.histogram(values, edges)[0])
    assert call.histogram.below == (values < edges[0]).sum()
    assert call.histogram.above == (values > edges[-1]).sum()
    outside = call.histogram.below + call.histogram.above
    assert sum(call.histogram.counts) + outside == values.size
    assert (outside > 0) == (outlier > 1)
    assert call.curve is not None
    middles = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
    wanted = activations.curve("gelu").second(middles)
    torch.testing.assert_close(torch.tensor(call.curve, dtype=torch.float64), wanted)


def test_equal_pre_activations_have_a_histogram():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 3)))
    for p in model.parameters():
        nn.init.zeros_(p)
    (call,) = sparsity(model, [(X, Y)]).calls
    assert sum(call.histogram.counts) == 23 * 9
    assert (call.mean, call.std, call.shares.nonzero) == (0, 0, 1)


@pytest.mark.parametrize("sizes", [(23,), (1,) * 23, (20, 3)])
def test_batching_is_of_no_account(sizes: tuple[int, ...]):
    a = sparsity(network(), split(X, Y, 9, 13, 1))
    b = sparsity(network(), split(X, Y, *sizes))
    close(a, b)
    assert [c.histogram.counts for c in a.calls] == [c.histogram.counts for c in b.calls]


def test_float32_is_near_float64_and_underflows_earlier():
    a, b = (sparsity(network(), [(X, Y)], dtype=d) for d in (torch.float64, torch.float32))
    assert (a.settings.dtype, b.settings.dtype) == ("float64", "float32")
    assert b.calls[1].shares.mean_abs == pytest.approx(a.calls[1].shares.mean_abs, rel=1e-5)
    a, b = (sparsity(network(beta=30.0), [(X, Y)], dtype=d) for d in (torch.float64, torch.float32))
    assert b.calls[0].shares.nonzero < a.calls[0].shares.nonzero


def test_a_huge_pre_activation_has_no_second_derivative():
    """Beyond 1.8e19 the square overflows in float32."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 4, bias=False), nn.GELU(), nn.Linear(4, 3)))
    nn.init.eye_(model.get_parameter("0.weight"))
    (call,) = sparsity(model, [(torch.full((2, 4), 1e20), labels(2))], dtype=torch.float32).calls
    assert (call.shares.nonzero, call.shares.mean_abs) == (0, 0)


def test_batch_norm_by_the_batch():
    model = seeded(lambda: cnn(nn.GELU))
    x, y = normal(6, 1, 5, 5, seed=1), labels(6, seed=1)
    found = sparsity(model, [(x, y)], bn="batch")
    seen = F.batch_norm(
        model.get_submodule("conv1")(x),
        None,
        None,
        model.get_parameter("bn1.weight"),
        model.get_parameter("bn1.bias"),
        training=True,
    )
    assert found.settings.bn == "batch"
    assert found.calls[0].mean == pytest.approx(seen.mean().item(), rel=1e-10)
    assert found.calls[0].mean != pytest.approx(sparsity(model, [(x, y)]).calls[0].mean, rel=1e-3)


@pytest.mark.parametrize("name", ["cnn-relu-bn", "mlp-relu"])
def test_relu_has_none(name: str):
    model, batches, loss = BY_NAME[name]
    found = sparsity(model, batches, loss=loss, threshold=0.0)
    for shares in (found.total, *(call.shares for call in found.calls)):
        assert (shares.nonzero, shares.above, shares.mean_abs) == (0, 0, 0)


def test_above_a_threshold_of_zero_is_not_zero():
    found = sparsity(network(), [(X, Y)], threshold=0.0)
    assert found.total.above == found.total.nonzero


class InPlaceReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu_()


def test_a_users_own_relu_in_place_has_none():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 64), InPlaceReLU(), nn.Linear(64, 3)))
    found = sparsity(model, [(normal(300, 4), labels(300))])
    assert (found.calls[0].peak, found.total.nonzero) == (0, 0)


class Squashed(nn.Module):
    """Squash the data by the function that is the activation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(torch.tanh(100 * x))))


def test_a_call_on_the_data_is_not_taken_for_one_of_the_network():
    model = seeded(Squashed)
    (call,) = sparsity(model, [(X, Y)]).calls
    x = model.get_submodule("fc1")(torch.tanh(100 * X))
    wanted = activations.curve("tanh").second(x).abs().mean().item()
    assert call.shares.mean_abs == pytest.approx(wanted, rel=1e-9)
    assert sum(call.histogram.counts) == x.numel()


def test_chosen_parameters_leave_out_the_calls_before_them():
    model = seeded(Twice)
    found = sparsity(model, [(X, Y)], params="fc2.*").calls
    x = model.get_submodule("fc2")(torch.tanh(model.get_submodule("fc1")(X)))
    wanted = activations.curve("tanh").second(x).abs().mean().item()
    assert [call.shares.mean_abs for call in found] == [pytest.approx(wanted, rel=1e-9)]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


class HandWritten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def test_zero_in_the_dtype_is_the_same_with_and_without_a_closed_form():
    x = torch.linspace(-30, 30, 400)[:, None]
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    shares = [
        sparsity(nn.Sequential(layer, act, nn.Linear(1, 3)), [(x, labels(400))]).total.nonzero
        for act in (nn.GELU(), HandWritten())
    ]
    assert shares[0] < 0.6
    assert shares[1] == pytest.approx(shares[0], abs=0.02)
