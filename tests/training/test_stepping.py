"""Methods in a loop of the user's own: any module, batch and loss."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev
from torch.utils.checkpoint import checkpoint

from hessdiag import methods
from hessdiag.errors import InputError
from hessdiag.training.methods import METHODS, Method
from hessdiag.training.task import Streams
from tests.cases import generator, labels, mlp, normal
from tests.oracles import relative_error
from tests.training.test_gradients import ACTIVE, CNN, GELU, Problem, flat, made

each_method = pytest.mark.parametrize("name", METHODS)
SECOND = [name for name, method in METHODS.items() if method.second_derivative]
MEANS = [name for name, method in METHODS.items() if method.is_mean]


def gradients(model: nn.Module) -> Tensor:
    return flat([p.grad for p in model.parameters() if p.grad is not None])


def stepped(
    method: Method, problem: Problem = GELU, model: nn.Module | None = None, **options: Any
) -> Tensor:
    """Fill .grad by the method's step, and take it."""
    model = model or problem.make_model()
    options = {"loss": problem.loss, "generator": generator(3), **options}
    method.backward(model, (problem.x, problem.y), **options)
    return gradients(model)


def refusal(method: Method, model: nn.Module, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        stepped(method, model=model, **options)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    return str(caught.value)


@each_method
@pytest.mark.parametrize("problem", [GELU, CNN], ids=str)
def test_the_gradient_is_that_of_the_recipes(problem: Problem, name: str) -> None:
    method = made(name, ACTIVE)
    task = problem.task()
    draws = generator(3)
    wanted = method.step(type(task)(task.objective, task.x, task.y, method, Streams(draws, draws)))
    model = problem.make_model()
    weights = [p.detach().clone() for p in model.parameters()]
    assert relative_error(stepped(method, problem, model), flat(wanted.gradient)) < 1e-12
    for parameter, before in zip(model.parameters(), weights, strict=True):
        assert torch.equal(parameter, before)
    for own, theirs in zip(model.buffers(), task.objective.model.buffers(), strict=True):
        torch.testing.assert_close(own, theirs)


def test_what_is_returned_is_the_loss_without_the_penalty() -> None:
    model = GELU.make_model()
    found = methods.GradientPenalty(0.3).backward(model, (GELU.x, GELU.y))
    torch.testing.assert_close(found.loss, GELU.risk(GELU.theta))
    torch.testing.assert_close(found.outputs, GELU.outputs(GELU.theta))
    assert torch.equal(flat(found.gradient), gradients(model))


@pytest.mark.parametrize("name", MEANS)
def test_batches_add_up_where_the_step_is_a_mean(name: str) -> None:
    """Of equal seeds the noise is the same; labels and cotangents are each example's own."""
    method = METHODS[name]()
    model, halves = GELU.make_model(), (slice(0, 4), slice(4, 8))
    for half in halves:
        batch = GELU.x[half], GELU.y[half]
        method.backward(model, batch, GELU.loss, scale=0.5, generator=generator(3))
    alone = [GELU.make_model() for _ in halves]
    for half, own in zip(halves, alone, strict=True):
        batch = GELU.x[half], GELU.y[half]
        method.backward(own, batch, GELU.loss, generator=generator(3))
    torch.testing.assert_close(gradients(model), sum(map(gradients, alone)) / 2)
    if name in ("none", "weight-noise", "nso"):
        whole = GELU.make_model()
        batch = GELU.x[:8], GELU.y[:8]
        method.backward(whole, batch, GELU.loss, generator=generator(3))
        assert relative_error(gradients(model), gradients(whole)) < 1e-12


@pytest.mark.parametrize("name", sorted(METHODS.keys() - set(MEANS)))
def test_gradients_that_do_not_add_up_are_refused(name: str) -> None:
    model, method = GELU.make_model(), METHODS[name]()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # of zero_grad(set_to_none=False)
    first = stepped(method, model=model)
    with pytest.raises(InputError, match=r"(?s)cannot be accumulated.*zero_grad"):
        stepped(method, model=model)
    assert torch.equal(gradients(model), first)


@pytest.mark.parametrize("name", SECOND)
def test_autocast_does_not_reach_second_derivatives(name: str) -> None:
    problem = Problem("float32", GELU.build, GELU.x.float(), GELU.y)
    wanted = stepped(METHODS[name](), problem, problem.make_model().float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(stepped(METHODS[name](), problem, problem.make_model().float()), wanted)


def test_methods_of_first_order_are_under_autocast_what_torchs_own_step_is() -> None:
    problem = Problem("float32", GELU.build, GELU.x.float(), GELU.y)
    model, method = problem.make_model().float(), methods.Plain()
    with torch.autocast("cpu", torch.bfloat16):
        found = stepped(method, problem, problem.make_model().float())
        loss = nn.functional.cross_entropy(model(problem.x), problem.y)
    loss.backward()
    assert relative_error(found, gradients(model)) < 1e-2
    assert not torch.equal(found, stepped(method, problem, problem.make_model().float()))


def test_half_precision_that_would_be_wrong_is_refused() -> None:
    message = refusal(methods.GNTrace(), GELU.make_model().bfloat16())
    assert "weights of torch.bfloat16, too coarse" in message
    assert "vanish in float16" in refusal(methods.Plain(), GELU.make_model().half())
    with torch.autocast("cpu", torch.float16):
        assert "vanish in float16" in refusal(methods.SAM(), GELU.make_model().float())


def test_wrapped_networks_are_refused() -> None:
    message = refusal(methods.SAM(), nn.DataParallel(GELU.make_model()))
    assert "DataParallel" in message
    assert "the module inside" in message


def test_disabled_gradients_make_no_difference() -> None:
    wanted = stepped(methods.SAM())
    with torch.no_grad():
        assert torch.equal(stepped(methods.SAM()), wanted)


def test_randomness_is_torchs_own_unless_given() -> None:
    found: list[Tensor] = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(stepped(methods.WeightNoise(sigma2=0.1), generator=None))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


class Forms(nn.Module):
    """A network of two inputs that returns more than its outputs, counts its calls, checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(nn.GELU, 4, 5, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, shift: Tensor) -> Any:
        self.calls += 1
        z = checkpoint(self.inner, x + shift, use_reentrant=False)
        return SimpleNamespace(logits=z, hidden=x)


@each_method
@pytest.mark.parametrize("form", ["tuple", "mapping"])
def test_networks_of_any_form(form: str, name: str) -> None:
    method, shift = made(name, ACTIVE), torch.full_like(GELU.x, 0.1)
    torch.manual_seed(0)
    model = Forms().double()
    inputs = {"tuple": (GELU.x, shift), "mapping": {"shift": shift, "x": GELU.x}}[form]
    method.backward(model, (inputs, GELU.y), generator=generator(3))
    found = gradients(model)
    model.zero_grad()
    method.backward(model.inner, (GELU.x + shift, GELU.y), generator=generator(3))
    assert relative_error(found, gradients(model)) < 1e-12
    assert float(model.calls) == 1


def cosh(z: Tensor, y: Tensor) -> Tensor:
    """A loss without a name: B = diag cosh(z − y)."""
    return (z - y[:, None]).cosh().sum(1).mean()


TINY = Problem("tiny", lambda: mlp(nn.Tanh, 3, 2, 2), normal(2, 3, seed=7), labels(2))


def test_any_loss_has_the_exact_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all signs, the mean is the gradient of L + κ tr G with B from the loss's own formula."""
    theta = TINY.theta.requires_grad_()

    def objective(theta: Tensor) -> Tensor:
        z, j = TINY.outputs(theta), jacrev(TINY.outputs)(theta)
        b = (z - TINY.y[:, None]).cosh()
        return cosh(z, TINY.y) + 0.2 * (b[:, :, None] * j**2).sum() / len(z)

    (wanted,) = torch.autograd.grad(objective(theta), theta)
    steps: list[Tensor] = []
    for bits in product((0, 1), repeat=4):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_, b=bits, **__: torch.tensor(b).view(2, 2))
            steps.append(stepped(methods.GNTrace(kappa=0.2), TINY, loss=cosh))
    assert relative_error(torch.stack(steps).mean(0), wanted) < 1e-10
    assert relative_error(steps[0], wanted) > 1e-3


def test_labels_of_a_loss_without_a_name_cannot_be_drawn() -> None:
    with pytest.raises(InputError, match="no labels to sample"):
        stepped(methods.GNTrace(labels="detached"), TINY, loss=cosh)


def test_what_has_no_second_derivative_is_told() -> None:
    loss = nn.MultiMarginLoss()
    assert stepped(methods.SAM(), loss=loss).any()
    message = refusal(methods.GradientPenalty(), GELU.make_model(), loss=loss)
    assert "multi_margin_loss" in message
    assert "a method of first order" in message


def test_what_is_no_batch_or_no_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"not a pair \(x, y\)"):
        methods.Plain().backward(GELU.make_model(), GELU.x)
    with pytest.raises(InputError, match="no weights to train"):
        methods.Plain().backward(nn.GELU(), (GELU.x, GELU.y))
    model = Forms().double()
    model.forward = lambda x: (x, x)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="not one tensor"):
        methods.Plain().backward(model, (GELU.x, GELU.y))
