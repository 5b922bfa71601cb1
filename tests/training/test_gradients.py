"""Step gradients against dense matrices, and what a step leaves behind."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

from hessdiag.errors import InputError
from hessdiag.nets import activations
from hessdiag.training.methods import METHODS, Method
from hessdiag.training.objective import Objective
from hessdiag.training.task import Step, Streams, Task
from tests.cases import (
    IMAGES,
    VECTORS,
    Loss,
    Unused,
    cnn,
    frozen_middle,
    generator,
    labels,
    mlp,
    seeded,
)
from tests.oracles import (
    criterion,
    flat_parameters,
    hessian,
    hessian_vector,
    linear_mse,
    outputs,
    relative_error,
    trainable,
)

TOLERANCE = 1e-10
ACTIVE: dict[str, Any] = {"rho": 0.1, "sigma2": 0.01, "kappa": 0.1, "samples": 2, "num_pairs": 2}
PERTURBED = ("weight-noise", "nso")  # even in the first pass
DRAWS_PERTURBATIONS = (*PERTURBED, "hessian-trace", "nme-trace")
DRAWS_LABELS = ("gn-trace", "nme-trace")

each_method = pytest.mark.parametrize("method", METHODS)


class Normalised(nn.Module):
    """BatchNorm by the batch's statistics, or LayerNorm, in operations that torch differentiates.

    Its own layers have no third derivative (BatchNorm) or a wrong one (LayerNorm, torch 2.15).
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.over_batch = not isinstance(layer, nn.LayerNorm)

    def forward(self, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.ndim) if axis != 1] if self.over_batch else [-1]
        shape = [1, -1] + [1] * (x.ndim - 2) if self.over_batch else [-1]
        x = x - x.mean(axes, keepdim=True)
        x = x / (x.square().mean(axes, keepdim=True) + self.eps).sqrt()
        return x * self.weight.view(shape) + self.bias.view(shape)


def composed(model: nn.Module) -> nn.Module:
    model = deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            model.set_submodule(name, Normalised(layer))
    return model


@dataclass(frozen=True, eq=False)
class Problem:
    """A network in training mode on one batch, its loss, and the truth about them."""

    name: str
    build: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    loss: str = "cross-entropy"
    label_smoothing: float = 0.0

    def __str__(self) -> str:
        return self.name

    def make_model(self) -> nn.Module:
        return seeded(self.build).train()

    def task(self, model: nn.Module | None = None, *, seed: int = 0, **options: Any) -> Task:
        """Make a task whose method is still to be made of ``options``."""
        objective = Objective(
            model or self.make_model(), self.loss, label_smoothing=self.label_smoothing
        )
        streams = Streams(generator(seed + 50), generator(seed + 90))
        method: Any = options
        return Task(objective, self.x, self.y, method, streams)

    def step(self, method: str, at: Tensor | None = None, **options: Any) -> Tensor:
        """Take the step's gradient, flat, at the network's weights or others."""
        model = self.make_model()
        if at is not None:
            torch.nn.utils.vector_to_parameters(at, trainable(model).values())
        return flat(take(method, self.task(model, **options)).gradient)

    @property
    def theta(self) -> Tensor:
        return flat_parameters(self.make_model())

    def outputs(self, theta: Tensor) -> Tensor:
        return evaluator(self)(theta)

    def risk(self, theta: Tensor, targets: Tensor | None = None) -> Tensor:
        """Compute L; for other targets, without the smoothing of labels."""
        loss: Loss = self.loss
        if targets is None and self.label_smoothing:
            loss = nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)
        return criterion(loss)(self.outputs(theta), self.y if targets is None else targets)

    def gradient(self, theta: Tensor, targets: Tensor | None = None) -> Tensor:
        theta = theta.clone().requires_grad_()
        return torch.autograd.grad(self.risk(theta, targets), theta)[0]

    def gn_trace(self, theta: Tensor) -> Tensor:
        return self.gn(theta).trace()

    def gn(self, theta: Tensor) -> Tensor:
        """Compute Σ J_nᵀ B_n J_n / N, with B written out."""
        z = self.outputs(theta)
        num_outputs = z.shape[1]
        b = 2 / num_outputs * torch.eye(num_outputs, dtype=z.dtype).expand(len(z), -1, -1)
        if self.loss == "cross-entropy":
            p = z.softmax(1)
            b = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        j = jacrev(evaluator(self))(theta)
        return torch.einsum("nkp,nkl,nlq->pq", j, b, j) / len(z)


@cache
def evaluator(problem: Problem) -> Callable[[Tensor], Tensor]:
    return outputs(composed(problem.make_model()), [(problem.x, problem.y)])


def perceptron(activation: type[nn.Module], *widths: int) -> Callable[[], nn.Module]:
    return lambda: mlp(activation, *widths)


def layer_norm() -> nn.Module:
    layers = {"fc1": nn.Linear(4, 4), "ln": nn.LayerNorm(4), "act": nn.GELU()}
    return nn.Sequential(OrderedDict(**layers, fc2=nn.Linear(4, 3)))


PROBLEMS = [
    Problem("mlp-gelu", perceptron(nn.GELU, 4, 5, 4, 3), VECTORS, labels(9)),
    Problem("mlp-relu", perceptron(nn.ReLU, 4, 6, 3), VECTORS, labels(9)),
    Problem("mlp-gelu-mse", perceptron(nn.GELU, 4, 5, 3), VECTORS, labels(9), "mse"),
    Problem(
        "mlp-gelu-smoothing",
        perceptron(nn.GELU, 4, 5, 3),
        VECTORS,
        labels(9),
        label_smoothing=0.2,
    ),
    Problem("cnn-bn", partial(cnn, nn.GELU), IMAGES, labels(6, seed=1)),
    Problem("cnn-relu-bn-mse", cnn, IMAGES, labels(6, seed=1), "mse"),
    Problem("layer-norm", layer_norm, VECTORS, labels(9)),
    Problem("unused", Unused, VECTORS, labels(9)),
    Problem("frozen", frozen_middle, VECTORS, labels(9)),
]
GELU, CNN = PROBLEMS[0], PROBLEMS[4]
LINEAR = Problem("linear", lambda: nn.Linear(4, 3, bias=False), VECTORS, labels(9), "mse")
each_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=str)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def made(name: str, options: Any) -> Method:
    """Make a method with those options that it takes; κ wins over σ²."""
    known = METHODS[name].options().keys()
    taken = {key: value for key, value in options.items() if key in known}
    if "kappa" in taken:
        taken.pop("sigma2", None)
    return METHODS[name](**taken)


def take(method: str, task: Task) -> Step:
    return made(method, task.method).step(task)


@cache
def matrices(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradient, H and G at the network's weights."""
    theta = problem.theta
    return problem.gradient(theta), hessian(problem.risk, theta), problem.gn(theta)


# against dense matrices


@each_problem
def test_none_is_the_gradient(problem: Problem) -> None:
    assert relative_error(problem.step("none"), matrices(problem)[0]) < TOLERANCE


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("ablate_nme", [False, True])
@each_problem
def test_the_gradient_penalty_adds_h_or_g_times_the_gradient(
    problem: Problem, power: int, ablate_nme: bool
) -> None:
    g, h, gn = matrices(problem)
    curved = (gn if ablate_nme else h) @ g
    wanted = g + 0.3 * (curved / g.norm() if power == 1 else 2 * curved)
    got = problem.step("grad-penalty", rho=0.3, power=power, ablate_nme=ablate_nme)
    assert relative_error(got, wanted) < TOLERANCE
    assert relative_error(g, wanted) > 1e-3


@each_problem
def test_the_gradient_penalty_is_the_gradient_of_the_penalised_loss(problem: Problem) -> None:
    for power in (1, 2):
        theta = problem.theta.requires_grad_()
        loss = problem.risk(theta)
        (g,) = torch.autograd.grad(loss, theta, create_graph=True)
        (wanted,) = torch.autograd.grad(loss + 0.3 * g.norm() ** power, theta)
        got = problem.step("grad-penalty", rho=0.3, power=power)
        assert relative_error(got, wanted) < TOLERANCE


@each_problem
def test_sam_and_its_kin_take_the_gradient_at_their_displaced_weights(problem: Problem) -> None:
    g, theta = matrices(problem)[0], problem.theta
    parameters = trainable(problem.make_model())
    assert {name for name, p in parameters.items() if p.ndim == 1} == {
        name for name in parameters if "bias" in name or "bn" in name or "ln" in name
    }
    t = flat([p.abs() + 0.01 if p.ndim > 1 else torch.ones_like(p) for p in parameters.values()])
    t = t.detach()
    moves = {"sam": g / g.norm(), "usam": g, "asam": t * t * g / (t * g).norm()}
    for method, move in moves.items():
        wanted = problem.gradient(theta + 0.2 * move)
        assert relative_error(problem.step(method, rho=0.2), wanted) < TOLERANCE, method
        assert relative_error(g, wanted) > 1e-3


@pytest.mark.parametrize("method", ["grad-penalty", "sam", "usam", "asam"])
def test_strength_zero_is_plain(method: str) -> None:
    assert torch.equal(CNN.step(method, rho=0.0), CNN.step("none"))


@pytest.mark.parametrize("method", ["grad-penalty", "sam", "asam"])
def test_a_vanishing_gradient_is_no_division_by_zero(method: str) -> None:
    problem = Problem("exact", lambda: nn.Linear(4, 3), torch.zeros(3, 4).double(), labels(3))
    model = problem.make_model()
    assert isinstance(model, nn.Linear)
    nn.init.zeros_(model.bias)  # uniform predictions, as are the labels
    problem = Problem(*list(vars(problem).values())[:3], torch.arange(3))
    got = flat(take(method, problem.task(model, rho=0.1)).gradient)
    assert got.abs().max() < 1e-15


# against theory


def test_sam_is_the_penalty_of_power_one_to_first_order() -> None:
    def difference(rho: float) -> float:
        return (GELU.step("sam", rho=rho) - GELU.step("grad-penalty", rho=rho)).norm().item()

    assert difference(1e-3) / difference(5e-4) == pytest.approx(4, rel=0.02)


def test_a_quadratic_has_the_effective_hessians_of_theory() -> None:
    y = torch.nn.functional.one_hot(LINEAR.y, 3).double()
    truth = linear_mse(LINEAR.theta.view(3, 4), LINEAR.x, y)
    h, rho = truth.hessian, 0.4
    delta = LINEAR.theta - torch.linalg.lstsq(LINEAR.x, y).solution.T.flatten()
    assert relative_error(LINEAR.step("none"), h @ delta) < TOLERANCE
    squared = (h + 2 * rho * h @ h) @ delta
    assert relative_error(LINEAR.step("grad-penalty", rho=rho, power=2), squared) < TOLERANCE
    ablated = LINEAR.step("grad-penalty", rho=rho, power=2, ablate_nme=True)
    assert relative_error(ablated, squared) < TOLERANCE
    assert relative_error(LINEAR.step("usam", rho=rho), (h + rho * h @ h) @ delta) < TOLERANCE


@pytest.mark.parametrize("problem", [LINEAR, GELU], ids=str)
def test_sgd_follows_the_flow_of_the_penalty_of_a_quarter_step(problem: Problem) -> None:
    def miss(step: float, rho: float) -> float:
        theta = problem.theta
        field = partial(problem.step, "grad-penalty", power=2, rho=rho)
        k1 = field(theta)  # Runge and Kutta's fourth order, along −field
        k2 = field(theta - step / 2 * k1)
        k3 = field(theta - step / 2 * k2)
        k4 = field(theta - step * k3)
        flow = theta - step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return (theta - step * problem.step("none") - flow).norm().item()

    assert miss(0.02, 0.02 / 4) / miss(0.01, 0.01 / 4) == pytest.approx(8, rel=0.1)
    assert miss(0.02, 0.0) / miss(0.01, 0.0) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("activation", ["augmented_relu", "diminished_gelu"])
def test_surrogate_activations_have_no_third_derivative(activation: str) -> None:
    network = partial(mlp, partial(activations.make, activation), 4, 5, 3)
    problem = Problem(activation, network, VECTORS, labels(9))
    for method in ("hessian-trace", "nme-trace"):
        model = problem.make_model()
        with pytest.raises(InputError, match="no third"):
            take(method, problem.task(model, kappa=0.1))
        assert torch.equal(flat_parameters(model), problem.theta)
    g, batches = problem.step("none"), [(problem.x, problem.y)]
    curved = hessian_vector(problem.make_model(), batches, problem.loss, g / g.norm())
    assert relative_error(problem.step("grad-penalty", rho=0.3), g + 0.3 * curved) < TOLERANCE


# what a step leaves behind


def bits(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone().view(torch.int64) for p in model.parameters()]


def with_odd_weights(problem: Problem) -> nn.Module:
    model = problem.make_model()
    weights = next(model.parameters()).data.flatten()
    weights[0], weights[1], weights[2] = -0.0, 5e-324, 1e-300
    return model


@each_method
@pytest.mark.parametrize("problem", [GELU, CNN, PROBLEMS[-1]], ids=str)
def test_weights_stay_to_the_bit(problem: Problem, method: str) -> None:
    model = with_odd_weights(problem)
    before = bits(model)
    step = take(method, problem.task(model, **ACTIVE))
    assert all(map(torch.equal, bits(model), before))
    assert all(p.grad is None for p in model.parameters())
    assert [t.shape for t in step.gradient] == [p.shape for p in trainable(model).values()]
    assert not any(t.requires_grad for t in (*step.gradient, step.outputs, step.loss))


class BrokenError(Exception):
    """What the network raises below."""


def break_pass(model: nn.Module, number: int, *, backward: bool) -> None:
    calls: list[int] = []

    def fail(*_: Any) -> None:
        raise BrokenError

    def after(_module: nn.Module, _args: Any, z: Tensor) -> None:
        calls.append(1)
        if len(calls) == number:
            z.register_hook(fail) if backward else fail()

    model.register_forward_hook(after)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("method", "number"),
    [("sam", 2), ("usam", 2), ("asam", 2), ("weight-noise", 1), *(("nso", n) for n in range(1, 5))],
)
def test_weights_stay_to_the_bit_when_a_pass_fails(
    method: str, number: int, backward: bool
) -> None:
    model = with_odd_weights(CNN)
    before = bits(model)
    break_pass(model, number, backward=backward)
    with pytest.raises(BrokenError):
        take(method, CNN.task(model, **ACTIVE))
    assert all(map(torch.equal, bits(model), before))
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.track_running_stats for layer in norms)


def first_noise(problem: Problem, sigma2: float, seed: int = 0) -> list[Tensor]:
    """Draw ε as the first of the perturbation stream."""
    draws, parameters = generator(seed + 50), trainable(problem.make_model()).values()
    return [sigma2**0.5 * torch.randn(p.shape, generator=draws, dtype=p.dtype) for p in parameters]


def at_first_pass(method: str, problem: Problem) -> nn.Module:
    """Make the network with the weights of the method's first pass."""
    model = problem.make_model()
    if method in PERTURBED:
        moved = problem.theta + flat(first_noise(problem, ACTIVE["sigma2"]))
        torch.nn.utils.vector_to_parameters(moved, trainable(model).values())
    return model


@each_method
def test_running_statistics_move_once_on_the_first_pass(method: str) -> None:
    model, wanted = CNN.make_model(), at_first_pass(method, CNN)
    wanted(CNN.x)
    take(method, CNN.task(model, **ACTIVE))
    state, moved = dict(model.named_buffers()), dict(wanted.named_buffers())
    assert int(state["bn1.num_batches_tracked"]) == int(state["bn2.num_batches_tracked"]) == 1
    for name, value in moved.items():
        torch.testing.assert_close(state[name], value, rtol=1e-12, atol=0, msg=name)
    assert not torch.equal(state["bn1.running_mean"], CNN.make_model().bn1.running_mean)
    assert all(m.track_running_stats for m in (model.bn1, model.bn2))


@each_method
@pytest.mark.parametrize("problem", [GELU, PROBLEMS[2], PROBLEMS[3]], ids=str)
def test_outputs_and_loss_are_those_of_the_first_pass(problem: Problem, method: str) -> None:
    step = take(method, problem.task(**ACTIVE))
    theta = flat_parameters(at_first_pass(method, problem))
    torch.testing.assert_close(step.outputs, problem.outputs(theta), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(step.loss, problem.risk(theta), rtol=1e-12, atol=0)


@each_method
def test_a_stream_moves_only_for_those_who_draw_from_it(method: str) -> None:
    task, elsewhere = GELU.task(**ACTIVE), torch.get_rng_state()
    before = task.streams.perturbation.get_state(), task.streams.labels.get_state()
    take(method, task)
    moved = not torch.equal(task.streams.perturbation.get_state(), before[0])
    assert moved == (method in DRAWS_PERTURBATIONS)
    moved = not torch.equal(task.streams.labels.get_state(), before[1])
    assert moved == (method in DRAWS_LABELS)
    assert torch.equal(torch.get_rng_state(), elsewhere)


@each_method
def test_the_same_seed_gives_the_same_step(method: str) -> None:
    first, again, other = (GELU.step(method, seed=seed, **ACTIVE) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (method not in DRAWS_PERTURBATIONS + DRAWS_LABELS)
