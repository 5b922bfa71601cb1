"""How far gradients and products H v, G v, N v are off in float32 and under bf16 autocast.

Run it with ``uv run python benchmarks/precision.py``. Truth is float64; an error is the relative
2-norm of the difference, for a WideResNet in training mode on one seeded batch, fresh and after
some steps of plain SGD, which make N small beside G.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.linalg import devices
from hessdiag.metadata import ModelSpec
from hessdiag.nets.models import build

QUANTITIES = ("gradient", "H v", "G v", "N v")


def main(
    model: Annotated[str, typer.Option(help="A WideResNet.")] = "wrn16-4",
    batch_size: Annotated[int, typer.Option(help="Examples of 3 × 32 × 32.")] = 16,
    steps: Annotated[int, typer.Option(help="Steps of plain SGD before the second look.")] = 30,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write it here.")] = None,
) -> None:
    """Measure the errors."""
    where = devices.resolve(device)
    torch.manual_seed(0)
    x = torch.randn(batch_size, 3, 32, 32).to(where)
    y = torch.randint(0, 10, (batch_size,)).to(where)
    network = build(ModelSpec(model, "gelu", None, 10, (3, 32, 32))).train().to(where)
    v = [torch.randn_like(p) for p in network.parameters()]
    rows: list[dict[str, Any]] = []
    for taken in (0, steps):
        _descend(network, x, y, taken)
        truth = _quantities(copy.deepcopy(network).double(), x.double(), y, v)
        for precision in ("float32", "bf16"):
            found = _quantities(copy.deepcopy(network), x, y, v, bf16=precision == "bf16")
            errors = {name: _error(found[name], truth[name]) for name in QUANTITIES}
            rows.append({"steps": taken, "precision": precision, **errors})
    table = Table("steps", "precision", *QUANTITIES, title=f"{model}, relative errors")
    for row in rows:
        errors = [f"{row[name]:.1e}" for name in QUANTITIES]
        table.add_row(str(row["steps"]), row["precision"], *errors)
    Console().print(table)
    if json_path is not None:
        record = {"torch": torch.__version__, "device": str(where), "model": model, "rows": rows}
        json_path.write_text(json.dumps(record, indent=1) + "\n")


def _descend(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()


def _quantities(
    network: nn.Module, x: Tensor, y: Tensor, v: list[Tensor], *, bf16: bool = False
) -> dict[str, Tensor]:
    """Compute g, H v by differentiating the loss twice, and N v by freezing ∂ℓ/∂z; G v = H v − N v.

    The difference is exact enough for errors of a per cent; in float64 it is the truth.
    """
    parameters = list(network.parameters())
    along = [tensor.to(p) for tensor, p in zip(v, parameters, strict=True)]
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        z = network(x)
    z = z if z.dtype == torch.float64 else z.float()
    loss = F.cross_entropy(z, y)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    hessian = torch.autograd.grad(gradient, parameters, along, retain_graph=True)
    cotangent = ((z.softmax(1) - F.one_hot(y, z.shape[1])) / len(y)).detach()
    pulled = torch.autograd.grad(z, parameters, cotangent, create_graph=True)
    used = [i for i, tensor in enumerate(pulled) if tensor.requires_grad]
    nme = torch.autograd.grad(
        [pulled[i] for i in used],
        parameters,
        [along[i] for i in used],
        materialize_grads=True,
    )
    h, n = _flat(hessian), _flat(nme)
    return {"gradient": _flat(gradient), "H v": h, "G v": h - n, "N v": n}


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])


def _error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


if __name__ == "__main__":
    typer.run(main)
