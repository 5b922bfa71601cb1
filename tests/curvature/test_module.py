"""The network is called as a function of θ, whatever is around it, within it or done to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from tests.cases import labels, mlp, normal, seeded
from tests.oracles import relative_error, trainable

X, Y = normal(8, 4, seed=50), labels(8, seed=50)
DATA = [(X, Y)]


def differences(model: nn.Module, x: Tensor, y: Tensor, v: Tensor, radius: float = 1e-5) -> Tensor:
    """Compute H v by central differences of the gradient of the module as it is called."""
    parameters = list(trainable(model).values())
    steps = v.split([p.numel() for p in parameters])

    def gradient(size: float) -> Tensor:
        with torch.no_grad():
            for p, step in zip(parameters, steps, strict=True):
                p += size * step.view_as(p)
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p, step in zip(parameters, steps, strict=True):
                p -= size * step.view_as(p)
        return torch.cat([p.grad.to_dense().flatten() for p in parameters if p.grad is not None])

    return (gradient(radius) - gradient(-radius)) / (2 * radius)


# Wrong and missing second derivatives of torch's own


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def between(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), layer, nn.Tanh(), nn.Linear(6, 3))


def tokens(layer: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(layer, nn.Flatten(), nn.Tanh(), nn.Linear(width, 3))


class Fused(nn.Module):
    """``torch._weight_norm`` called by its user."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.rand(6, 1) + 0.5)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(x @ torch._weight_norm(self.v, self.g, 0).T))


WORDS = labels(8, 3, num_classes=5, seed=51)
OPERATIONS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "weight_norm": (lambda: nn.Sequential(weight_norm(nn.Linear(4, 6)), nn.Linear(6, 3)), X),
    "along 1": (lambda: nn.Sequential(weight_norm(nn.Linear(4, 6), dim=1), nn.Linear(6, 3)), X),
    "_weight_norm": (Fused, X),
    "hardsigmoid": (lambda: between(nn.Hardsigmoid()), X),
    "hardsigmoid in place": (lambda: between(nn.Hardsigmoid(inplace=True)), X),
    "F.hardsigmoid": (lambda: between(Call(F.hardsigmoid)), X),
    "sparse embedding": (lambda: tokens(nn.Embedding(5, 4, sparse=True), 12), WORDS),
    "bag of means": (lambda: tokens(nn.EmbeddingBag(5, 4), 4), WORDS),
    "bag of sums": (lambda: tokens(nn.EmbeddingBag(5, 4, mode="sum", sparse=True), 4), WORDS),
    "bag of maxima": (lambda: tokens(nn.EmbeddingBag(5, 4, mode="max"), 4), WORDS),
    "torch.layer_norm": (lambda: between(Call(lambda x: torch.layer_norm(x, (6,)))), X),
    "lstm": (lambda: nn.Sequential(nn.LSTM(4, 5), Call(lambda r: r[0]), nn.Linear(5, 3)), X),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_have_right_second_derivatives(name: str):
    build, x = OPERATIONS[name]
    model = seeded(build)
    dec = Decomposition(model, [(x, Y)])
    v = normal(dec.num_parameters, seed=52)
    assert relative_error(dec.products(v).hessian, differences(model, x, Y, v)) < 1e-6


# What is around a call


def around(name: str) -> AbstractContextManager[object]:
    match name:
        case "autocast":
            return torch.autocast("cpu", torch.bfloat16)
        case "inference mode":
            return torch.inference_mode()
        case "another device":
            return torch.device("meta")
        case _:
            return nullcontext()


@pytest.mark.parametrize("name", ["autocast", "inference mode", "another device"])
def test_what_is_around_a_call_does_not_reach_it(name: str):
    model = seeded(lambda: mlp(nn.GELU, 4, 16, 3)).float()
    data = [(X.float(), Y)]
    v = normal(131, seed=53).float()
    wanted = Decomposition(model, data).products(v).hessian
    with around(name):
        found = Decomposition(model, data).products(v).hessian
    assert relative_error(found, wanted) < 1e-6


def test_data_and_weights_of_inference_mode():
    with torch.inference_mode():
        model = seeded(lambda: mlp(nn.GELU, 4, 5, 3))
        data = [(X.clone(), Y.clone())]
    dec, v = Decomposition(model, data), normal(43, seed=54)
    wanted = Decomposition(seeded(lambda: mlp(nn.GELU, 4, 5, 3)), DATA).products(v)
    assert torch.equal(dec.products(v).hessian, wanted.hessian)


def test_threads_leave_the_switches_of_torch_as_they_were():
    from torch.utils import checkpoint

    def switches() -> tuple[object, ...]:
        mha, cuda = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda
        hooks = checkpoint.CheckpointFunction, checkpoint._checkpoint_hook
        return mha, cuda.flash_sdp_enabled(), torch.get_default_dtype(), *hooks

    before, found = switches(), list[float]()
    model = seeded(lambda: mlp(nn.GELU, 4, 5, 3))

    def diagnose() -> None:
        for _ in range(3):
            found.append(Decomposition(model, DATA).gradient().loss)

    threads = [threading.Thread(target=diagnose) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 1
    assert switches() == before


def test_transforms_of_torch_are_refused():
    model = seeded(lambda: mlp(nn.GELU, 4, 5, 3))
    with pytest.raises(InputError, match=r"torch\.func"):
        torch.func.vmap(lambda v: Decomposition(model, DATA).products(v).hessian)(normal(2, 43))


# What is within a network


class Autocast(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @torch.autocast("cpu", torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).float()


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.head, self.reentrant = nn.Linear(4, 6), nn.Linear(6, 3), reentrant
        self.body = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        x = checkpoint(self.body, x, use_reentrant=self.reentrant)
        return self.head(x)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_checkpointing_is_of_no_account(reentrant: bool, bn: str):
    model = seeded(lambda: Checkpointed(reentrant=reentrant))
    statistics = model.get_buffer("body.1.running_mean").clone()
    plain = seeded(lambda: Checkpointed(reentrant=reentrant))
    plain.forward = lambda x: plain.head(plain.body(torch.tanh(plain.stem(x))))  # type: ignore[method-assign]
    step, v = 0.1 * normal(105, seed=55), normal(105, seed=56)
    found, wanted = (
        Decomposition(net, DATA, bn=bn).displaced(step).products(v) for net in (model, plain)
    )
    assert torch.equal(found.hessian, wanted.hessian)
    assert torch.equal(statistics, model.get_buffer("body.1.running_mean"))


def test_autocast_within_is_of_no_account():
    plain = seeded(lambda: mlp(nn.GELU, 4, 16, 3)).float()
    v = normal(131, seed=57).float()
    found, wanted = (
        Decomposition(net, [(X.float(), Y)]).products(v).hessian for net in (Autocast(plain), plain)
    )
    assert relative_error(found, wanted) < 1e-6


def test_casts_within_do_not_narrow_float64():
    cast = Call(lambda x: x.float().tanh().to(x.dtype))
    narrow = seeded(lambda: nn.Sequential(nn.Linear(4, 6), cast, nn.Linear(6, 3)))
    plain = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    v = normal(51, seed=58)
    found, wanted = (Decomposition(net, DATA).products(v).hessian for net in (narrow, plain))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_told(dtype: torch.dtype):
    model = seeded(lambda: mlp(nn.GELU, 4, 5, 3)).to(dtype)
    dec = Decomposition(model, DATA)
    v = normal(43, seed=59)
    found = dec.products(v).hessian
    assert found.dtype == torch.float32
    assert relative_error(found, Decomposition(model.double(), DATA).products(v).hessian) < 1e-5
    assert any("float32" in note for note in dec.notes)
    with pytest.raises(InputError, match="dtype"):
        Decomposition(model, DATA, dtype=dtype)


# Wrappers


@pytest.mark.parametrize("place", ["whole", "layer", "in place", "forward"])
def test_compiled_networks_are_run_eagerly(place: str):
    model = seeded(lambda: mlp(nn.GELU, 4, 5, 3))
    v = normal(43, seed=60)
    wanted = Decomposition(model, DATA).products(v).hessian
    compiled: nn.Module = model
    if place == "whole":
        compiled = torch.compile(model, backend="aot_eager")
    elif place == "layer":
        model.fc1 = torch.compile(model.get_submodule("fc1"), backend="aot_eager")
    elif place == "forward":
        model.forward = torch.compile(model.forward, backend="aot_eager")
    else:
        model.compile(backend="aot_eager")
    dec = Decomposition(compiled, DATA)
    assert torch.equal(dec.products(v).hessian, wanted)
    assert dec.layout.names == ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


@pytest.mark.parametrize("model", [nn.Linear, torch.tanh], ids=["class", "function"])
def test_what_is_no_module_is_refused(model: Any):
    with pytest.raises(InputError, match=r"no torch\.nn\.Module"):
        Decomposition(model, DATA)


def test_data_parallel_is_taken_off():
    model = seeded(lambda: mlp(nn.GELU, 4, 5, 3))
    dec = Decomposition(nn.DataParallel(model), DATA)
    assert dec.layout.names[0] == "fc1.weight"
    dec.gradient()


@pytest.mark.parametrize("kind", ["FullyShardedDataParallel", "DeepSpeedEngine"])
def test_sharded_networks_are_refused(kind: str):
    sharded = type(kind, (nn.Sequential,), {})(nn.Linear(4, 3))
    with pytest.raises(InputError, match="hides its weights"):
        Decomposition(sharded, DATA)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused():
    model = nn.Sequential(torch.jit.trace(nn.Linear(4, 3), X.float()))
    with pytest.raises(InputError, match="TorchScript"):
        Decomposition(model, DATA)


def test_each_hint_fits_its_error():
    words = seeded(lambda: tokens(nn.Embedding(5, 4), 12))
    with pytest.raises(InputError, match="hint: inputs that are indices"):
        Decomposition(words, [(WORDS + 3, Y)]).gradient()
    with pytest.raises(InputError, match="hint: check that the network and the data"):
        Decomposition(seeded(lambda: mlp(nn.GELU, 5, 3)), DATA).gradient()
    with pytest.raises(InputError, match="hint: inputs are passed on as"):
        Decomposition(seeded(lambda: mlp(nn.GELU, 4, 3)), [((X, X), Y)]).gradient()
