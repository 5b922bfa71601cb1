"""Networks: shapes, sizes, names, and the peace of the global generator."""

import copy
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from hessdiag.errors import InputError
from hessdiag.metadata import ModelSpec
from hessdiag.nets import models
from hessdiag.nets.wrn import WideResNet


@pytest.mark.parametrize(
    ("name", "shape", "num_classes"),
    [
        ("wrn10-1", (1, 8, 8), 10),
        ("wrn16-2", (3, 32, 32), 10),
        ("wrn10-2", (4, 28, 28), 7),
        ("resnet18", (1, 32, 32), 5),
        ("mlp-16-8", (1, 8, 8), 10),
        ("mlp-4", (5,), 1),
    ],
)
def test_outputs_have_one_value_a_class(
    name: str, shape: tuple[int, ...], num_classes: int
) -> None:
    model = models.build(ModelSpec(name, num_classes=num_classes, input_shape=shape))
    assert model(torch.rand(2, *shape)).shape == (2, num_classes)


@pytest.mark.parametrize(
    ("depth", "widen", "num_parameters"),
    [(28, 10, 36_479_194), (16, 4, 2_748_890), (40, 1, 563_930)],
)
def test_wide_resnets_have_the_published_sizes(depth: int, widen: int, num_parameters: int) -> None:
    with torch.device("meta"):
        model = WideResNet(depth, widen)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


def test_a_wide_resnet_starts_as_he_says() -> None:
    model = WideResNet(10, 2)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert not model.head.bias.any()


def test_every_place_has_its_own_activation() -> None:
    made: list[nn.Module] = []
    model = WideResNet(16, 1, activation=lambda: made.append(nn.Tanh()) or made[-1])
    assert len(made) == 2 * 6 + 1
    assert sum(isinstance(module, nn.Tanh) for module in model.modules()) == len(made)


@pytest.mark.parametrize("name", models.RESNETS)
def test_resnets_keep_torchvisions_tensors_whatever_the_activation(name: str) -> None:
    ours = models.skeleton(ModelSpec(name, activation="gelu"))
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    assert {n: t.shape for n, t in ours.state_dict().items()} == {
        n: t.shape for n, t in theirs.state_dict().items()
    }
    assert not any(isinstance(module, nn.ReLU) for module in ours.modules())


def test_a_resnet_computes_what_torchvisions_does() -> None:
    ours = models.build(ModelSpec("resnet18")).eval()
    theirs = torchvision.models.resnet18().eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))
    assert not any(isinstance(m, nn.ReLU) and m.inplace for m in ours.modules())


@pytest.mark.parametrize(
    ("name", "kind"), [("wrn10-1", nn.GELU), ("mlp-4", nn.GELU), ("resnet18", nn.ReLU)]
)
def test_default_activations(name: str, kind: type[nn.Module]) -> None:
    model = models.skeleton(ModelSpec(name, input_shape=(3, 8, 8)))
    assert any(isinstance(module, kind) for module in model.modules())


def test_building_repeats_and_leaves_the_global_generator_alone() -> None:
    spec = ModelSpec("mlp-4", input_shape=(2,))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, other = models.build(spec), models.build(spec, seed=1)
    models.skeleton(spec)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = models.build(spec)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not all(map(torch.equal, first.parameters(), other.parameters()))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("resnet19"), "did you mean resnet18"),
        (ModelSpec("mlp-0", input_shape=(2,)), "empty"),
        (ModelSpec("mlp-8"), "shape of its input"),
        (ModelSpec("wrn27-10"), "6n + 4"),
        (ModelSpec("wrn4-1"), "6n + 4"),
        (ModelSpec("wrn10-0"), "widening"),
        (ModelSpec("wrn10-1", num_classes=0), "≥ 1"),
        (ModelSpec("wrn10-1", input_shape=(0, 8, 8)), "≥ 1"),
        (ModelSpec("wrn10-1", activation="relux"), "did you mean relu"),
        (ModelSpec("wrn10-1", beta=2.0), "takes no β"),
        (ModelSpec("wrn10-1", activation="beta_gelu"), "needs a β"),
    ],
)
def test_bad_specs_are_refused(spec: ModelSpec, message: str) -> None:
    with pytest.raises(InputError) as caught:
        models.build(spec)
    assert message in str(caught.value)


class Noisy(nn.Module):
    """BatchNorm of each kind, dropout, and layers that keep no statistics or average them all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.first = nn.BatchNorm2d(3, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.second = nn.BatchNorm2d(3, momentum=None)
        self.none = nn.BatchNorm2d(3, track_running_stats=False)
        self.fc = nn.Linear(3, 4)
        self.last = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.none(self.second(self.drop(self.first(self.conv(x)).tanh())))
        return self.last(self.fc(x.mean((2, 3))))


def noisy() -> Noisy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Noisy().double()


IMAGES = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_calibration_takes_the_statistics_of_the_batch() -> None:
    model = noisy()
    models.calibrate(model, IMAGES)
    x = model.conv(IMAGES)
    torch.testing.assert_close(model.first.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(model.first.running_var, x.var((0, 2, 3)))
    x = (
        (x - x.mean((0, 2, 3), True)) / (x.var((0, 2, 3), False, keepdim=True) + 1e-5).sqrt()
    ).tanh()
    torch.testing.assert_close(model.second.running_mean, x.mean((0, 2, 3)))  # and no dropout
    torch.testing.assert_close(model.second.running_var, x.var((0, 2, 3)))


def test_calibration_forgets_what_was_before() -> None:
    first, second = noisy(), noisy()
    models.calibrate(second, 3 * IMAGES.flip(0) + 1)
    models.calibrate(first, IMAGES)
    models.calibrate(second, IMAGES)
    for name, buffer in first.named_buffers():
        if "num_batches" not in name:
            torch.testing.assert_close(buffer, second.get_buffer(name))


def test_a_calibrated_network_evaluates_as_it_trains() -> None:
    model = models.build(ModelSpec("wrn10-1", num_classes=10, input_shape=(2, 8, 8))).double()
    x = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    models.calibrate(model, x)
    evaluated, trained = model.eval()(x), model.train()(x)
    # but for the running variance's N/(N - 1)
    torch.testing.assert_close(evaluated, trained, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("training", [True, False])
def test_calibration_leaves_all_but_the_statistics_alone(training: bool) -> None:
    model = noisy().train(training)
    model.first.eval()  # frozen, as fine-tuning does
    before = copy.deepcopy(model)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    models.calibrate(model, IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, model.parameters(), before.parameters()))
    assert all(p.grad is None for p in model.parameters())
    for layer, old in zip(model.modules(), before.modules(), strict=True):
        assert getattr(layer, "momentum", None) == getattr(old, "momentum", None)
    for layer, old in zip(model.modules(), before.modules(), strict=True):
        assert layer.training == old.training, layer


def test_calibration_restores_momentum_when_the_network_fails() -> None:
    model = noisy()
    with pytest.raises(RuntimeError):
        models.calibrate(model, IMAGES[:, :1])
    assert [model.first.momentum, model.second.momentum, model.last.momentum] == [0.3, None, 0.1]


def test_calibration_refuses_one_example() -> None:
    model = noisy()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="at least two examples"):
        models.calibrate(model, IMAGES[:1])
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_without_batchnorm_there_is_nothing_to_calibrate() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    models.calibrate(model, torch.zeros(1, 7))  # does not even fit
    assert model.training


SOURCE = """
import torch
from torch import nn
def make(): return nn.Linear(2, 3)
def number(): return 3
def fail(): raise KeyError("nothing here")
class Net(nn.Linear):
    def __init__(self): super().__init__(4, 5)
"""


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own_models")
def test_factories_and_classes_build() -> None:
    assert models.build(ModelSpec("own_models:make")).weight.shape == (3, 2)
    assert models.build(ModelSpec("own_models:Net")).weight.shape == (5, 4)


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("own_models:number"), "returned no network"),
        (ModelSpec("own_models:fail"), "KeyError: 'nothing here'"),
        (ModelSpec("own_models:make", activation="relu"), "own activation"),
        (ModelSpec("own_models:make", beta=1.0), "own activation"),
    ],
)
def test_bad_factories_are_refused(spec: ModelSpec, message: str) -> None:
    with pytest.raises(InputError) as caught:
        models.build(spec)
    assert message in str(caught.value)
    assert spec.name in str(caught.value)
