"""Folders of Hugging Face and PEFT, good and bad."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hessdiag import bounds
from hessdiag.errors import InputError
from hessdiag.nets import assembly, checkpoints
from hessdiag.nets.checkpoints import Choice
from hessdiag.subject_options import SubjectOptions
from tests import foreign

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    foreign.language_model(folder / "gpt")
    foreign.adapter(folder / "adapter", folder / "gpt")
    return folder


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    for name in ("gpt", "adapter"):
        shutil.copytree(place / name, tmp_path / name)
    return tmp_path


def changed(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


def network(path: Path) -> Any:
    checkpoint = checkpoints.read(path)
    assert checkpoint.network is not None
    return checkpoint.network()


def test_shards_and_tied_weights(place: Path) -> None:
    model = foreign.language_model(place / "again")
    other = network(place / "again")
    ours, theirs = other.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert other.lm_head.weight is other.transformer.wte.weight
    assert checkpoints.read(place / "again").sha256 == checkpoints.read(place / "gpt").sha256


def test_half_precision_is_told(tmp_path: Path) -> None:
    foreign.language_model(tmp_path / "half", dtype=torch.bfloat16)
    checkpoint = checkpoints.read(tmp_path / "half")
    assert checkpoint.notes == ("stored in bfloat16, loaded in float32",)
    assert {p.dtype for p in network(tmp_path / "half").parameters()} == {torch.float32}


def test_what_a_model_says_of_text(copied: Path) -> None:
    text = checkpoints.read(copied / "gpt").text
    assert text is not None
    assert (text.folder, text.head, text.longest) == (str(copied / "gpt"), "causal", 16)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"n_layer": 10**8}, "far more layers than there are weights"),
    "words": ({"vocab_size": 10**9}, "asks for far more memory"),
    "width": ({"n_embd": 10**7}, "asks for far more memory"),
    "no heads": ({"n_head": 0}, "cannot be loaded"),
    "text": ({"n_layer": "two"}, "cannot be loaded"),
    "other shapes": ({"n_embd": 32}, "cannot be loaded"),
    "more layers": ({"n_layer": 3}, "weights of GPT2LMHeadModel are missing"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_that_does_not_fit(copied: Path, kind: str) -> None:
    changes, message = CONFIGS[kind]
    changed(copied / "gpt" / "config.json", **changes)
    assert message in refusal(lambda: checkpoints.read(copied / "gpt"))


@pytest.mark.parametrize("architectures", [["Trainer"], ["OwnModel"], [], None, [3], "os"])
def test_a_network_of_its_own_gives_weights_alone(copied: Path, architectures: Any) -> None:
    """And the code in the folder is not run."""
    auto = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    changed(copied / "gpt" / "config.json", architectures=architectures, auto_map=auto)
    (copied / "gpt" / "own.py").write_text("raise SystemExit('it ran')")
    checkpoint = checkpoints.read(copied / "gpt")
    assert checkpoint.network is None
    assert "the weights alone" in checkpoint.notes[-1]
    assert len(checkpoint.tensors) == 28  # the head is tied to the embedding


def test_a_folder_of_weights_alone(copied: Path) -> None:
    (copied / "gpt" / "config.json").unlink()
    assert len(checkpoints.read(copied / "gpt").tensors) == 28
    (copied / "plain").mkdir()
    torch.save(nn.Linear(2, 2).state_dict(), copied / "plain" / "pytorch_model.bin")
    assert set(checkpoints.read(copied / "plain").tensors) == {"weight", "bias"}


def test_an_index_stands_for_its_folder(copied: Path) -> None:
    whole = checkpoints.read(copied / "gpt")
    by_index = checkpoints.read(copied / "gpt" / "model.safetensors.index.json")
    assert by_index.sha256 == whole.sha256
    assert by_index.tensors.keys() == whole.tensors.keys()


INDICES: dict[str, Any] = {
    "elsewhere": {"weight_map": {"a": "../gpt/model-00001-of-00006.safetensors"}},
    "absolute": {"weight_map": {"a": "/dev/zero"}},
    "empty": {"weight_map": {}},
    "no map": {"weight_map": [1]},
    "nothing": {},
    "missing": {"weight_map": {"a": "model-9.safetensors"}},
    "number": {"weight_map": {"a": 3}},
}


@pytest.mark.parametrize("kind", INDICES)
def test_an_index_that_names_other_files(copied: Path, kind: str) -> None:
    (copied / "gpt" / "model.safetensors.index.json").write_text(json.dumps(INDICES[kind]))
    message = refusal(lambda: checkpoints.read(copied / "gpt"))
    assert "names no shards beside it" in message or "are no file" in message


@pytest.mark.parametrize("name", ["gpt/config.json", "adapter/adapter_config.json"])
@pytest.mark.parametrize("content", ["", "[]", "{", "3", "\ud800", "[" * 100_000])
def test_a_configuration_that_is_none(copied: Path, name: str, content: str) -> None:
    (copied / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    assert name in refusal(lambda: checkpoints.read((copied / name).parent))


@pytest.mark.parametrize("pattern", ["*.safetensors", "*.index.json", "config.json"])
def test_pipes_are_refused_unread(copied: Path, pattern: str) -> None:
    target = min((copied / "gpt").glob(pattern))
    target.unlink()
    os.mkfifo(target)
    if pattern == "config.json":  # then there are weights alone
        assert checkpoints.read(copied / "gpt").network is None
    else:
        assert "pipe" in refusal(lambda: checkpoints.read(copied / "gpt"))


def test_compressed_weights_out_of_bounds(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    monkeypatch.setattr(bounds, "LEAST", 1 << 20)
    folder = copied / "plain"
    folder.mkdir()
    torch.save({"a": torch.zeros(2)}, folder / "pytorch_model.bin")
    with zipfile.ZipFile(folder / "pytorch_model.bin", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9", bytes(1 << 22))
    assert "asks for far more memory" in refusal(lambda: checkpoints.read(folder))


@pytest.mark.parametrize("choice", [Choice("x"), Choice(ema=True)])
def test_a_folder_has_no_parts(place: Path, choice: Choice) -> None:
    for name in ("gpt", "adapter"):
        with pytest.raises(InputError, match="--key and --ema"):
            checkpoints.read(place / name, choice)


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"model_arg": ("n_layer=3",)}])
def test_a_configured_network_is_not_changed(place: Path, options: dict[str, Any]) -> None:
    checkpoint = checkpoints.read(place / "gpt")
    with pytest.raises(InputError, match="built as its configuration says"):
        assemble(checkpoint, **options)


def assemble(checkpoint: checkpoints.Checkpoint, **options: Any) -> Any:
    return assembly.assemble(
        checkpoint, SubjectOptions(**options), num_classes=None, input_shape=None
    )


# --- adapters ----------------------------------------------------------------------------------


def trained(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_an_adapter_trains_alone(place: Path) -> None:
    model = network(place / "adapter")
    assert trained(model)
    assert all("lora_" in name for name in trained(model))
    text = checkpoints.read(place / "adapter").text
    assert text is not None
    assert text.folder == str(place / "gpt")


def test_an_adapter_beside_its_network(copied: Path) -> None:
    changed(copied / "adapter" / "adapter_config.json", base_model_name_or_path="../gpt")
    assert trained(network(copied / "adapter"))


def test_an_adapter_whose_network_is_not_here(copied: Path, monkeypatch) -> None:
    changed(copied / "adapter" / "adapter_config.json", base_model_name_or_path="someone/gpt")
    assert "'someone/gpt'" in refusal(lambda: network(copied / "adapter"))


def test_an_adapter_on_a_network_of_the_users(copied: Path, monkeypatch) -> None:
    changed(copied / "adapter" / "adapter_config.json", base_model_name_or_path=None)
    (copied / "own_base.py").write_text(
        "import transformers\n"
        f"def base(): return transformers.GPT2LMHeadModel.from_pretrained({str(copied / 'gpt')!r})"
    )
    monkeypatch.chdir(copied)
    monkeypatch.syspath_prepend(copied)
    spec, model, _ = assemble(checkpoints.read(copied / "adapter"), model="own_base:base")
    assert spec.name == "own_base:base"
    assert all("lora_" in name for name in trained(model))


def test_an_adapter_without_all_its_weights(copied: Path) -> None:
    import safetensors.torch

    path = copied / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors.popitem()
    safetensors.torch.save_file(tensors, path)
    assert "missing adapter keys" in refusal(lambda: network(copied / "adapter"))
    path.unlink()
    assert "holds no weights" in refusal(lambda: checkpoints.read(copied / "adapter"))
