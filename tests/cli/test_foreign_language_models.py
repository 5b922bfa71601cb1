"""One command each, on language models that Hugging Face's libraries wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests import foreign
from tests.cli.conftest import Run

pytestmark = pytest.mark.filterwarnings("ignore")


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
    report = foreign.spectrum(run, "gpt", "--data", "text:t.txt")
    assert report["model"]["name"] == "transformers:GPT2LMHeadModel"
    assert report["data"]["num_samples"] == 25
    assert report["loss"]["value"] == pytest.approx(causal_loss(model, tokens(place)), rel=1e-5)


def test_an_adapter_on_text(run: Run, place: Path, own: Any) -> None:
    foreign.language_model(place / "base")
    model = foreign.adapter(place / "adapter", Path("base"))
    report = foreign.spectrum(run, "adapter", "--data", "text:t.txt")
    assert report["loss"]["value"] == pytest.approx(causal_loss(model, tokens(place)), rel=1e-5)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert report["checkpoint"]["num_parameters"] == trained


def test_a_masked_model_from_a_loader_with_masks(run: Run, place: Path, own: Any) -> None:
    model: Any = foreign.language_model(place / "bert", masked=True)
    report = foreign.spectrum(run, "bert", "--data", "own:loader")
    asked = [own.together([row]) for row in own.rows()]
    losses = [float(model(**batch).loss) for batch in asked]  # each example asks for one token
    assert report["data"]["num_samples"] == len(asked) == 12
    assert report["loss"]["value"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_masked_model_on_text(run: Run, place: Path, own: Any) -> None:
    if not (place / "bert").exists():
        foreign.language_model(place / "bert", masked=True)
    report = foreign.spectrum(run, "bert", "--data", "text:t.txt", "--num-samples", 4)
    assert report["data"]["num_samples"] == 4
