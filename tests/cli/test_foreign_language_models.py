"""One command each, on language models that Hugging Face's libraries wrote."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests import foreign
from tests.cli.conftest import Run

pytestmark = pytest.mark.filterwarnings("ignore")
FAST = ("--num-probes", 2, "--top-k", 1, "--no-density", "--quiet", "--json", "-")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of such files, with a module of factories beside them."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "own.py").write_text(foreign.FACTORIES)
    words = torch.randint(5, 95, (400,), generator=torch.Generator().manual_seed(0))
    (folder / "t.txt").write_text(" ".join(foreign.WORDS[word] for word in words.tolist()))
    return folder


@pytest.fixture
def own(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return foreign.quietly(lambda: importlib.import_module("own"))


def spectrum(run: Run, *args: Any) -> dict[str, Any]:
    outcome = run("spectrum", *args, *FAST)
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert set(report["parts"]) == {"hessian", "gn", "nme"}
    return report


def tokens(place: Path) -> torch.Tensor:
    words = (place / "t.txt").read_text().split()
    return torch.tensor([foreign.WORDS.index(word) for word in words]).view(-1, 16)


def causal_loss(model: Any, ids: torch.Tensor) -> float:
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1]
    return float(F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


def test_a_sharded_causal_model_on_text(run: Run, place: Path, own: Any) -> None:
    model = foreign.language_model(place / "gpt")
    assert len(list((place / "gpt").glob("*.safetensors"))) > 2
    report = spectrum(run, "gpt", "--data", "text:t.txt")
    assert report["model"]["name"] == "transformers:GPT2LMHeadModel"
    assert report["data"]["num_samples"] == 25
    assert report["loss"]["value"] == pytest.approx(causal_loss(model, tokens(place)), rel=1e-5)


def test_an_adapter_on_text(run: Run, place: Path, own: Any) -> None:
    foreign.language_model(place / "base")
    model = foreign.adapter(place / "adapter", Path("base"))
    report = spectrum(run, "adapter", "--data", "text:t.txt")
    assert report["loss"]["value"] == pytest.approx(causal_loss(model, tokens(place)), rel=1e-5)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert report["checkpoint"]["num_parameters"] == trained


def test_a_masked_model_from_a_loader_with_masks(run: Run, place: Path, own: Any) -> None:
    model: Any = foreign.language_model(place / "bert", masked=True)
    report = spectrum(run, "bert", "--data", "own:loader")
    asked = [own.together([row]) for row in own.rows()]
    losses = [float(model(**batch).loss) for batch in asked]  # each example asks for one token
    assert report["data"]["num_samples"] == len(asked) == 12
    assert report["loss"]["value"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_masked_model_on_text(run: Run, place: Path, own: Any) -> None:
    if not (place / "bert").exists():
        foreign.language_model(place / "bert", masked=True)
    report = spectrum(run, "bert", "--data", "text:t.txt", "--num-samples", 4)
    assert report["data"]["num_samples"] == 4
