"""Optimizers, learning rates against torch's schedulers, and the start of a network."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from hessdiag.errors import InputError
from hessdiag.metadata import ModelSpec
from hessdiag.nets import models
from hessdiag.training import optimisation, recipes
from hessdiag.training.optimisation import initialise, learning_rate, make_optimizer
from hessdiag.training.recipes import Recipe

RECIPE = recipes.find("digits-wrn10-1")
IMAGENET = recipes.find("imagenet-resnet50")
FINETUNE = recipes.find("finetune-resnet34")


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)
    )


def resnet(name: str = "resnet18") -> nn.Module:
    return models.build(ModelSpec(name, num_classes=10))


def scheduled(recipe: Recipe, per_epoch: int, make: Any) -> list[float]:
    """The learning rates that a scheduler of torch gives to the steps of a run."""
    optimizer = torch.optim.SGD([torch.zeros(1, dtype=torch.float64)], lr=recipe.lr)
    schedule = make(optimizer)
    found: list[float] = []
    for _ in range(recipe.epochs * per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def rates(recipe: Recipe, per_epoch: int) -> list[float]:
    return [learning_rate(recipe, step, per_epoch) for step in range(recipe.epochs * per_epoch)]


def same(found: list[float], wanted: list[float], peak: float) -> bool:
    return found == pytest.approx(wanted, rel=1e-9, abs=1e-12 * peak)


@pytest.mark.parametrize(("epochs", "per_epoch"), [(15, 23), (1, 1), (7, 1), (1, 40)], ids=str)
def test_cosine_is_torchs(epochs: int, per_epoch: int):
    recipe = replace(RECIPE, epochs=epochs)
    total = epochs * per_epoch
    wanted = scheduled(recipe, per_epoch, lambda o: lr_scheduler.CosineAnnealingLR(o, total))
    assert same(rates(recipe, per_epoch), wanted, recipe.lr)
    assert learning_rate(recipe, 0, per_epoch) == recipe.lr
    assert learning_rate(recipe, total, per_epoch) == pytest.approx(0, abs=1e-16)


@pytest.mark.parametrize("warmup", [1, 5, 2.5])
def test_warm_up_then_cosine_is_torchs(warmup: float):
    recipe = replace(RECIPE, epochs=12, warmup_epochs=warmup, warmup_factor=0.25)
    steps = round(warmup * 10)

    def make(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        up = lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=steps)
        down = lr_scheduler.CosineAnnealingLR(optimizer, 120 - steps)
        return lr_scheduler.SequentialLR(optimizer, [up, down], [steps])

    found = rates(recipe, 10)
    assert same(found, scheduled(recipe, 10, make), recipe.lr)
    assert found[0] == pytest.approx(0.025)
    assert max(found) == found[steps] == recipe.lr


def test_imagenet_rises_from_a_tenth_over_five_epochs():
    found = rates(replace(IMAGENET, epochs=20), 4)
    assert found[0] == pytest.approx(0.1)
    assert found[20] == pytest.approx(IMAGENET.lr)
    rises = [b - a for a, b in itertools.pairwise(found[:21])]
    assert rises == pytest.approx([(IMAGENET.lr - 0.1) / 20] * 20)
    assert learning_rate(replace(IMAGENET, epochs=20), 80, 4) == pytest.approx(0, abs=1e-16)


def test_steps_are_torchs():
    epochs = scheduled(FINETUNE, 1, lambda o: lr_scheduler.StepLR(o, 10, gamma=0.1))
    wanted = [rate for rate in epochs for _ in range(7)]
    assert same(rates(FINETUNE, 7), wanted, FINETUNE.lr)
    assert sorted(set(wanted)) == pytest.approx([1e-6, 1e-5, 1e-4])


def test_steps_count_from_the_start_of_the_warm_up():
    recipe = replace(FINETUNE, lr=1.0, warmup_epochs=4, warmup_factor=0.5, step_epochs=5)
    found = rates(recipe, 2)
    assert found[:8] == pytest.approx([0.5 + 0.5 * step / 8 for step in range(8)])
    assert found[8:10] == [1.0, 1.0]
    assert found[10:20] == pytest.approx([0.1] * 10)


def test_constant_is_constant_after_warm_up():
    recipe = replace(RECIPE, schedule="constant", epochs=4, warmup_epochs=1, warmup_factor=0.0)
    assert rates(recipe, 5) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08] + [0.1] * 15)
    assert set(rates(replace(recipe, warmup_epochs=0), 5)) == {0.1}


def test_warm_up_may_be_longer_than_the_run():
    recipe = replace(RECIPE, epochs=2, warmup_epochs=4, warmup_factor=0.0)
    assert rates(recipe, 3) == pytest.approx([0.1 * step / 12 for step in range(6)])
    assert all(map(math.isfinite, rates(replace(recipe, warmup_epochs=2), 3)))


def test_sgd_is_the_recipes():
    optimizer = make_optimizer(RECIPE, net())
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert len(group["params"]) == 6
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.1, 0.9, True)
    assert (group["weight_decay"], group["dampening"]) == (5e-4, 0)
    assert make_optimizer(replace(RECIPE, nesterov=False), net()).defaults["nesterov"] is False
    assert make_optimizer(replace(RECIPE, momentum=0.0), net()).defaults["nesterov"] is False


def test_adam_takes_amsgrad_and_no_momentum():
    optimizer = make_optimizer(FINETUNE, net())
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["amsgrad"], group["weight_decay"]) == (1e-4, True, 0)
    assert "momentum" not in group


@pytest.mark.parametrize("name", [name for name in optimisation.OPTIMIZERS if name != "Muon"])
def test_every_optimizer_takes_a_step(name: str):
    model = net()
    for decay_all in (True, False):
        recipe = replace(RECIPE, optimizer=name, lr=0.01, decay_norm_and_bias=decay_all)
        optimizer = make_optimizer(recipe, model)
        before = [weight.detach().clone() for weight in model.parameters()]
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert not any(map(torch.equal, before, model.parameters()))


def test_optimizers_of_torch_are_all_there():
    assert {"SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam"} <= {*optimisation.OPTIMIZERS}
    assert not {"LBFGS", "SparseAdam", "Optimizer"} & {*optimisation.OPTIMIZERS}
    assert optimisation.find("adamw") is torch.optim.AdamW


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SGDD", "unknown optimizer.*did you mean sgd"),
        ("Optimizer", "unknown optimizer"),
        ("lr_scheduler", "unknown optimizer"),
        ("LBFGS", "LBFGS cannot be used.*closure"),
        ("SparseAdam", "SparseAdam cannot be used.*sparse gradients"),
        ("Muon", "Muon refuses"),  # takes matrices only
    ],
)
def test_optimizers_that_cannot_be_used_are_refused(name: str, words: str):
    with pytest.raises(InputError, match=f"(?s){words}"):
        make_optimizer(replace(RECIPE, optimizer=name), net())


def test_batch_norm_and_biases_are_spared_the_decay():
    model = resnet()
    recipe = replace(IMAGENET, optimizer="AdamW")
    decayed, spared = make_optimizer(recipe, model).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0)
    names = {id(weight): name for name, weight in model.named_parameters()}
    for group, dims in ((decayed, {2, 4}), (spared, {1})):
        assert {weight.ndim for weight in group["params"]} == dims
        order = [list(names).index(id(weight)) for weight in group["params"]]
        assert order == sorted(order)
    assert [names[id(weight)] for weight in spared["params"]][-1] == "fc.bias"
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    (everything,) = make_optimizer(replace(recipe, decay_norm_and_bias=True), model).param_groups
    assert len(everything["params"]) == len(names)


def test_decay_is_what_the_groups_say():
    """With no gradient, SGD moves a weight by its decay alone."""
    model = net()
    recipe = replace(RECIPE, lr=0.5, weight_decay=0.1, momentum=0.0, decay_norm_and_bias=False)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = make_optimizer(recipe, model)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in model.named_parameters():
        factor = 0.95 if name in ("0.weight", "4.weight") else 1.0
        torch.testing.assert_close(weight.detach(), factor * before[name])


def test_frozen_weights_are_left_out():
    model = net()
    model[0].requires_grad_(False)
    (group,) = make_optimizer(RECIPE, model).param_groups
    assert len(group["params"]) == 4
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no weights to train"):
        make_optimizer(RECIPE, model)


def test_shared_weights_are_one():
    head = nn.Linear(4, 4)
    recipe = replace(RECIPE, decay_norm_and_bias=False)
    groups = make_optimizer(recipe, nn.Sequential(head, nn.GELU(), head)).param_groups
    assert [len(group["params"]) for group in groups] == [1, 1]


@pytest.mark.parametrize(("name", "last"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_zero_gamma_makes_every_block_its_shortcut(name: str, last: str):
    model = resnet(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    initialise(replace(IMAGENET, head_std=None), model)
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert changed == {key for key in before if key.endswith(f"{last}.weight")}
    assert len(changed) == {"resnet18": 8, "resnet50": 16}[name]
    assert all(not model.state_dict()[key].any() for key in changed)
    x = torch.randn(2, model.get_submodule("layer1.1.conv1").weight.shape[1], 4, 4)
    torch.testing.assert_close(model.get_submodule("layer1.1")(x), x.relu())


def test_the_head_is_drawn_anew_with_its_std():
    recipe = replace(IMAGENET, zero_gamma=False)
    model = models.build(ModelSpec("wrn10-4", num_classes=100))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    initialise(recipe, model, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert changed == {"head.weight"}
    weight = model.get_parameter("head.weight").detach()
    num = weight.numel()
    assert abs(float(weight.std()) - 0.01) < 4 * 0.01 / (2 * num) ** 0.5
    assert abs(float(weight.mean())) < 4 * 0.01 / num**0.5
    again = weight.clone()
    initialise(recipe, model, seed=3)
    assert torch.equal(weight, again)
    initialise(recipe, model, seed=4)
    assert not torch.equal(weight, again)
    assert weight.requires_grad is False  # detached
    assert model.get_parameter("head.weight").requires_grad


def test_the_head_is_the_last_linear_layer():
    model = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    initialise(replace(IMAGENET, zero_gamma=False), model)
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert changed == {"2.weight"}


def test_the_heads_draw_is_the_same_in_every_dtype():
    recipe = replace(IMAGENET, zero_gamma=False)
    wide, narrow = nn.Linear(5, 3, dtype=torch.float64), nn.Linear(5, 3)
    for model in (wide, narrow):
        initialise(recipe, model, 1)
    torch.testing.assert_close(wide.weight.float(), narrow.weight)


def test_a_recipe_without_a_start_of_its_own_changes_nothing():
    model = resnet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    initialise(RECIPE, model)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_networks_that_have_no_such_part_are_refused():
    with pytest.raises(InputError, match=r"(?s)`zero_gamma` needs residual blocks.*zero_gamma = f"):
        initialise(IMAGENET, net())
    recipe = replace(IMAGENET, zero_gamma=False)
    with pytest.raises(InputError, match="`head_std` needs a classifier"):
        initialise(recipe, nn.Sequential(nn.Conv2d(1, 2, 1)))
