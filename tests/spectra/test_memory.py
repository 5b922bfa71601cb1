"""What does not fit into memory is refused, with an advice that does fit."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import hessdiag
from hessdiag import Decomposition
from hessdiag.curvature import kept
from hessdiag.curvature.memory import linearisation_bytes
from hessdiag.errors import InputError
from hessdiag.linalg.driver import Answer, Request
from hessdiag.spectra import spectrum_plan as plan
from hessdiag.spectra.spectrum_plan import make_plan
from hessdiag.spectra.spectrum_settings import Settings
from tests.cases import BY_NAME, Batch, labels, normal, seeded
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


@pytest.mark.parametrize(("room", "size"), [(8.5, 8), (3.5, 3), (1.1, 1)])
def test_a_batch_too_large_for_the_memory_is_cut(monkeypatch, room, size):
    """Into as few pieces as vectors leave room for, with the numbers of the whole batch."""
    model, batches, loss = BY_NAME[CASE]
    x, y = joined(batches)
    settings = {"top_k": 2, "num_probes": 2, "basis_size": 12, "parts": ("nme",)}
    vectors, per_example = needs(Decomposition(model, batches, loss), 2, **settings)
    whole = run([(x, y)], **settings)
    monkeypatch.setattr(plan, "_smaller", lambda made, *_: [made])
    monkeypatch.setattr(plan, "available_bytes", lambda _: vectors + room * per_example)
    found = run([(x, y)], **settings)
    assert any(f"microbatches of {size} at most" in note for note in found.notes)
    assert found.num_samples == 9
    ours, theirs = found.parts["nme"], whole.parts["nme"]
    assert ours.trace.value == pytest.approx(theirs.trace.value, rel=1e-10)
    assert ours.top[0].value == pytest.approx(theirs.top[0].value, rel=1e-8)
    message = refusal(batches=[(x, y)], bn="batch", **settings)
    assert f"--batch-size {size}" in message


class Together(nn.Module):
    """Examples that meet: over a recurrent network's time, which comes first, or by their mean."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.last = how, nn.RNN(2, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)[0] if self.how == "time" else x.repeat(1, 1, 2)[..., :3]
        return self.last(h if self.how == "time" else torch.tanh(h - h.mean(0)))


@pytest.mark.parametrize("how", ["time", "mean"])
def test_a_batch_whose_examples_meet_is_not_cut(monkeypatch, how: str):
    x, y = normal(9, 3, 2), normal(9, 3, 2, seed=1)
    model = seeded(lambda: Together(how))
    dec = Decomposition(model, [(x, y)], "mse")
    settings = {"num_probes": 2, "top_k": 0, "density": False}
    vectors = make_plan(dec, Settings(**settings)).num_vectors() * dec.num_parameters * 8
    per_example = linearisation_bytes(dec.risk, x[:2].clone(), y[:2].clone()) / 2
    monkeypatch.setattr(plan, "_smaller", lambda made, *_: [made])
    monkeypatch.setattr(plan, "available_bytes", lambda _: vectors + 3.5 * per_example)
    with pytest.raises(InputError, match="memory"):
        hessdiag.spectrum(model, [(x, y)], loss="mse", **settings)


@pytest.mark.parametrize("missing", [20, 80, 240])
def test_vectors_too_large_for_the_memory_become_fewer(monkeypatch, missing: int):
    model, batches, loss = BY_NAME[CASE]
    dec = Decomposition(model, batches, loss)
    settings = {"top_k": 2, "num_probes": 4}
    vectors, per_example = needs(dec, 1, **settings)
    whole = run(batches, **settings)
    left = vectors + 9 * per_example - missing * dec.num_parameters * 8
    monkeypatch.setattr(plan, "available_bytes", lambda _: left)
    found = run(batches, **settings)
    assert any(note.startswith("memory holds no more: ") for note in found.notes)
    for name, part in found.parts.items():
        for ours, theirs in zip(part.top, whole.parts[name].top, strict=True):
            assert ours.value == pytest.approx(theirs.value, abs=1e-8)
    fixed = {**settings, "basis_size": whole.settings.basis_size}
    if missing == 240:
        assert found.settings.basis_size < whole.settings.basis_size
        assert "--basis-size below" in refusal(**fixed)


def test_bases_go_to_the_host_where_a_gpu_has_no_room(monkeypatch):
    dec = Decomposition(*BY_NAME[CASE])
    made = make_plan(dec, Settings(top_k=2))
    monkeypatch.setattr(plan, "available_bytes", lambda _: 1 << 30)
    smaller = list(plan._smaller(made, torch.device("cuda:0"), 8 * dec.num_parameters))
    on_host = [of.settings.host_basis for of in smaller]
    assert on_host == sorted(on_host)
    assert True in on_host
    sizes = [of.num_vectors() for of in smaller]
    assert sizes == sorted(sizes, reverse=True)
    assert smaller[-1].basis_size == 2 * 2 + 2 * made.block_size
    assert "host memory" in (smaller[-1].changes(made) or "")


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 4 << 30), ("1.5 MB", 1_500_000), ("2g", 2 << 30), ("77", 77)]
)
def test_sizes_of_memory_are_read(text: str, size: int):
    assert Settings(memory=text).memory_bytes == size


@pytest.mark.parametrize("text", ["", "much", "-1GiB", "0", "4GiBs", "9" * 30, "1e9", "nan"])
def test_what_is_no_size_of_memory_is_refused(text: str):
    assert "`memory` is no size" in refusal(memory=text)


def test_a_budget_decides_bases_and_probes_whatever_is_free():
    dec = Decomposition(*BY_NAME[CASE])
    vector = 8 * dec.num_parameters
    made = make_plan(dec, Settings(top_k=2, memory=str(60 * vector)))
    assert made.basis_size == 26  # of half of it, and a block of 4 beside it
    assert len(made.waves) == 3
    assert make_plan(dec, Settings(memory=str(8 * 8 * vector))).chunk == 2
    assert "of `memory`" in refusal(memory="1KiB")
    report = run(memory="1GiB", num_probes=2, top_k=1)
    assert report.settings.memory == "1GiB"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_where_memory_runs_out_microbatches_are_halved(monkeypatch, error: type[Exception]):
    words = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    x, y = normal(21, 3), labels(21, num_classes=2)
    network = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)))
    settings: dict[str, Any] = {"num_probes": 3, "top_k": 1, "rel_error": 0.05, "max_probes": 9}
    whole = hessdiag.spectrum(network, [(x, y)], **settings)
    sizes: list[int] = []
    linearisation = kept.Linearisation

    def limited(risk: Any, x: Any, *rest: Any, **options: Any) -> Any:
        sizes.append(len(x))
        if len(x) > 4:
            raise error(words)
        return linearisation(risk, x, *rest, **options)

    monkeypatch.setattr(kept, "Linearisation", limited)
    found = hessdiag.spectrum(network, [(x, y)], **settings)
    assert max(sizes[4:]) <= 2 * 4
    assert sizes[-1] <= 4
    assert "memory ran out" in found.notes[0]
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    for name, part in whole.parts.items():
        assert found.parts[name].trace.value == pytest.approx(part.trace.value, rel=1e-9)
        assert found.parts[name].top[0].value == pytest.approx(part.top[0].value, rel=1e-8)
    with pytest.raises(error, match="allocate memory"):
        hessdiag.spectrum(network, [(x, y)], bn="batch", **settings)


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
