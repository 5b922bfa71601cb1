"""Functions without a closed form: φ'' by differentiating, and which ones act entry by entry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hessdiag.curvature.functions import is_elementwise, numerical
from tests.curvature.test_functions import Spelling, by_autograd, points


class Once(torch.autograd.Function):
    """Tanh whose backward cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class OnceAffine(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return 3.3 * x - 0.7

    @staticmethod
    @once_differentiable
    def backward(_: Any, grad: Tensor) -> Tensor:
        return 3.3 * grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numerical_is_computed_in_float64(dtype: torch.dtype):
    x = points().to(dtype)
    found = numerical(lambda x: x * torch.sigmoid(1.702 * x))(x)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    wanted = by_autograd(lambda x: x * torch.sigmoid(1.702 * x), x.double())
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=0)


def test_differences_serve_where_autograd_ends():
    x = points()
    wanted = by_autograd(torch.tanh, x)
    with torch.no_grad():
        assert float((numerical(Once.apply)(x) - wanted).abs().max()) < 1e-7


@pytest.mark.parametrize("function", [OnceAffine.apply, lambda x: 3.3 * x - 0.7, torch.relu])
def test_affine_functions_have_exact_zeros(function: Spelling):
    assert torch.count_nonzero(numerical(function)(points())) == 0


def test_numerical_takes_functions_that_work_in_place():
    x = torch.linspace(-0.01, 0.01, 100, dtype=torch.float64)
    assert torch.count_nonzero(numerical(lambda x: x.relu_())(x)) == 0


class Snake(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.linspace(0.5, 2, 3)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.alpha * x).square() / self.alpha


def fails(x: Tensor) -> Tensor:
    raise KeyError("no")


ELEMENTWISE: dict[str, tuple[bool, Spelling]] = {
    "quick gelu": (True, lambda x: x * torch.sigmoid(1.702 * x)),
    "relu": (True, lambda x: torch.maximum(x, torch.zeros_like(x))),
    "absolute": (True, torch.abs),
    "cube": (True, lambda x: x**3),
    "in place": (True, lambda x: x.relu_()),
    "snake": (True, Snake().forward),
    "identity": (False, lambda x: x),
    "scale and shift": (False, lambda x: torch.arange(1.0, 4)[:, None, None] * x - 0.5),
    "layer norm": (False, lambda x: (x - x.mean(-1, True)) / x.std(-1, keepdim=True)),
    "softmax": (False, lambda x: x.softmax(1)),
    "flip": (False, lambda x: x.flip(-1)),
    "transpose": (False, lambda x: x.transpose(-1, -2)),
    "dropout": (False, F.dropout),
    "pooling": (False, lambda x: x.mean((2, 3))),
    "constant": (False, torch.zeros_like),
    "a pair": (False, lambda x: (x, x)),
    "an exception": (False, fails),
    "gate by the mean": (False, lambda x: x * torch.sigmoid(x.mean())),
}


@pytest.mark.parametrize("case", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elementwise_functions_are_told_from_others(case: str, dtype: torch.dtype):
    wanted, function = ELEMENTWISE[case]
    like = torch.ones(2, 3, 4, 4, dtype=dtype)
    assert is_elementwise(function, like) is wanted
    assert torch.equal(like, torch.ones_like(like))
