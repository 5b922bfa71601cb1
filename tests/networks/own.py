"""Networks and batches that need more than a line."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations as by
from torch.nn.utils import parametrize, rnn


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.cell = kind(4, 5, batch_first=True, **options)
        width = options.get("proj_size", 5) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.cell(packed)[1][0][-1])


def packed_batch() -> Any:
    return (torch.randn(4, 7, 4), torch.tensor([7, 3, 5, 1])), torch.randint(3, (4,))


class Graph(nn.Module):
    """Message passing by scattered sums over edges."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(8, 6), nn.Linear(10, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        message = torch.tanh(self.message(torch.cat([nodes[source], nodes[target]], 1)))
        total = nodes.new_zeros(len(nodes), 6).index_add(0, target, message)
        return self.head(torch.tanh(self.update(torch.cat([nodes, total], 1))))


class GraphAttention(Graph):
    """Messages weighted by a softmax over each node's edges."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(8, 1)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        both = torch.cat([nodes[source], nodes[target]], 1)
        score = F.leaky_relu(self.score(both), 0.2).exp()
        size = nodes.new_zeros(len(nodes), 1).scatter_add(0, target[:, None], score)
        message = torch.tanh(self.message(both)) * score / size[target]
        total = nodes.new_zeros(len(nodes), 6).scatter_add(
            0, target[:, None].expand_as(message), message
        )
        return self.head(torch.tanh(self.update(torch.cat([nodes, total], 1))))


def graph_batch() -> Any:
    edges = torch.tensor([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 0, 2, 0]])
    return (torch.randn(5, 4), edges), torch.randint(3, (5,))


def regression() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 2))


def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.ELU(), nn.Linear(3, 4))


def one_logit() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 1))


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 5)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = F.normalize(torch.tanh(self.left(a)), dim=-1), F.normalize(self.right(b), dim=-1)
        return self.scale.exp() * a @ b.T


def pairs() -> Any:
    return (torch.randn(4, 4), torch.randn(4, 3)), torch.arange(4)


def info_nce(z: Tensor, y: Tensor) -> Tensor:
    return (F.cross_entropy(z, y) + F.cross_entropy(z.T, y)) / 2


def info_nce_rows(z: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """The same as a sum over one batch with its weight."""
    return info_nce(z, y) * len(z), float(len(z))


class Physics(nn.Module):
    """A physics-informed network: its output is u'' + u, by autograd within forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        with torch.enable_grad():
            u = self.net(x)
            (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        return second + u


def points() -> Any:
    x = torch.linspace(-1, 1, 6)[:, None]
    return x, x.sin()


class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.all(F.gelu(self.each(x)).logsumexp(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * x)


def siren() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 6), Sine(), nn.Linear(6, 6), Sine(), nn.Linear(6, 1))


class Across(nn.Module):
    """A U-Net's level: what it holds, beside its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


def unet() -> nn.Module:
    deep = nn.Sequential(
        nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU()
    )
    up = nn.ConvTranspose2d(6, 4, 2, stride=2)
    level = Across(nn.Sequential(deep, nn.Upsample(scale_factor=1, mode="bilinear"), up))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), level, nn.Conv2d(8, 3, 1))


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList([nn.Linear(4, 3) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).softmax(-1).topk(2)
        every = torch.stack([torch.tanh(expert(x)) for expert in self.experts], 1)
        picked = every.gather(1, chosen[..., None].expand(-1, -1, every.shape[-1]))
        return (weight[..., None] * picked).sum(1)


def _with(change: Any) -> nn.Module:
    return nn.Sequential(change(nn.Linear(4, 5)), nn.GELU(), change(nn.Linear(5, 3)))


def spectral() -> nn.Module:
    return _with(by.spectral_norm)


def spectral_old() -> nn.Module:
    return _with(torch.nn.utils.spectral_norm)


def orthogonal() -> nn.Module:
    return _with(by.orthogonal)


def weight_normed() -> nn.Module:
    return _with(by.weight_norm)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def symmetric() -> nn.Module:
    middle = nn.Linear(4, 4)
    parametrize.register_parametrization(middle, "weight", Symmetric())
    return nn.Sequential(middle, nn.Tanh(), nn.Linear(4, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.again = self.middle

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.again(torch.tanh(self.middle(self.embed(tokens))))))


def bag() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(9, 4), nn.GELU(), nn.Linear(4, 3))


class Hyper(nn.Module):
    """A network whose weights another one makes."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(3))
        self.maker, self.head = nn.Linear(3, 20), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.tanh(self.maker(self.code)).view(5, 4)
        return self.head(F.silu(F.linear(x, weight)))


class Ode(nn.Module):
    """Classical Runge-Kutta steps of a field."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            a = self.field(x)
            b = self.field(x + a / 6)
            c = self.field(x + b / 6)
            x = x + (a + 2 * b + 2 * c + self.field(x + c / 3)) / 18
        return self.head(x)


class MultiTask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.number = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.mish(self.body(x))
        return {"number": self.number(x), "classes": self.classes(x)}
