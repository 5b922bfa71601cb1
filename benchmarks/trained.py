"""Trained networks to ask about: each fits its images for a few epochs; all seeded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.data.datasets import Dataset
from hessdiag.metadata import ModelSpec
from hessdiag.nets.models import build

NETWORKS = {  # name of the network and activation; None for the transformer here
    "mlp": ("mlp-128-64", "gelu"),
    "wrn10-1 gelu": ("wrn10-1", "gelu"),
    "wrn10-1 relu": ("wrn10-1", "relu"),
    "wrn16-4 gelu": ("wrn16-4", "gelu"),
    "wrn16-4 relu": ("wrn16-4", "relu"),
    "resnet18": ("resnet18", "relu"),
    "transformer": None,
}
EPOCHS, BATCH = 5, 64


class Tokens(nn.Module):
    """Patches of 4 by 4 pixels as tokens."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Cut images ``(N, C, h, w)`` into tokens ``(N, t, width)``."""
        return self.patches(x).flatten(2).transpose(1, 2)


class Mean(nn.Module):
    """The mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Average ``(N, t, width)``."""
        return x.mean(1)


def transformer(channels: int, num_classes: int, layers: int = 3, width: int = 96) -> nn.Module:
    blocks = (
        nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True)
        for _ in range(layers)
    )
    return nn.Sequential(Tokens(channels, width), *blocks, Mean(), nn.Linear(width, num_classes))


class Problem:
    """A trained network in eval mode and the examples that its curvature is of.

    Args:
        name: of NETWORKS.
        data: examples to train on; those asked about are the first ones.
        num_examples: how many are asked about.
        num_batches: microbatches that they come in.
        device: where.
    """

    def __init__(
        self, name: str, data: Dataset, num_examples: int, num_batches: int, device: torch.device
    ) -> None:
        torch.manual_seed(0)
        num_classes = data.num_classes or 10
        chosen = NETWORKS[name]
        if chosen is None:
            self.model = transformer(data.input_shape[0], num_classes)
        else:
            spec = ModelSpec(*chosen, num_classes=num_classes, input_shape=data.input_shape)
            self.model = build(spec)
        self.device, self.loss = device, nn.CrossEntropyLoss()
        self.model.to(device)
        self._train(data)
        self.num_examples = min(num_examples, data.num_samples)
        x, y = (t[: self.num_examples].to(device) for t in (data.inputs, data.targets))
        size = -(-self.num_examples // num_batches)
        self.batches = list(zip(x.split(size), y.split(size), strict=True))
        decomposition = Decomposition(self.model, self.batches)
        self.layout, self.size = decomposition.layout, decomposition.num_parameters

    def _train(self, data: Dataset) -> None:
        optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)
        self.model.train()
        for _ in range(EPOCHS):
            for rows in torch.randperm(data.num_samples).split(BATCH):
                x, y = data.inputs[rows].to(self.device), data.targets[rows].to(self.device)
                optimizer.zero_grad()
                self.loss(self.model(x), y).backward()
                optimizer.step()
        self.model.eval().zero_grad()
