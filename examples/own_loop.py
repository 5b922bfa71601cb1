"""Any method of hessdiag in a loop of one's own: an optimizer that takes its steps along them.

    python examples/own_loop.py

Two networks learn a small regression by AdamW, one of them with the penalty of the Gauss-Newton
trace; a monitor follows λ max of the Hessian, each time from the eigenvector found before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import hessdiag


class Along:
    """An optimizer whose gradient is a method's: ``step`` takes the batch in place of a closure."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, method: hessdiag.methods.Method
    ) -> None:
        self.model, self.optimizer, self.method = model, optimizer, method

    def step(self, batch: Any, loss: str | Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Take a step on a batch (x, y); returns its loss, without the penalty."""
        self.optimizer.zero_grad()
        found = self.method.backward(self.model, batch, loss)
        self.optimizer.step()
        return found.loss


def train(method: hessdiag.methods.Method, num_steps: int = 300) -> tuple[float, float]:
    """Train by ``method``; the loss and λ max at the end."""
    torch.manual_seed(0)
    x = torch.randn(128, 8)
    y = torch.sin(x.sum(1, keepdim=True)) + 0.1 * torch.randn(128, 1)
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1))
    optimizer = Along(model, torch.optim.AdamW(model.parameters(), lr=3e-3), method)
    monitor = hessdiag.Monitor(["hessian.lambda_max"], [(x, y)], loss="mse", every_n_steps=50)
    loss, sharpness = torch.zeros(()), float("nan")
    for step in range(1, num_steps + 1):
        chosen = torch.randint(len(x), (32,))
        loss = optimizer.step((x[chosen], y[chosen]), "mse")
        for reading in monitor(model, step).values():
            sharpness = reading.value
            print(f"  step {step}: loss {float(loss):.4f}, λ max {sharpness:.3f}")
    return float(loss), sharpness


if __name__ == "__main__":
    for method in (hessdiag.methods.Plain(), hessdiag.methods.GNTrace(kappa=0.02)):
        print(f"{method.name}: {method.descends.partition(';')[0]}")
        train(method)
