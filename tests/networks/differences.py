"""H v, G v and N v of a network called as its user calls it, by first-order gradients alone."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.networks.table import Row

RADII = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)


class InDouble(TorchFunctionMode):
    """Networks of transformers turn some tensors to float32; here they stay in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def wide(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        kwargs = {key: wide(value) for key, value in (kwargs or {}).items()}
        return args[0].double() if func is Tensor.float else func(*map(wide, args), **kwargs)


class Differences:
    """Central differences of gradients and outputs in float64.

    Args:
        model: in float64; a copy is moved.
        row: the loss as its user writes it.
        data: one batch.
    """

    def __init__(self, model: nn.Module, row: Row, data: Any) -> None:
        self.model, self.row, self.data = copy.deepcopy(model), row, data
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.theta = [p.detach().clone() for p in self.parameters]
        self.size = sum(p.numel() for p in self.parameters)

    def products(self, v: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """Compute H v and G v; their difference is N v."""
        self._move(v, radius)
        ahead, z_ahead = self._gradient()
        self._move(v, -radius)
        behind, z_behind = self._gradient()
        self._move(v, 0.0)
        tangent = (z_ahead - z_behind) / (2 * radius)
        return (ahead - behind) / (2 * radius), self._gauss_newton(tangent)

    def _gauss_newton(self, tangent: Tensor) -> Tensor:
        z, loss_of = self._outputs()
        leaf = z.detach().requires_grad_()
        (c,) = torch.autograd.grad(loss_of(leaf), leaf, create_graph=True)
        cotangent = torch.zeros_like(z)
        if c.requires_grad:
            (cotangent,) = torch.autograd.grad(c, leaf, tangent)
        return self._flat(torch.autograd.grad(z, self.parameters, cotangent, allow_unused=True))

    def _gradient(self) -> tuple[Tensor, Tensor]:
        z, loss_of = self._outputs()
        grads = torch.autograd.grad(loss_of(z), self.parameters, allow_unused=True)
        return self._flat(grads), z.detach()

    def _outputs(self) -> tuple[Tensor, Any]:
        """Give the outputs, and the loss as a function of them."""
        torch.manual_seed(0)
        if self.row.user_loss is None:
            inputs = {k: v for k, v in self.data.items() if k != "labels"}
            y = self.data["labels"]
            result = self.model(**self.data)
            z = result.logits

            def own_loss(logits: Tensor) -> Tensor:
                return result.loss if logits is z else _recomputed(self.model, logits, y, inputs)

            return z, own_loss
        x, y = self.data
        args = x if isinstance(x, tuple) else (x.clone(),)
        result = self.model(*args)
        z = result if isinstance(result, Tensor) else result[self.row.output]
        user_loss = self.row.user_loss

        def loss_of(leaf: Tensor) -> Tensor:
            return user_loss(leaf if z is result else {self.row.output: leaf}, y)

        return z, loss_of

    def _move(self, v: Tensor, step: float) -> None:
        pieces = v.split([p.numel() for p in self.parameters])
        with torch.no_grad():
            for p, origin, piece in zip(self.parameters, self.theta, pieces, strict=True):
                p.copy_(origin + step * piece.view_as(p))

    def _flat(self, tensors: Any) -> Tensor:
        pairs = zip(tensors, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if t is None else t).reshape(-1) for t, p in pairs])


def _recomputed(model: nn.Module, z: Tensor, y: Tensor, inputs: Any) -> Tensor:
    """The loss of a network of Hugging Face as a function of its logits, by its documentation."""
    kind = type(getattr(model, "base_model", model)).__name__
    del inputs
    causal = "CausalLM" in type(model).__name__ or "LMHead" in type(model).__name__
    if causal or kind.startswith("Peft"):
        z, y = z[:, -y.shape[1] :][:, :-1], y[:, 1:]
    if y.is_floating_point():
        if z.shape[-1] == 1 and y.ndim == 1:
            return nn.functional.mse_loss(z[:, 0], y)
        return nn.functional.binary_cross_entropy_with_logits(z, y)
    return nn.functional.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1))


def errors(found: Any, model: nn.Module, row: Row, data: Any, v: Tensor) -> dict[str, float]:
    """Compare products with differences: relative errors of H v, G v and N v.

    A kink within one radius is none within another: the least counts. N v is compared relative
    to H v, G v and itself, as a network may have none.
    """
    with warnings.catch_warnings(), InDouble():
        warnings.simplefilter("ignore")
        truth = Differences(model, row, data)
        best = dict.fromkeys(("hessian", "gn", "nme"), float("inf"))
        for radius in RADII:
            hessian, gn = truth.products(v, radius)
            scale = float(hessian.norm() + gn.norm())
            for part, right in (("hessian", hessian), ("gn", gn), ("nme", hessian - gn)):
                size = float(right.norm()) + 1e-3 * scale
                error = float((getattr(found, part) - right).norm()) / size
                best[part] = min(best[part], error)
            if max(best.values()) < 1e-8:
                break
    return best
