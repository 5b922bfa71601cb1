"""Count how often intervals of traces and norms hold, on operators made to be missed.

And those of traces of networks by probes of one example each, with their bias.

Run as ``python benchmarks/coverage.py > docs/coverage.md``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.exact_trace import find_plan, output_forms
from hessdiag.curvature.example_signs import ExampleSigns, Signed
from hessdiag.curvature.forms import find_signs, quadratic_forms
from hessdiag.linalg.space import signs as random_signs
from hessdiag.linalg.trace import Probes, Samples, estimate_mean
from hessdiag.parts import PARTS
from hessdiag.seeds import stream

SEEDS = 2000
PROBES = (2, 4, 8, 12, 13, 16, 20, 24, 32, 64)


def equal(count: int) -> NDArray[np.floating]:
    """A rank-one operator with so many equal entries."""
    return np.full((count, count), 1 / count)


def operators() -> dict[str, NDArray[np.floating]]:
    """Matrices by what they are."""
    rng = np.random.default_rng(0)
    spike = np.r_[1.0, np.full(20, 0.1)]
    between = np.zeros((24, 24))  # ReLU's N: products of weights of different layers alone
    between[:12, 12:] = np.outer(rng.exponential(1, 12), rng.exponential(1, 12))
    tails = rng.standard_cauchy((20, 20))
    generic = rng.standard_normal((40, 40))
    return {
        **{f"rank one, {count} equal entries": equal(count) for count in (2, 3, 4, 8, 32)},
        "rank one, a spike and 20 small": np.outer(spike, spike),
        "sparse diagonal": np.diag(rng.standard_normal(40) * (rng.random(40) < 0.1)),
        "sparse diagonal and a little": np.diag(np.r_[5.0, np.zeros(19)]) + 0.05,
        "N of a ReLU network": between + between.T,
        "heavy tails": tails + tails.T,
        "trace 0, rank two": np.kron(np.diag([1.0, -1.0]), equal(4)),
        "trace 0, two entries": np.array([[0.0, 1.0], [1.0, 0.0]]),
        "rare and large beside small": np.kron(np.diag([1.0, 0.01]), equal(3)),
        "generic": generic + generic.T,
        "generic, times 1e-30": 1e-30 * (generic + generic.T),
        "rank one, 4 equal entries, times 1e+30": 1e30 * equal(4),
    }


def coverage(matrix: NDArray[np.floating], num_probes: int) -> tuple[float | None, float | None]:
    """Count how often the intervals of tr A and ‖A‖_F hold; None where none is given."""
    rng = np.random.default_rng(num_probes)
    signs = rng.choice(np.array([-1.0, 1.0]), (SEEDS, num_probes, len(matrix)))
    products = signs @ matrix
    forms, squares = (signs * products).sum(2), (products**2).sum(2)
    rounding = 1e-12 * float(np.abs(matrix).sum())
    held: list[tuple[bool, bool]] = []
    for row, square in zip(forms, squares, strict=True):
        samples = Samples(tuple(row.tolist()), tuple(square.tolist()))
        trace, norm = samples.trace().ci95, samples.frobenius_norm().ci95
        if trace is None or norm is None:
            return None, None
        exact = float(np.trace(matrix)), float(np.linalg.norm(matrix))
        held.append(
            (
                trace[0] - rounding <= exact[0] <= trace[1] + rounding,
                norm[0] - rounding <= exact[1] <= norm[1] + rounding,
            )
        )
    trace_rate, norm_rate = np.mean(held, axis=0)
    return float(trace_rate), float(norm_rate)


class Language(nn.Module):
    """A small transformer of 40 outputs a token, tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(40, 4), nn.Embedding(5, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, "gelu", batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute logits."""
        mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
        x = self.words(tokens) + self.places(torch.arange(5))
        return self.layer(x, mask, is_causal=True) @ self.words.weight.T


class Tokens(nn.Module):
    """Embedding, normalisation, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(6, 4), nn.LayerNorm(4)
        self.mix, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute logits."""
        x = self.norm(self.embedding(tokens))
        return self.head(F.silu(self.mix(x)).mean(1))


def networks() -> Iterator[tuple[str, Decomposition]]:
    """Train small networks for a while, each on 24 examples."""
    torch.manual_seed(0)
    y = torch.arange(24) % 3
    x = torch.randn(24, 4) + 0.5 * F.one_hot(y, 4)
    images = torch.randn(24, 1, 4, 4) + 0.5 * y.view(-1, 1, 1, 1)
    tokens = (torch.randint(4, (24, 5)) + y[:, None]) % 6
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    cases: dict[str, tuple[nn.Module, Tensor]] = {
        "MLP, GELU": (nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)), x),
        "CNN, BatchNorm and ReLU": (nn.Sequential(*layers), images),
        "tokens, LayerNorm and SiLU": (Tokens(), tokens),
    }
    text = (7 * torch.randint(6, (24, 6)) + torch.arange(6)) % 40
    cases["transformer, 40 outputs"] = Language(), text[:, :-1]
    for name, (model, inputs) in cases.items():
        wanted = text[:, 1:] if isinstance(model, Language) else y
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for _ in range(100):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs).flatten(0, -2), wanted.flatten()).backward()
            optimizer.step()
        yield name, Decomposition(model.eval(), [(inputs, wanted)], dtype=torch.float64)


NETWORK_SEEDS = 1000
AT_OUTPUTS = "gn, signs at the outputs"
NETWORK_PROBES = (13, 16, 24, 32)


class ByExample:
    """The matrices of each example of a network, by which forms are had a hundred times as fast."""

    def __init__(self, decomposition: Decomposition) -> None:
        self.whole, risk, layout = decomposition, decomposition.risk, decomposition.layout
        ((x, y),) = risk.batches
        eye = torch.eye(layout.size, dtype=torch.float64)
        found: dict[str, list[Tensor]] = {"gn": [], "nme": [], AT_OUTPUTS: []}
        for n in range(len(y)):
            own = Decomposition(risk.model, [(x[n : n + 1], y[n : n + 1])], dtype=torch.float64)
            products, parameters = vars(own.products(eye)), list(own.risk.parameters.values())
            found["gn"].append(products["gn"])
            found["nme"].append(products["nme"])
            ((x_n, y_n),) = own.risk.microbatches()
            z = own.risk.outputs(x_n)
            at = own.risk.loss.at(z.detach(), y_n)
            jacobian = torch.stack(
                [
                    layout.flatten(
                        list(torch.autograd.grad(z, parameters, at.factor(u), retain_graph=True))
                    )
                    for u in torch.eye(z.numel(), dtype=z.dtype).view(-1, *z.shape)
                ]
            )
            found[AT_OUTPUTS].append(jacobian @ jacobian.T / at.weight)
        self.matrices = {name: torch.stack(own) / len(y) for name, own in found.items()}
        self.places, self.plan = find_signs(decomposition, 0).places, find_plan(decomposition)
        self.traces = {
            name: float(own.diagonal(dim1=1, dim2=2).sum()) for name, own in self.matrices.items()
        }
        self.traces["hessian"] = self.traces["gn"] + self.traces["nme"]

    def forms(self, seed: int, count: int) -> dict[str, NDArray[np.float64]]:
        """Compute the forms of a seed's first probes."""
        layout, num_examples = self.whole.layout, len(self.matrices["gn"])
        rows = self._rows(seed, count)
        signs = ExampleSigns(layout, stream(seed, "signs"), self.places)
        ones = layout.unflatten(torch.ones(layout.size, dtype=torch.float64))
        tangents = signs.tangents(ones, signs.draw(range(num_examples), rows))
        each = torch.stack(
            [
                torch.cat([(t.of(n) if isinstance(t, Signed) else t).flatten() for t in tangents])
                for n in range(num_examples)
            ]
        )
        found: dict[str, NDArray[np.float64]] = {}
        for part in ("gn", "nme"):
            matrix = (each[:, :, None] * self.matrices[part] * each[:, None, :]).sum(0)
            found[part] = ((rows @ matrix) * rows).sum(1).numpy()
        found["hessian"] = found["gn"] + found["nme"]
        kernels = self.matrices[AT_OUTPUTS]
        drawn = np.zeros(count)
        for draw in range(count):
            u = torch.stack([self._signs(seed, draw, n) for n in range(num_examples)])
            drawn[draw] = float((u * (kernels @ u[:, :, None])[:, :, 0]).sum())
        found[AT_OUTPUTS] = drawn
        return found

    def check(self) -> None:
        """Compare them with what hessdiag computes."""
        forms, rows = self.forms(0, 2), self._rows(0, 2)
        signs = ExampleSigns(self.whole.layout, stream(0, "signs"), self.places)
        found = quadratic_forms(self.whole, rows, signs)
        found[AT_OUTPUTS] = output_forms(self.whole, range(2), 0, self.plan)
        for name, values in found.items():
            np.testing.assert_allclose(forms[name], values, rtol=1e-8)

    def _rows(self, seed: int, count: int) -> Tensor:
        risk = self.whole.risk
        probes = Probes(self.whole.layout.size, seed=seed, dtype=risk.dtype, device=risk.device)
        return probes.rows(0, count)

    def _signs(self, seed: int, draw: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(stream(seed, "outputs", draw, number))
        return random_signs(self.matrices[AT_OUTPUTS].shape[1], generator).double()


def of_network(decomposition: Decomposition) -> dict[str, tuple[list[float], float]]:
    """Count by part how often intervals hold, and the bias of the mean in standard errors.

    Beside the parts, G by random signs at the outputs.
    """
    examples = ByExample(decomposition)
    examples.check()
    held = {name: np.zeros(len(NETWORK_PROBES)) for name in examples.traces}
    errors: dict[str, list[float]] = {name: [] for name in examples.traces}
    spreads: dict[str, list[float]] = {name: [] for name in examples.traces}
    for seed in range(NETWORK_SEEDS):
        forms = examples.forms(seed, max(NETWORK_PROBES))
        for name, trace in examples.traces.items():
            for index, count in enumerate(NETWORK_PROBES):
                interval = estimate_mean(forms[name][:count]).ci95
                assert interval is not None
                held[name][index] += interval[0] <= trace <= interval[1]
            errors[name].append(float(forms[name].mean()) - trace)
            spreads[name].append(float(forms[name].var(ddof=1)) / max(NETWORK_PROBES))
    return {
        name: (
            (held[name] / NETWORK_SEEDS).tolist(),
            float(np.mean(errors[name]) / np.sqrt(np.mean(spreads[name]))),
        )
        for name in (*PARTS, AT_OUTPUTS)
    }


def print_networks() -> None:
    """Print the second table."""
    print("\n## Probes of one example each, and signs at the outputs\n")
    print(
        f"Share of {NETWORK_SEEDS:,} seeds whose 95 % interval holds the trace of a trained "
        "network, by the number of probes, and the\n"
        f"bias of {max(NETWORK_PROBES)} probes, the mean error over all seeds in standard errors, "
        f"whose own noise is {NETWORK_SEEDS**-0.5:.3f}.\n"
    )
    print("| network | part | " + " | ".join(map(str, NETWORK_PROBES)) + " | bias |")
    print("|---|---|" + "---|" * len(NETWORK_PROBES) + "---|")
    least, most = 1.0, 0.0
    for name, decomposition in networks():
        for part, (rates, bias) in of_network(decomposition).items():
            cells = " | ".join(f"{100 * rate:.1f}" for rate in rates)
            print(f"| {name} | {part} | {cells} | {bias:+.3f} |", flush=True)
            least, most = min(least, *rates), max(most, abs(bias))
    print(f"\nThe least of all: {100 * least:.1f} %; the largest bias: {most:.3f}.")


def main() -> None:
    """Print the tables as Markdown."""
    print("# How often intervals hold\n")
    print(
        f"Share of {SEEDS:,} seeds whose 95 % interval holds the truth, of the trace and of the "
        "Frobenius norm, by the\nnumber of probes. Below 13 probes no interval is given. Made by "
        "`python benchmarks/coverage.py`.\n"
    )
    print("| operator | " + " | ".join(str(count) for count in PROBES) + " |")
    print("|---|" + "---|" * len(PROBES))
    least = 1.0
    for name, matrix in operators().items():
        cells: list[str] = []
        for count in PROBES:
            rates = coverage(matrix, count)
            cells.append(" · ".join("none" if r is None else f"{100 * r:.1f}" for r in rates))
            least = min(least, *(rate for rate in rates if rate is not None), 1.0)
        print(f"| {name} | " + " | ".join("none" if "none" in c else c for c in cells) + " |")
    print(f"\nThe least of all: {100 * least:.1f} %.")
    print_networks()


if __name__ == "__main__":
    main()
