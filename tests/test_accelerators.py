"""What an accelerator computes, against dense matrices and against the CPU.

``pytest -m gpu`` runs these; with ``--accelerator cpu`` they only show that they would.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hessdiag
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.exact_trace import gn_trace
from hessdiag.metadata import ModelSpec
from hessdiag.nets.models import build
from hessdiag.parts import PARTS
from hessdiag.training import methods
from hessdiag.training.objective import Objective
from hessdiag.training.task import Streams, Task
from tests.cases import BY_NAME, CASES, Case, normal
from tests.oracles import relative_error, truth_of

pytestmark = pytest.mark.gpu
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def there(case: Case, device: torch.device, dtype: torch.dtype) -> Decomposition:
    model, batches, loss = case.make_model(), case.batches, case.loss
    moved = copy.deepcopy(loss).to(device, dtype) if isinstance(loss, nn.Module) else loss
    return Decomposition(model, batches, moved, device=device, dtype=dtype)


@each_case
@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float64, 1e-11), (torch.float32, 1e-5)], ids=str
)
def test_products_are_those_of_the_dense_matrices(
    case: Case, dtype: torch.dtype, within: float, accelerator: torch.device
):
    decomposition, truth = there(case, accelerator, dtype), truth_of(case.name)
    v = normal(3, decomposition.num_parameters, seed=7)
    products = decomposition.products(v.to(accelerator, dtype))
    scale = (v @ truth.hessian).norm() + (v @ truth.gn).norm()
    for part in PARTS:
        rows = getattr(products, part)
        assert rows.device.type == accelerator.type
        assert (rows.cpu().double() - v @ getattr(truth, part)).norm() < within * scale, part


@pytest.mark.parametrize("activation", ["gelu", "relu", "beta_gelu"])
def test_convolutions_use_neither_tf32_nor_other_bits_the_second_time(
    activation: str, accelerator: torch.device
):
    torch.manual_seed(0)
    spec = ModelSpec(
        "wrn10-1", activation, 3.0 if activation == "beta_gelu" else None, 10, (3, 16, 16)
    )
    model, x, y = build(spec).eval(), torch.randn(8, 3, 16, 16), torch.arange(8)
    exact = Decomposition(model, [(x.double(), y)], dtype=torch.float64)
    single = Decomposition(model, [(x, y)], device=accelerator)
    v = torch.randn(2, exact.num_parameters)
    wanted, products = exact.products(v.double()), single.products(v.to(accelerator))
    again = single.products(v.to(accelerator))
    scale = wanted.gn.norm() + wanted.nme.norm()
    for part in PARTS:
        rows = getattr(products, part)
        assert (rows.cpu().double() - getattr(wanted, part)).norm() < 1e-5 * scale, part
        assert torch.equal(rows, getattr(again, part)), part


@pytest.mark.parametrize("name", ["cnn-gelu-bn", "attention", "shared", "mlp-relu"])
@pytest.mark.parametrize(
    "options", [{}, {"host_basis": True}, {"rel_error": 0.3, "max_probes": 64}], ids=str
)
def test_a_spectrum_is_that_of_the_cpu(
    name: str, options: dict[str, Any], accelerator: torch.device
):
    case = BY_NAME[name]
    model, batches, loss = case.make_model(), case.batches, case.loss

    def spectrum(device: torch.device | str) -> hessdiag.Report:
        return hessdiag.spectrum(
            model, batches, loss=loss, device=device, num_probes=16, top_k=2, **options
        )

    wanted, report = spectrum("cpu"), spectrum(accelerator)
    for part in PARTS:
        here, other = wanted.parts[part], report.parts[part]
        assert here.trace.value == pytest.approx(other.trace.value, rel=1e-8, abs=1e-12)
        for end in ("top", "bottom"):
            values = [eigenvalue.value for eigenvalue in getattr(here, end)]
            assert values == pytest.approx(
                [eigenvalue.value for eigenvalue in getattr(other, end)], rel=1e-8, abs=1e-10
            )
    assert report.cost.peak_memory_bytes > 0


@pytest.mark.parametrize("name", ["mlp-gelu", "cnn-relu-bn"])
def test_the_exact_trace_of_g_is_that_of_the_matrix(name: str, accelerator: torch.device):
    trace = gn_trace(there(BY_NAME[name], accelerator, torch.float64))
    assert trace == pytest.approx(truth_of(name).gn.trace().item(), rel=1e-10)


def drawn_on_the_cpu(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def drawn(*shape: Any, device: torch.device | None = None, **options: Any) -> Tensor:
        return draw(*shape, **options).to(device)

    return drawn


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_step_of_every_method_is_that_of_the_cpu(
    name: str, accelerator: torch.device, monkeypatch: pytest.MonkeyPatch
):
    for draw in (torch.rand, torch.randn, torch.randint):  # CUDA's streams are others
        monkeypatch.setattr(torch, draw.__name__, drawn_on_the_cpu(draw))

    def gradient(device: torch.device) -> Tensor:
        torch.manual_seed(0)
        model = build(ModelSpec("wrn10-1", "gelu", None, 10, (1, 8, 8))).double().eval()
        x, y = normal(6, 1, 8, 8).to(device), torch.arange(6, device=device)
        streams = Streams(*(torch.Generator().manual_seed(seed) for seed in (1, 2)))
        task = Task(
            Objective(model.to(device), "cross-entropy"), x, y, methods.find(name)(), streams
        )
        return torch.cat([g.flatten().cpu() for g in task.method.step(task).gradient])

    assert relative_error(gradient(accelerator), gradient(torch.device("cpu"))) < 1e-9
