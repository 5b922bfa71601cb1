"""Dense float64 truth for tiny problems: H, G and N as matrices, and closed forms.

The concatenation of all batches is the one empirical risk, so torch itself decides how its mean
weighs the examples. N comes from the second derivatives of every output, never from H − G.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.cases import BY_NAME, Batch, Loss


@dataclass(frozen=True)
class Dense:
    """The matrices (n, n), the gradient (n,) and the loss of one risk."""

    hessian: Tensor
    gn: Tensor
    nme: Tensor
    gradient: Tensor
    loss: float


def hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Compute ∇² of a scalar function, all rows at once.

    ``torch.func.hessian`` would not do: it differentiates the batching rule of layer_norm's
    backward, which is wrong for grad_input in torch 2.15 (pytorch/functorch#534).
    """
    return torch.autograd.functional.hessian(function, at, vectorize=True)


def relative_error(got: Tensor | None, wanted: Tensor) -> float:
    """Return ‖got − wanted‖ / ‖wanted‖."""
    assert got is not None
    assert got.shape == wanted.shape
    return ((got.to(wanted) - wanted).norm() / wanted.norm()).item()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, each once, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def flat_parameters(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainable(model).values()])


def criterion(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the torch function that the name stands for."""
    if loss == "cross-entropy":
        return F.cross_entropy
    if loss == "mse":
        return lambda z, y: F.mse_loss(
            z, y if y.is_floating_point() else F.one_hot(y, z.shape[1]).to(z)
        )
    assert callable(loss)
    return loss


def settle(model: nn.Module, bn: str) -> nn.Module:
    """Copy the model in eval mode; BatchNorm then has its running or the batch's statistics."""
    model = deepcopy(model).eval()
    for layer in model.modules():
        if bn == "batch" and isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return model


def outputs(
    model: nn.Module, batches: Iterable[Batch], bn: str = "eval"
) -> Callable[[Tensor], Tensor]:
    """Return θ ↦ the outputs of all examples, (N, …), with θ the flat trainable parameters."""
    model, batches = settle(model, bn), list(batches)
    parameters = trainable(model)
    sizes = [p.numel() for p in parameters.values()]

    def evaluate(theta: Tensor) -> Tensor:
        pieces = zip(parameters.items(), theta.split(sizes), strict=True)
        state = {name: piece.view_as(p) for (name, p), piece in pieces}
        with sdpa_kernel(SDPBackend.MATH):
            return torch.cat([functional_call(model, state, (x,)) for x, _ in batches])

    return evaluate


def targets(batches: Iterable[Batch]) -> Tensor:
    return torch.cat([y for _, y in batches])


def jacobian(model: nn.Module, batches: Iterable[Batch], bn: str = "eval") -> Tensor:
    """Return J_n for every example: (N, C, n), with C all outputs of one example."""
    evaluate, theta = outputs(model, batches, bn), flat_parameters(model)
    return jacrev(evaluate)(theta).flatten(1, -2)


def dense(model: nn.Module, batches: Iterable[Batch], loss: Loss, bn: str = "eval") -> Dense:
    """Compute H = ∇²L, G = Σ J_nᵀ B_n J_n and N = Σ c_nk ∇²z_nk as matrices.

    c_n and B_n are derivatives of the total loss in the outputs of example n, so that they hold
    the example's weight in the mean.
    """
    batches = list(batches)
    evaluate, theta, y = outputs(model, batches, bn), flat_parameters(model), targets(batches)
    measure = criterion(loss)
    z = evaluate(theta).detach()

    def risk(theta: Tensor) -> Tensor:
        return measure(evaluate(theta), y)

    def of_example(n: int) -> Callable[[Tensor], Tensor]:
        return lambda row: measure(torch.cat([z[:n], row[None], z[n + 1 :]]), y)

    num_outputs = z[0].numel()

    def output(k: int) -> Callable[[Tensor], Tensor]:
        return lambda theta: evaluate(theta).flatten()[k]

    b = torch.stack([hessian(of_example(n), z[n]) for n in range(len(z))])
    c = jacrev(lambda z: measure(z, y))(z).flatten()
    j = jacrev(evaluate)(theta).flatten(1, -2)
    return Dense(
        hessian=hessian(risk, theta),
        gn=torch.einsum("nkp,nkl,nlq->pq", j, b.reshape(-1, num_outputs, num_outputs), j),
        nme=torch.stack([c_k * hessian(output(k), theta) for k, c_k in enumerate(c)]).sum(0),
        gradient=jacrev(risk)(theta),
        loss=risk(theta).item(),
    )


@cache
def truth_of(name: str) -> Dense:
    """Compute the matrices of a case of the table, once."""
    return dense(*BY_NAME[name])


def hessian_vector(model: nn.Module, batches: Iterable[Batch], loss: Loss, v: Tensor) -> Tensor:
    """Compute H v by two reverse passes over the concatenated outputs: ∇⟨∇L, v⟩."""
    batches = list(batches)
    model = settle(model, "eval")
    parameters = list(trainable(model).values())
    with sdpa_kernel(SDPBackend.MATH):
        z = torch.cat([model(x) for x, _ in batches])
        value = criterion(loss)(z, targets(batches))
        first = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
        slope = torch.cat([g.flatten() for g in first]) @ v
        second = torch.autograd.grad(slope, parameters, materialize_grads=True)
    return torch.cat([h.flatten() for h in second])


def softmax_regression(weight: Tensor, x: Tensor, y: Tensor) -> Dense:
    """Solve z = W x with cross-entropy: G = (1/N) Σ (diag p − p pᵀ) ⊗ x xᵀ and N = 0."""
    p = (x @ weight.T).softmax(1)
    b = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    gn = torch.einsum("nkl,ni,nj->kilj", b, x, x).reshape(weight.numel(), -1) / len(x)
    c = p - F.one_hot(y, len(weight))
    loss = -p[torch.arange(len(y)), y].log().mean().item()
    return Dense(gn, gn, torch.zeros_like(gn), (c.T @ x).flatten() / len(x), loss)


def linear_mse(weight: Tensor, x: Tensor, y: Tensor) -> Dense:
    """Solve z = W x with torch's mean squared error: G = (2/C) I ⊗ XᵀX/N and N = 0."""
    num_outputs = len(weight)
    eye = torch.eye(num_outputs, dtype=x.dtype)
    gn = 2 / num_outputs * torch.kron(eye, x.T @ x / len(x))
    error = x @ weight.T - y
    gradient = 2 / num_outputs * (error.T @ x).flatten() / len(x)
    return Dense(gn, gn, torch.zeros_like(gn), gradient, error.square().mean().item())


def two_layer_nme(w: Tensor, u: Tensor, x: Tensor, c: Tensor) -> Tensor:
    """Compute N of z = U tanh(W x), parameters (W, U) in this order, from c_n = ∂ℓ_n/∂z_n.

    With t = tanh(Wx): the W_i block is Σ (Uᵀc)_i φ''(a_i) x xᵀ, none couples two units of W; the
    entry of U_ki with W_ij is c_k φ'(a_i) x_j; the block of U is zero.
    """
    t = (x @ w.T).tanh()
    slope = 1 - t.square()
    curve = -2 * t * slope
    width, eye = len(w), torch.eye(len(w), dtype=x.dtype)
    within = torch.einsum("ni,nj,nl,ih->ijhl", (c @ u) * curve, x, x, eye)
    across = torch.einsum("nk,ni,nj,ih->kihj", c, slope, x, eye)
    within = within.reshape(w.numel(), w.numel()) / len(x)
    across = across.reshape(len(u) * width, w.numel()) / len(x)
    corner = torch.zeros(u.numel(), u.numel(), dtype=x.dtype)
    return torch.cat([torch.cat([within, across.T], 1), torch.cat([across, corner], 1)])
