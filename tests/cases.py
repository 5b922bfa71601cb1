"""One table of small float64 networks, losses and uneven batches that drives the tests."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]
Loss = str | nn.Module | Callable[[Tensor, Tensor], Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def labels(*shape: int, num_classes: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(num_classes, shape, generator=generator(seed + 1000))


def split(x: Tensor, y: Tensor, *sizes: int) -> list[Batch]:
    """Cut the examples into microbatches of the given sizes."""
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build in float64 with weights and buffers that are random but always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.3)
                if layer.running_mean is not None and layer.running_var is not None:
                    nn.init.normal_(layer.running_mean, std=0.3)
                    nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model


def mlp(activation: type[nn.Module], *widths: int, **head: nn.Module) -> nn.Sequential:
    """Chain linear layers ``fc1``, ``fc2``, … with the activation between them."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for depth, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        if depth > 1:
            layers[f"act{depth - 1}"] = activation()
        layers[f"fc{depth}"] = nn.Linear(fan_in, fan_out)
    return nn.Sequential(OrderedDict(**layers, **head))


def cnn(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two convolutions with BatchNorm between them and a linear classifier."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 2, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(2),
            act1=activation(),
            conv2=nn.Conv2d(2, 3, 3, stride=2),
            bn2=nn.BatchNorm2d(3),
            act2=activation(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(3, 3),
        )
    )


class Residual(nn.Module):
    """A pre-activation residual block between a stem and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, bias=False)
        self.bn = nn.BatchNorm2d(2)
        self.conv1 = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(2, 2, 3, padding=1)
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(F.gelu(self.conv1(F.gelu(self.bn(x)))))
        return self.fc(F.gelu(x).mean((2, 3)))


class Shared(nn.Module):
    """One layer applied twice, and a decoder tied to the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.twice = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 4)
        self.decoder.weight = nn.Parameter(self.encoder.weight.detach().T.clone())
        self.encoder.weight = self.readout = self.decoder.weight  # one parameter, three names

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(F.linear(x, self.encoder.weight.T, self.encoder.bias))
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.decoder(x)


class Unused(nn.Module):
    """A layer that never takes part, in the middle of those that do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 3)
        self.idle = nn.Linear(3, 2)
        self.fc2 = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Token embedding, ``nn.MultiheadAttention`` with a residual connection, mean, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.fc(x.mean(1))


class CausalAttention(nn.Module):
    """Masked ``scaled_dot_product_attention`` with one projection for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 9)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.fc(F.scaled_dot_product_attention(q, k, v, is_causal=True).mean(1))


class Doubled(torch.autograd.Function):
    """Twice x, by a function that no mode of torch sees into."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        return 2 * grads[0]


def frozen_middle() -> nn.Module:
    model = mlp(nn.GELU, 4, 4, 4, 3)
    model.get_submodule("fc2").requires_grad_(requires_grad=False)
    return model


def robust(z: Tensor, y: Tensor) -> Tensor:
    """Student's t: not convex, and its B couples the outputs."""
    return (z - y).square().sum(1).log1p().mean()


def segments() -> list[Batch]:
    """Targets (N, L) of which the batches count very different shares."""
    y = labels(6, 4, seed=3)
    y[0, :3] = y[2] = y[4, 1] = -100
    return split(normal(6, 2, 6, seed=3), y, 2, 1, 3)


@dataclass(frozen=True)
class Case:
    """A network, its data in microbatches and its loss."""

    name: str
    build: Callable[[], nn.Module]
    batches: Sequence[Batch]
    loss: Loss = "cross-entropy"
    convex: bool = field(default=True, kw_only=True)

    def make_model(self) -> nn.Module:
        return seeded(self.build).eval()

    def __iter__(self) -> Iterator[object]:
        """Unpack into the leading arguments of ``Decomposition`` and of the oracles."""
        return iter((self.make_model(), self.batches, self.loss))

    def __str__(self) -> str:
        return self.name


VECTORS = normal(9, 4)
IMAGES = normal(6, 1, 5, 5, seed=1)
TOKENS = labels(5, 3, num_classes=5, seed=2)
WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
SOFT = normal(9, 3, seed=4).softmax(1)

CASES = [
    Case("mlp-gelu", lambda: mlp(nn.GELU, 4, 5, 4, 3), split(VECTORS, labels(9), 5, 1, 3)),
    Case("mlp-relu", lambda: mlp(nn.ReLU, 4, 6, 5, 3), split(VECTORS, labels(9), 5, 1, 3)),
    Case(
        "mlp-tanh-mse",
        lambda: mlp(nn.Tanh, 4, 5, 2),
        split(VECTORS, normal(9, 2, seed=5), 1, 6, 2),
        "mse",
    ),
    Case(
        "mlp-gelu-mse-labels", lambda: mlp(nn.GELU, 4, 5, 3), split(VECTORS, labels(9), 7, 2), "mse"
    ),
    Case(
        "mlp-silu-smoothing",
        lambda: mlp(nn.SiLU, 4, 5, 3),
        split(VECTORS, labels(9), 5, 1, 3),
        nn.CrossEntropyLoss(label_smoothing=0.2),
    ),
    Case(
        "mlp-softplus-weights",
        lambda: mlp(nn.Softplus, 4, 5, 3),
        split(VECTORS, labels(9), 5, 1, 3),
        nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1),
    ),
    Case("mlp-tanh-soft-labels", lambda: mlp(nn.Tanh, 4, 5, 3), split(VECTORS, SOFT, 2, 6, 1)),
    Case(
        "mlp-gelu-robust",
        lambda: mlp(nn.GELU, 4, 5, 3),
        split(VECTORS, normal(9, 3, seed=5), 5, 1, 3),
        robust,
        convex=False,
    ),
    Case("cnn-relu-bn", cnn, split(IMAGES, labels(6, seed=1), 3, 1, 2)),
    Case("cnn-gelu-bn", lambda: cnn(nn.GELU), split(IMAGES, labels(6, seed=1), 3, 1, 2)),
    Case("residual", Residual, split(IMAGES, labels(6, seed=1), 1, 4, 1)),
    Case("shared", Shared, split(VECTORS, labels(9, num_classes=4), 5, 1, 3)),
    Case("unused", Unused, split(VECTORS, labels(9), 5, 1, 3)),
    Case("frozen", frozen_middle, split(VECTORS, labels(9), 5, 1, 3)),
    Case("attention", Attention, split(TOKENS, labels(5, seed=2), 1, 3, 1)),
    Case("causal-attention", CausalAttention, split(normal(5, 3, 3), labels(5, seed=2), 2, 1, 2)),
    Case(
        "segmentation",
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.SiLU(), nn.Conv1d(3, 3, 2)),
        segments(),
        nn.CrossEntropyLoss(ignore_index=-100),
    ),
]
BY_NAME = {case.name: case for case in CASES}
