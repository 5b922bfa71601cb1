"""What does not fit into memory is refused, with an advice that does fit."""

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import hessdiag
from hessdiag import Decomposition
from hessdiag.curvature.memory import linearisation_bytes
from hessdiag.linalg.driver import Answer, Request
from hessdiag.spectra import spectrum_plan as plan
from hessdiag.spectra.spectrum_plan import make_plan
from hessdiag.spectra.spectrum_settings import Settings
from tests.cases import BY_NAME, Batch, labels, normal, seeded, split
from tests.oracles import targets
from tests.spectra.test_plan import CASE, refusal, run


def joined(batches: Any) -> Batch:
    return torch.cat([x for x, _ in batches]), targets(batches)


def needs(dec: Decomposition, at_once: int, **settings: Any) -> tuple[int, float]:
    """Bytes of the vectors, and of one example when so many are linearised at once."""
    made = make_plan(dec, Settings(**settings))
    x, y = BY_NAME[CASE].batches[0]
    per_example = linearisation_bytes(dec.risk, x[:at_once].clone(), y[:at_once].clone()) / at_once
    return made.num_vectors() * dec.num_parameters * 8, per_example


@pytest.mark.parametrize(("room", "advised"), [(3.5, 3), (1.1, 1)])
def test_a_batch_too_large_for_the_memory_names_one_that_fits(monkeypatch, room, advised):
    model, batches, loss = BY_NAME[CASE]
    x, y = joined(batches)
    vectors, per_example = needs(Decomposition(model, batches, loss), 2, top_k=2)
    monkeypatch.setattr(plan, "available_bytes", lambda _: vectors + room * per_example)
    message = refusal(batches=[(x, y)], top_k=2)
    assert "too little memory" in message
    assert "microbatch of 9" in message
    found = re.search(r"--batch-size (\d+)$", message)
    assert found
    assert 1 <= int(found[1]) <= advised
    smaller = [(x[i : i + int(found[1])], y[i : i + int(found[1])]) for i in range(0, 9, advised)]
    assert run(smaller, top_k=2, num_probes=2).num_samples == 9


@pytest.mark.parametrize("missing", [1, 2, 3, 4, 7, 20, 40])
def test_a_basis_too_large_for_the_memory_names_one_that_fits(monkeypatch, missing: int):
    """``missing`` vectors too few are left."""
    model, batches, loss = BY_NAME[CASE]
    x, y = joined(batches)
    settings = {"top_k": 2, "block_size": 2, "num_probes": 2}
    dec = Decomposition(model, batches, loss)
    vectors, per_example = needs(dec, 1, **settings)
    left = vectors + per_example - missing * dec.num_parameters * 8
    monkeypatch.setattr(plan, "available_bytes", lambda _: left)
    message = refusal(batches=split(x, y, *[1] * 9), **settings)
    found = re.search(r"--batch-size 1 --basis-size (\d+)$", message)
    assert found
    report = run(split(x, y, *[1] * 9), basis_size=int(found[1]), **settings)
    assert report.settings.basis_size == int(found[1])


def test_an_example_is_not_charged_for_the_inputs_of_the_whole_batch(monkeypatch):
    """Of x[:2], two examples are held and not the storage that it is a view of."""
    model = seeded(lambda: nn.Linear(500, 2))
    x, y = normal(200, 500), labels(200, num_classes=2)
    settings = {"top_k": 1, "num_probes": 2, "density": False}
    dec = Decomposition(model, [(x, y)])
    whole = linearisation_bytes(dec.risk, x, y)
    vectors = make_plan(dec, Settings(**settings)).num_vectors() * dec.num_parameters * 8
    monkeypatch.setattr(plan, "available_bytes", lambda _: vectors + 2 * whole)
    assert hessdiag.spectrum(model, [(x, y)], **settings).num_samples == 200


def test_where_no_basis_fits_fewer_eigenvalues_are_advised(monkeypatch):
    monkeypatch.setattr(plan, "available_bytes", lambda _: 10_000)
    message = refusal(top_k=5)
    assert "smaller --top-k or fewer --params" in message


def test_what_products_keep_of_activations_is_counted() -> None:
    """φ' and g φ'' of every activation, beside what torch's own double backward saves."""
    x, y = normal(40, 8), labels(40, num_classes=2)

    def num_bytes(*activations: nn.Module) -> int:
        model = seeded(lambda: nn.Sequential(nn.Linear(8, 100), *activations, nn.Linear(100, 2)))
        return linearisation_bytes(Decomposition(model, [(x, y)]).risk, x, y)

    maps = 40 * 100 * 8
    assert num_bytes(nn.GELU()) - num_bytes() >= 5 * maps


VOCABULARY = """
import sys, torch, transformers
import hessdiag
torch.manual_seed(0)
shape = transformers.GPT2Config(n_layer=2, n_positions=128, vocab_size=50257)
model = transformers.GPT2LMHeadModel(shape).eval()
ids = torch.randint(50257, (4, 128))
batch = {"input_ids": ids, "labels": ids}
report = hessdiag.spectrum(model, [batch], num_probes=2, top_k=0, density=False)
assert report.checks.truth.reason is None
assert set(report.parts) == set(report.rayleigh) == {"hessian", "gn", "nme"}
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 2**20)
"""


@pytest.mark.slow
def test_all_parts_of_a_network_with_a_large_vocabulary_fit_into_4_gib():
    """Resident, of a process that also holds torch, transformers and the user's own network."""
    command = [sys.executable, "-W", "ignore", "-c", VOCABULARY]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(done.stdout.split()[-1]) < 4


def test_large_vectors_go_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    few = {"num_probes": 2, "top_k": 0, "density": False}
    together = run(**few)
    monkeypatch.setattr(plan, "_CHUNK_BUDGET", 1)
    asked: list[int] = []
    answer = Decomposition.answer

    def counting(self: Decomposition, requests: list[Request]) -> list[Answer]:
        asked.append(sum(len(request.vectors) for request in requests))
        return answer(self, requests)

    monkeypatch.setattr(Decomposition, "answer", counting)
    apart = run(**few)
    assert asked == [1, 1, 1]
    assert apart.rayleigh == pytest.approx(together.rayleigh, rel=1e-12)
    assert apart.parts["nme"].trace.value == pytest.approx(together.parts["nme"].trace.value)
