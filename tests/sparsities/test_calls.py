"""Every activation call is found, where and whichever way it is made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_hooks

from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.nets import activations
from hessdiag.nets.activations import Activation
from hessdiag.sparsities.calls import Call, watching
from tests.cases import Shared, labels, normal, seeded
from tests.curvature.test_state import assert_unchanged, snapshot


def calls_of(model: nn.Module, x: Any, **options: Any) -> list[Call]:
    found: list[Call] = []
    risk = EmpiricalRisk(model, [], **options)
    with watching(risk.network, found.append):
        risk.forward(x)
    return found


def summary(model: nn.Module, x: Any, **options: Any) -> list[tuple[str, str]]:
    return [(call.name, call.function) for call in calls_of(model, x, **options)]


def chain(**layers: nn.Module) -> nn.Module:
    return seeded(lambda: nn.Sequential(OrderedDict(layers)))


class Functional(nn.Module):
    """One module, raw parameters, functions and methods only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = (x @ self.a).tanh()
        x = F.gelu(torch.relu(x @ self.a).relu_() + 0.5)
        return (x @ self.b) ** 2


class Quick(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * torch.tanh(x) if x.ndim > 2 else self.gamma * x


class Constant(nn.Module):
    """Squash the data by the same function that the network uses later on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(torch.tanh(100 * x))))


X = normal(5, 4)


def test_every_call_of_torchvisions_resnet_is_found():
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        model = resnet18(num_classes=3)
    found = calls_of(model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    blocks = [f"layer{i}.{j}.relu{k}" for i in range(1, 5) for j in (0, 1) for k in ("", "#2")]
    assert [call.name for call in found] == ["relu", *blocks]
    assert {call.function for call in found} == {"relu"}
    assert found[0].layers == ("conv1.weight", "bn1.weight", "bn1.bias")
    named = [name for call in found for name in call.layers]
    assert sorted(named) == sorted(n for n, _ in model.named_parameters() if n[:2] != "fc")


def test_pre_activations_are_those_before_an_in_place_call():
    model = chain(fc=nn.Linear(4, 4), act=nn.ReLU(inplace=True))
    seen: list[Tensor] = []
    risk = EmpiricalRisk(model, [])
    with watching(risk.network, lambda call: seen.append(call.x.clone())):
        risk.forward(X)
    torch.testing.assert_close(seen, [F.linear(X, *model.parameters())])


def test_functions_and_methods_of_the_root_module():
    names = ["tanh", "relu", "relu#2", "gelu", "pow"]
    assert summary(seeded(Functional), X) == list(
        zip(names, ["tanh", "relu", "relu", "gelu", "pow"], strict=True)
    )
    assert [call.layers for call in calls_of(seeded(Functional), X)] == [
        ("a",), (), (), (), ("b",)
    ]  # fmt: skip


def test_modules_of_torch_go_by_their_path():
    kinds = {"t": nn.Tanh(), "p": nn.PReLU(), "s": nn.Softplus(3.0), "g": nn.GELU("tanh")}
    model = chain(fc=nn.Linear(4, 4), **kinds, hs=nn.Hardswish(), ls=nn.LogSigmoid())
    wanted = {"t": "tanh", "p": "prelu", "s": "softplus(3)", "g": "gelu_tanh"}
    wanted |= {"hs": "hardswish", "ls": "log_sigmoid"}
    assert summary(model, X) == list(wanted.items())


@pytest.mark.parametrize("name", activations.NAMES)
def test_our_own_modules_report_themselves_alone(name: str):
    beta = 50.0 if activations.ACTIVATIONS[name].takes_beta else None
    model = chain(fc=nn.Linear(4, 4), act=activations.make(name, beta), out=nn.Linear(4, 3))
    (call,) = calls_of(model, X)
    assert (call.name, call.function) == ("act", name if beta is None else f"{name}(50)")
    assert call.curve is not None
    wanted = activations.curve(name, beta).second(call.x)
    torch.testing.assert_close(call.second(call.x), wanted, rtol=0, atol=0)


def test_custom_activations_report_themselves_alone():
    nested = nn.ModuleDict({"act": Quick()})
    model = chain(fc=nn.Linear(4, 4), box=nn.Sequential(nested["act"], nn.Linear(4, 4), Quick()))
    found = calls_of(model, X)
    assert [(c.name, c.function) for c in found] == [("box.0", "Quick"), ("box.2", "Quick")]
    assert [call.curve for call in found] == [None, None]
    s = torch.sigmoid(1.702 * found[0].x)
    wanted = 1.702 * s * (1 - s) * (2 + 1.702 * found[0].x * (1 - 2 * s))
    torch.testing.assert_close(found[0].second(found[0].x), wanted)


def test_affine_custom_modules_are_no_activations():
    assert summary(chain(fc=nn.Linear(4, 4), scale=Scale()), X) == []


def test_a_module_called_twice_is_counted():
    shared = seeded(Shared)
    found = summary(shared, X)
    assert [name for name, _ in found] == ["tanh", "tanh#2", "tanh#3"]
    act = nn.SiLU()
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act))
    assert [name for name, _ in summary(model, X)] == ["1", "1#2"]


def test_layers_are_attributed_to_the_activation_that_follows():
    model = chain(a=nn.Linear(4, 4), n=nn.LayerNorm(4), r=nn.GELU(), b=nn.Linear(4, 4), s=nn.SiLU())
    found = calls_of(model, X)
    assert [call.layers for call in found] == [
        ("a.weight", "a.bias", "n.weight", "n.bias"),
        ("b.weight", "b.bias"),
    ]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_fast_path_of_the_transformer_is_seen(activation: str):
    layer = nn.TransformerEncoderLayer(4, 2, 6, activation=activation, batch_first=True)
    model = chain(inner=layer.eval(), last=nn.Linear(4, 3))
    (call,) = calls_of(model, normal(2, 3, 4))
    assert (call.name, call.function) == (f"inner.{activation}", activation)
    assert call.x.shape == (2, 3, 6)
    assert call.layers[-2:] == ("inner.linear1.weight", "inner.linear1.bias")


def test_calls_on_constants_are_left_out():
    (call,) = calls_of(seeded(Constant), X)
    assert call.layers == ("fc1.weight", "fc1.bias")
    assert float(call.x.abs().max()) < 10
    assert summary(seeded(Functional), X, params="b") == [("pow", "pow")]


def test_calls_given_by_keyword_report_themselves():
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(4, 4), activations.make("beta_gelu", 5.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x=self.fc(x))

    assert summary(seeded(Keyword), X) == [("act", "beta_gelu(5)")]


def test_normalisation_by_hand_is_no_activation():
    class RMSNorm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    assert summary(chain(fc=nn.Linear(4, 4), norm=RMSNorm(), act=nn.ReLU()), X) == [("act", "relu")]


class Stop(BaseException):
    pass


def leave_early(_call: Call) -> None:
    raise Stop


def num_hooks() -> int:
    tables = (torch_hooks._global_forward_hooks, torch_hooks._global_forward_pre_hooks)
    always = torch_hooks._global_forward_hooks_always_called
    return sum(map(len, tables)) + len(always)


@pytest.mark.parametrize("on_call", [lambda _call: None, leave_early])
@pytest.mark.parametrize("build", [Functional, Constant])
def test_nothing_is_left_behind(on_call: Callable[[Call], None], build: type[nn.Module]):
    model = seeded(build).train()
    before, hooks = snapshot(model), num_hooks()
    risk = EmpiricalRisk(model, [(X, labels(5))])
    try:
        with watching(risk.network, on_call):
            risk.forward(X)
    except Stop:
        assert on_call is leave_early
    assert_unchanged(model, before)
    assert num_hooks() == hooks
    assert torch.overrides._get_current_function_mode_stack() == []


def test_an_exception_within_a_module_leaves_the_names_right():
    class Breaks(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise KeyError("caught by the network")

    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.breaks, self.act = nn.Linear(4, 4), Breaks(), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            try:
                return self.breaks(x)
            except KeyError:
                return self.act(F.gelu(x))

    assert summary(seeded(Catches), X) == [("gelu", "gelu"), ("act", "tanh")]


class InPlacePower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).pow_(3))


def test_pre_activations_of_a_power_in_place_are_those_before_it():
    model = seeded(InPlacePower)
    (call,) = calls_of(model, X)
    torch.testing.assert_close(call.x, model.get_submodule("fc1")(X).detach())


def test_an_activation_of_ours_with_a_function_of_ones_own_is_differentiated():
    model = chain(fc1=nn.Linear(4, 4), act=Activation("mine", torch.sin), fc2=nn.Linear(4, 3))
    (call,) = calls_of(model, X)
    torch.testing.assert_close(call.second(call.x), -torch.sin(call.x))


class PerChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)


def test_a_function_that_takes_one_type_only_is_differentiated_in_it():
    model = chain(fc1=nn.Linear(4, 4), act=PerChannel(), fc2=nn.Linear(4, 3)).float()
    (call,) = calls_of(model, X.float())
    assert not call.second(call.x).any()
