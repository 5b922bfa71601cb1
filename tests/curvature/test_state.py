"""Nothing of the user's is changed: weights, buffers, modes, gradients, data, random state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from hessdiag.parts import PARTS
from tests.cases import BY_NAME, Batch, cnn, labels, normal, seeded, split
from tests.oracles import dense, relative_error, truth_of

CALLS: dict[str, Callable[[Decomposition, Tensor], object]] = {
    "construction": lambda dec, _v: dec,
    "gradient": lambda dec, _v: dec.gradient(),
    "products": lambda dec, v: dec.products(v),
    "nme alone": lambda dec, v: dec.products(v, parts=("nme",)),
    "gn alone": lambda dec, v: dec.products(v, parts=("gn",)),
    "matvec": lambda dec, v: dec.operator("nme").matvec(v[0]),
    "dense": lambda dec, _v: dec.operator("hessian").dense(),
}
each_call = pytest.mark.parametrize("call", CALLS)
each_bn = pytest.mark.parametrize("bn", ["eval", "batch"])


def answer(call: str, dec: Decomposition, dtype: torch.dtype = torch.float64) -> None:
    CALLS[call](dec, normal(2, dec.num_parameters).to(dtype))


def restless() -> nn.Module:
    """Build a network in mixed modes with dropout, BatchNorm, old gradients and a frozen layer."""

    def build() -> nn.Module:
        head = {"drop": nn.Dropout(0.9), "last": nn.Linear(3, 3)}
        return nn.Sequential(OrderedDict(**dict(cnn(nn.GELU).named_children()), **head))

    model = seeded(build).train()
    model.get_submodule("bn2").eval()
    model.get_submodule("conv2").requires_grad_(requires_grad=False)
    for seed, p in enumerate(model.parameters()):
        p.grad = normal(*p.shape, seed=seed)
    model.get_parameter("fc.bias").grad = None
    return model


def images() -> list[Batch]:
    return split(normal(6, 1, 5, 5, seed=23), labels(6, seed=23), 3, 1, 2)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Record all that a call could change, tensors as copies."""
    record: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        record[f"value of {name}"] = tensor.clone()
        record[f"place of {name}"] = tensor.data_ptr()
    for name, p in model.named_parameters():
        record[f"gradient of {name}"] = p.grad if p.grad is None else p.grad.clone()
        record[f"requires_grad of {name}"] = p.requires_grad
    for name, layer in model.named_modules():
        record[f"mode of {name}"] = layer.training
        record[f"attributes of {name}"] = sorted(vars(layer))
        record[f"hooks of {name}"] = len(layer._forward_hooks) + len(layer._forward_pre_hooks)
        if isinstance(layer, nn.BatchNorm2d):
            record[f"momentum of {name}"] = layer.momentum, layer.track_running_stats
    return record


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    assert after.keys() == before.keys()
    for key, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, after[key]), key
        else:
            assert value == after[key], key


@each_call
@pytest.mark.parametrize("options", [{}, {"bn": "batch"}, {"dtype": torch.float32}], ids=str)
def test_a_call_leaves_everything_as_it_was(call: str, options: dict[str, Any]):
    model, batches = restless(), images()
    before, old = snapshot(model), [(x.clone(), y.clone()) for x, y in batches]
    random = torch.get_rng_state()
    answer(call, Decomposition(model, batches, **options), options.get("dtype", torch.float64))
    assert_unchanged(model, before)
    assert torch.equal(random, torch.get_rng_state())
    for batch, old_batch in zip(batches, old, strict=True):
        assert all(map(torch.equal, batch, old_batch))


def test_layers_that_work_in_place_do_not_reach_the_data():
    x, y = normal(4, 4), labels(4)
    old = x.clone()
    model = seeded(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)))
    dec = Decomposition(model, [(x, y)])
    dec.products(normal(dec.num_parameters))
    assert torch.equal(x, old)


class Refuse(nn.Module):
    """Pass everything on but the marked batch."""

    def forward(self, x: Tensor) -> Tensor:
        if (x == 99).any():
            raise RuntimeError("no such image")
        return x


def refuse_two(z: Tensor, y: Tensor) -> Tensor:
    if len(z) == 2:
        raise RuntimeError("no such loss")
    return F.cross_entropy(z, y)


@each_call
@each_bn
@pytest.mark.parametrize("culprit", ["image", "loss"])
def test_an_exception_midway_leaves_everything_as_it_was(call: str, bn: str, culprit: str):
    model, batches = nn.Sequential(Refuse(), restless()), images()
    if culprit == "image":
        batches[2][0][0] = 99
    loss = refuse_two if culprit == "loss" else "cross-entropy"
    before = snapshot(model)
    errors = (RuntimeError, InputError)
    reading = call != "construction"
    with pytest.raises(errors, match=f"no such {culprit}") if reading else suppress(*errors):
        answer(call, Decomposition(model, batches, loss, bn=bn))
    assert_unchanged(model, before)


@each_bn
def test_an_exception_of_the_data_leaves_everything_as_it_was(bn: str):
    class Torn:
        def __iter__(self):
            yield images()[0]
            raise OSError("the disk is gone")

    model = restless()
    before = snapshot(model)
    with pytest.raises((OSError, InputError), match="the disk is gone"):
        Decomposition(model, Torn(), bn=bn).gradient()
    assert_unchanged(model, before)


@each_bn
def test_dropout_is_off_and_the_mode_of_the_model_of_no_account(bn: str):
    model, batches = restless(), images()
    truth = dense(model, batches, "cross-entropy", bn=bn)
    for mode in (model, model.eval(), model.train()):
        dec = Decomposition(mode, batches, bn=bn)
        v = normal(dec.num_parameters, seed=25)
        products, gradient = dec.products(v), dec.gradient()
        assert gradient.loss == pytest.approx(truth.loss, rel=1e-12)
        assert relative_error(gradient.vector, truth.gradient) < 1e-12
        for part in PARTS:
            assert relative_error(getattr(products, part), getattr(truth, part) @ v) < 1e-11


def test_the_surrounding_gradient_mode_is_of_no_account():
    truth = truth_of("mlp-gelu")
    with torch.no_grad():
        dec = Decomposition(*BY_NAME["mlp-gelu"])
        v = normal(dec.num_parameters)
        products, gradient = dec.products(v), dec.gradient()
        assert not torch.is_grad_enabled()
    assert relative_error(gradient.vector, truth.gradient) < 1e-12
    for part in PARTS:
        assert relative_error(getattr(products, part), getattr(truth, part) @ v) < 1e-11
        assert not getattr(products, part).requires_grad


def test_the_global_switches_of_attention_are_given_back():
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    dec = Decomposition(*BY_NAME["attention"])
    dec.products(normal(dec.num_parameters))
    after = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    assert after == before


class Twice(nn.Module):
    """One module under two names, and one tensor at home in two modules."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(4, 4)
        self.layers = nn.Sequential(layer, nn.GELU(), layer, nn.GELU())
        self.up, self.down = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.down.weight = self.up.weight

    def forward(self, x):
        return self.down(torch.tanh(self.up(self.layers(x))))


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_modules_and_tensors_with_two_names_stay_what_they_are(dtype):
    model = seeded(Twice)
    before = dict(model.named_parameters(remove_duplicate=False))
    batches = [(normal(6, 4), labels(6))]
    found = [Decomposition(model, batches, dtype=dtype) for _ in range(2)]
    traces = [dec.operator("hessian").matvec(torch.ones(dec.num_parameters)) for dec in found]
    assert found[0].num_parameters == found[1].num_parameters == 20 + 16
    assert torch.equal(*traces)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert list(before) == list(after)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert model.down.weight is model.up.weight


def test_tied_tensors_have_the_gradient_of_both_their_uses():
    model = seeded(Twice)
    x, y = normal(6, 4), labels(6)
    wanted = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    found = Decomposition(model, [(x, y)]).gradient().vector
    torch.testing.assert_close(found, torch.cat([tensor.flatten() for tensor in wanted]))
