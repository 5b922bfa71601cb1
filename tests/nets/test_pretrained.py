"""Weights to start from: a checkpoint's, or torchvision's where its files are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, _api

from hessdiag.errors import InputError
from hessdiag.metadata import Metadata, ModelSpec
from hessdiag.nets import checkpoints, models, pretrained

WRN = ModelSpec("wrn10-1", "gelu", None, 4, (1, 8, 8))
RESNET = ModelSpec("resnet18", None, None, 1000, (3, 64, 64))
FILE = Path(ResNet18_Weights.IMAGENET1K_V1.url).name


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


def saved(path: Path, spec: ModelSpec, seed: int = 1) -> dict[str, Tensor]:
    model = models.build(spec, seed=seed)
    checkpoints.save(path, model, Metadata(spec))
    return model.state_dict()


def started(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    model = models.build(spec, seed=2)
    pretrained.start_from(path, model)
    return model.state_dict()


def other(left: dict[str, Tensor], right: dict[str, Tensor]) -> list[str]:
    """Name the tensors that differ."""
    return [name for name in left if not torch.equal(left[name], right[name])]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's, out of any network's reach."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *_, **__: pytest.fail("download"))
    return tmp_path / "hub" / "checkpoints"


# --- from a checkpoint -------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [WRN, ModelSpec("mlp-16", "relu", None, 10, (1, 8, 8))], ids=str)
def test_a_network_starts_from_a_checkpoint(tmp_path: Path, spec: ModelSpec) -> None:
    path = tmp_path / "m.safetensors"
    given = saved(path, spec)
    assert other(started(path, spec), given) == []
    assert other(models.build(spec, seed=2).state_dict(), given)
    assert pretrained.locate(str(path), spec.name) == path


def test_with_other_classes_the_classifier_stays_fresh(tmp_path: Path) -> None:
    given = saved(tmp_path / "m.safetensors", WRN)
    spec = structs.replace(WRN, num_classes=7)
    found, fresh = started(tmp_path / "m.safetensors", spec), models.build(spec, seed=2)
    head = [name for name in given if name.startswith("head.")]
    assert head == ["head.weight", "head.bias"]
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(found[name], tensor if name in head else given[name]), name


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ModelSpec("wrn10-2", "gelu", None, 4, (1, 8, 8)), "of another shape"),
        (ModelSpec("wrn16-1", "gelu", None, 4, (1, 8, 8)), "missing: groups"),
        (ModelSpec("mlp-8", "gelu", None, 4, (1, 8, 8)), "unexpected"),
    ],
    ids=str,
)
def test_other_mismatches_are_refused(tmp_path: Path, spec: ModelSpec, words: str) -> None:
    saved(tmp_path / "m.safetensors", WRN)
    message = refusal(lambda: started(tmp_path / "m.safetensors", spec))
    assert "does not fit the network" in message
    assert words in message


def test_a_classifier_of_other_features_is_refused(tmp_path: Path) -> None:
    """Not taken for one of other classes, which would leave it untrained unsaid."""
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(32, 4)).state_dict(), tmp_path / "m.pt")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    message = refusal(lambda: pretrained.start_from(tmp_path / "m.pt", model))
    assert "1.weight (checkpoint (4, 32), network (5, 64))" in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in refusal(lambda: started(tmp_path / "none.safetensors", WRN))
    (tmp_path / "m.pt").write_bytes(b"no checkpoint")
    assert "is damaged" in refusal(lambda: started(tmp_path / "m.pt", WRN))


# --- torchvision's -----------------------------------------------------------------------------


def test_torchvisions_weights_are_taken_from_torchs_cache(cache: Path) -> None:
    cache.mkdir(parents=True)
    given = models.build(RESNET, seed=1).state_dict()
    torch.save(given, cache / FILE)
    for download in (False, True):
        path = pretrained.locate("torchvision", "resnet18", download=download)
        assert path == cache / FILE
    assert other(started(path, RESNET), given) == []
    few = started(path, structs.replace(RESNET, num_classes=10))
    assert few["fc.weight"].shape == (10, 512)
    few["fc.weight"], few["fc.bias"] = given["fc.weight"], given["fc.bias"]
    assert other(few, given) == []


@pytest.mark.parametrize("name", models.RESNETS)
def test_every_resnet_has_a_file_of_its_own(cache: Path, name: str) -> None:
    message = refusal(lambda: pretrained.locate("torchvision", name))
    assert f"torchvision's weights for {name} are not there" in message
    assert f"got: no file {cache / name}-" in message
    assert "--download" in message
    assert "--init FILE" in message
    assert not cache.exists()


def test_other_networks_have_none(cache: Path) -> None:
    message = refusal(lambda: pretrained.locate("torchvision", "wrn28-10", download=True))
    assert "no weights for this network" in message
    assert "resnet101" in message


def test_they_are_downloaded_on_demand_checked_and_without_running_code(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def download(url: str, **options: Any) -> None:
        asked.append({"url": url, **options})
        cache.mkdir(parents=True)
        (cache / FILE).write_bytes(b"")

    monkeypatch.setattr(_api, "load_state_dict_from_url", download)
    assert pretrained.locate("torchvision", "resnet18", download=True) == cache / FILE
    (options,) = asked
    assert options["url"].endswith(FILE)
    assert options["check_hash"]
    assert options["weights_only"]


def test_a_download_that_fails_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(_api, "load_state_dict_from_url", download)
    message = refusal(lambda: pretrained.locate("torchvision", "resnet18", download=True))
    assert "cannot be downloaded\n  got: no route" in message
