"""Frobenius norms of the within-layer blocks of N, against dense truth."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from hessdiag.block_maps.confined_probes import block_norms
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.linalg.trace import Estimate
from hessdiag.nets import activations
from tests.cases import Batch, labels, mlp, normal, seeded, split
from tests.oracles import dense

VECTORS, IMAGES = normal(9, 4), normal(6, 1, 5, 5, seed=1)
BATCHES = {
    "mlp": split(VECTORS, labels(9), 5, 1, 3),
    "cnn": split(IMAGES, labels(6, seed=1), 3, 1, 2),
}
NETS = list(BATCHES)

each_net = pytest.mark.parametrize("net", NETS)


def whole(net: str) -> Batch:
    x, y = (torch.cat(tensors) for tensors in zip(*BATCHES[net], strict=True))
    return x, y


def build(net: str, name: str, beta: float | None = None) -> nn.Module:
    def activation() -> nn.Module:
        return activations.make(name, beta)

    def cnn() -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 2, 3, padding=1),
                act1=activation(),
                conv2=nn.Conv2d(2, 3, 3, stride=2),
                act2=activation(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(3, 3),
            )
        )

    return seeded(cnn if net == "cnn" else lambda: mlp(activation, 4, 5, 4, 3)).eval()


def decompose(net: str, name: str, beta: float | None = None) -> Decomposition:
    return Decomposition(build(net, name, beta), BATCHES[net])


def true_norms(model: nn.Module, batches: list[Batch]) -> dict[str, float]:
    nme, found, start = dense(model, batches, "cross-entropy").nme, {}, 0
    for name, parameter in model.named_parameters():
        stop = start + parameter.numel()
        found[name] = nme[start:stop, start:stop].norm().item()
        start = stop
    return found


def same(a: dict[str, Estimate], b: dict[str, Estimate]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].value == pytest.approx(b[name].value, rel=1e-10, abs=1e-14) for name in a
    )


@each_net
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "diminished_gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_are_exactly_zero_where_the_second_derivative_is(
    net: str, name: str, dtype: torch.dtype
):
    found = block_norms(Decomposition(build(net, name), BATCHES[net], dtype=dtype), num_probes=8)
    for estimate in found.values():
        assert (estimate.value, estimate.stderr) == (0.0, 0.0)


@each_net
@pytest.mark.parametrize("name", ["relu", "diminished_gelu"])
def test_though_n_itself_is_not_zero(net: str, name: str):
    assert decompose(net, name).operator("nme").dense().norm() > 0.01


@each_net
@pytest.mark.parametrize(
    ("name", "beta"), [("gelu", None), ("augmented_relu", 2.0), ("beta_gelu", 5.0), ("tanh", None)]
)
def test_norms_are_those_of_the_dense_blocks(net: str, name: str, beta: float | None):
    model, batch = build(net, name, beta), whole(net)
    wanted, dec = true_norms(model, [batch]), Decomposition(model, [batch])
    for seed in range(4):
        found = block_norms(dec, num_probes=24, seed=seed)
        assert list(found) == list(wanted)
        for layer, estimate in found.items():
            assert estimate.num_probes == 24
            assert estimate.stderr is not None
            slack = 4 * estimate.stderr + 1e-12
            assert abs(estimate.value - wanted[layer]) < slack, (layer, seed)


@each_net
@pytest.mark.parametrize("name", ["gelu", "augmented_relu"])
def test_hidden_blocks_are_not_zero_and_the_linear_classifiers_are(net: str, name: str):
    found = block_norms(decompose(net, name), num_probes=8)
    last = ("fc.", "fc3.")
    for layer, estimate in found.items():
        if layer.startswith(last):
            assert estimate.value < 1e-12
        else:
            assert estimate.value > 1e-4, layer


def test_the_error_of_many_probes_is_small():
    model, batch = build("mlp", "gelu"), whole("mlp")
    wanted = true_norms(model, [batch])
    found = block_norms(Decomposition(model, [batch]), num_probes=200, seed=1)
    for layer in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
        assert found[layer].value == pytest.approx(wanted[layer], rel=0.1)


def test_other_layers_do_not_enter_even_as_noise():
    model = build("mlp", "gelu")
    whole = block_norms(Decomposition(model, BATCHES["mlp"]), num_probes=5, seed=2)
    alone = block_norms(
        Decomposition(model, BATCHES["mlp"], params="fc2.weight"), num_probes=5, seed=2
    )
    assert list(alone) == ["fc2.weight"]
    assert same(alone, {"fc2.weight": whole["fc2.weight"]})


@each_net
def test_batching_is_of_no_account(net: str):
    x, y = whole(net)
    model = build(net, "gelu")
    found = [
        block_norms(Decomposition(model, batches), num_probes=5, seed=3)
        for batches in (BATCHES[net], [(x, y)], split(x, y, *[1] * len(x)))
    ]
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_neither_is_the_number_of_probes_in_a_pass(monkeypatch: pytest.MonkeyPatch):
    dec = decompose("mlp", "gelu")
    usual = block_norms(dec, num_probes=5, seed=3)
    monkeypatch.setattr("hessdiag.block_maps.confined_probes._BYTES", 1)
    passes: list[float] = []
    single = block_norms(dec, num_probes=5, seed=3, on_progress=lambda now: passes.append(now.done))
    assert passes == list(range(1, 31))
    assert same(usual, single)


def test_the_seed_decides():
    dec = decompose("mlp", "gelu")
    first, again, other = (block_norms(dec, num_probes=3, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first["fc1.weight"].value != other["fc1.weight"].value


def test_a_single_probe_has_no_error():
    for estimate in block_norms(decompose("mlp", "gelu"), num_probes=1).values():
        assert (estimate.stderr, estimate.ci95, estimate.num_probes) == (None, None, 1)


@pytest.mark.parametrize("num_probes", [1, 7])
def test_progress_reaches_its_total(num_probes: int):
    steps: list[tuple[float, float]] = []
    block_norms(
        decompose("mlp", "gelu"),
        num_probes=num_probes,
        on_progress=lambda now: steps.append((now.done, now.expected)),
    )
    total = 6 * num_probes
    assert steps[-1] == (total, total)
    assert all(whole == total for _, whole in steps)
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
