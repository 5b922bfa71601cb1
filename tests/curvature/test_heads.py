"""Heads of Hugging Face without a wrapper: the loss is that of the network itself on all data."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from tests.cases import labels, normal

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("default")  # the library's own are not ours

IDS = labels(6, 9, num_classes=40, seed=1)
COUNTED = IDS.where((torch.arange(9) < 5) | (torch.arange(6)[:, None] > 3), -100)
MASK = torch.ones_like(IDS)
SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}


def network(head: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = getattr(transformers, config)(**options)
            return getattr(transformers, head)(made).double().eval()

    return build


def bert(head: str, **options: Any) -> Callable[[], nn.Module]:
    return network(head, "BertConfig", **SMALL, **options)


causal = network("GPT2LMHeadModel", "GPT2Config", **GPT2, bos_token_id=0, eos_token_id=0)
CLASSIFIER = "BertForSequenceClassification"
HEADS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "causal": (causal, COUNTED),
    "masked": (bert("BertForMaskedLM"), COUNTED),
    "tokens": (bert("BertForTokenClassification", num_labels=9), COUNTED.where(COUNTED < 9, 3)),
    "classes": (bert(CLASSIFIER, num_labels=3), labels(6)),
    "numbers": (bert(CLASSIFIER, num_labels=1), normal(6)),
    "several numbers": (
        bert(CLASSIFIER, num_labels=3, problem_type="regression"),
        normal(6, 3),
    ),
    "several labels": (
        bert(CLASSIFIER, num_labels=3),
        labels(6, 3, num_classes=2).double(),
    ),
    "sequences": (
        network("T5ForConditionalGeneration", "T5Config", **T5, decoder_start_token_id=0),
        COUNTED,
    ),
}


def batch(y: Tensor) -> dict[str, Tensor]:
    return {"input_ids": IDS, "attention_mask": MASK, "labels": y}


def split(whole: dict[str, Tensor], *sizes: int) -> list[dict[str, Tensor]]:
    parts = {name: tensor.split(sizes) for name, tensor in whole.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_is_the_networks_own(head: str):
    build, y = HEADS[head]
    model = build()
    wanted = model(**batch(y)).loss
    dec = Decomposition(build(), split(batch(y), 4, 2))
    gradient = dec.gradient()
    assert gradient.loss == pytest.approx(wanted.item(), rel=1e-6)  # its own is float32 within
    parameters = [model.get_parameter(name) for name in dec.layout.names]
    slopes = torch.autograd.grad(wanted, parameters, materialize_grads=True)
    torch.testing.assert_close(
        gradient.vector, torch.cat([s.flatten() for s in slopes]), rtol=1e-4, atol=1e-7
    )


def test_a_loss_that_is_not_the_networks_own_is_refused():
    model = network("GPT2DoubleHeadsModel", "GPT2Config", **GPT2)()
    y = IDS[:, None].clone()
    data = {"input_ids": y, "mc_token_ids": torch.zeros(6, 1, dtype=torch.long), "labels": y}
    with pytest.raises(InputError, match="own loss is not cross-entropy"):
        Decomposition(model, [data]).gradient()
    assert Decomposition(model, [data], "cross-entropy").gradient().loss > 0


def test_heads_of_other_losses_are_refused_in_words():
    bare = types.SimpleNamespace(model_type="wav2vec2")
    ctc = type("Wav2Vec2ForCTC", (nn.Linear,), {"config": bare})(2, 3)
    with pytest.raises(InputError, match=r"\(CTC\)"):
        Decomposition(ctc, [(torch.randn(2, 2), torch.zeros(2).long())])
    qa = bert("BertForQuestionAnswering")()
    positions = {"start_positions": IDS[:, 0] % 6, "end_positions": IDS[:, 1] % 6}
    with pytest.raises(InputError, match="output='start_logits'"):
        Decomposition(qa, [{"input_ids": IDS, **positions}]).gradient()
    one = {"input_ids": IDS, "labels": positions["start_positions"]}
    got = Decomposition(qa, [one], output="start_logits").gradient().loss
    z = qa(input_ids=IDS).start_logits
    assert got == pytest.approx(nn.functional.cross_entropy(z, one["labels"]).item(), rel=1e-5)


def encoding() -> Any:
    return [transformers.BatchEncoding(batch(COUNTED))]


def arrow() -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({k: v.tolist() for k, v in batch(COUNTED).items()})


def ragged() -> Any:
    """Rows without padding: the last three sequences are shorter by what does not count."""
    datasets = pytest.importorskip("datasets")
    rows = [{"input_ids": IDS[i].tolist(), "labels": COUNTED[i].tolist()} for i in range(6)]
    for row in rows[:3]:
        row["input_ids"], row["labels"] = row["input_ids"][:5], row["labels"][:5]
    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize("form", [encoding, arrow, ragged])
def test_forms_of_the_libraries(form: Callable[[], Any]):
    wanted = causal()(**batch(COUNTED)).loss.item()
    assert Decomposition(causal(), form()).gradient().loss == pytest.approx(wanted, rel=1e-6)
