"""Weights on disk: what survives the trip, and what is refused."""

import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from hessdiag import bounds
from hessdiag.errors import InputError
from hessdiag.metadata import Metadata, ModelSpec
from hessdiag.nets import checkpoints, models
from hessdiag.nets.checkpoints import formats, reading
from tests.hardening.conftest import samples

__all__ = ["samples"]

SPEC = ModelSpec("wrn10-1", "beta_gelu", 5.0, num_classes=4, input_shape=(1, 8, 8))
METADATA = Metadata(SPEC, loss="cross-entropy", epoch=3, metrics={"accuracy": 0.5})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = nn.Linear(3, 3)
        self.outer.weight = self.inner.weight
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return module.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


def test_weights_and_metadata_make_the_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = models.build(SPEC)
    checkpoints.save(path, model, METADATA)
    found = checkpoints.read(path)
    other = models.build(SPEC, seed=1)
    checkpoints.load_into(other, found)
    assert found.metadata == METADATA
    assert found.path == path
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(weights(other), weights(model))


def test_tied_and_strided_tensors_and_minus_infinite_masks_survive(tmp_path: Path) -> None:
    path = tmp_path / "tied.safetensors"
    model, other = Tied(), Tied()
    model.outer.bias = nn.Parameter(torch.arange(6.0)[::2])
    checkpoints.save(path, model, METADATA)
    checkpoints.load_into(other, checkpoints.read(path))
    assert same(weights(other), weights(model))
    assert other.outer.weight is other.inner.weight


def test_reading_holds_no_map_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoints.save(path, nn.Linear(2, 2), METADATA)
    found = checkpoints.read(path)
    before = found.tensors["weight"].clone()
    with path.open("r+b") as file:
        file.seek(-16, 2)
        file.write(bytes(16))
    assert torch.equal(found.tensors["weight"], before)


def test_saving_refuses_other_suffixes_and_missing_folders(tmp_path: Path) -> None:
    assert ".safetensors" in refusal(
        lambda: checkpoints.save(tmp_path / "m.pt", nn.Linear(2, 2), METADATA)
    )
    assert "does not exist" in refusal(
        lambda: checkpoints.save(tmp_path / "no" / "m.safetensors", nn.Linear(2, 2), METADATA)
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.module."])
def test_pickles_are_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    path = tmp_path / "model.pth"
    state = {prefix + name: tensor for name, tensor in nn.Linear(2, 3).state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    found = checkpoints.read(path)
    other = nn.Linear(2, 3)
    checkpoints.load_into(other, found)
    assert {prefix + name: tensor for name, tensor in other.state_dict().items()}.keys() == {*state}
    assert all(torch.equal(t, state[prefix + name]) for name, t in other.state_dict().items())
    assert found.metadata is None


def test_a_network_of_its_own_named_module_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    model = nn.ModuleDict({"module": nn.Linear(2, 3)})
    torch.save(model.state_dict(), path)
    other = nn.ModuleDict({"module": nn.Linear(2, 3)})
    checkpoints.load_into(other, checkpoints.read(path))
    assert same(weights(other), weights(model))


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, legacy: bool) -> None:
    path, sprung = tmp_path / "model.pt", tmp_path / "sprung"
    torch.save(
        {"weight": torch.zeros(2), "x": Trap(sprung)},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    assert "could run code" in refusal(lambda: checkpoints.read(path))
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists()  # the trap was real


def test_pickles_without_a_state_dict_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    itself: dict[str, Any] = {}
    itself["model"] = itself
    for content, message in [
        (torch.zeros(2), "no state dict"),
        ({"epoch": 3}, "'epoch', a int"),
        ({3: torch.zeros(2)}, "other than tensors"),
        (itself, "other than tensors"),
        ({}, "no tensors"),
    ]:
        torch.save(content, path)
        assert message in refusal(lambda: checkpoints.read(path))


def write_safetensors(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.safetensors", b""),
        ("empty.pt", b""),
        ("garbage.safetensors", b"garbage" * 9),
        ("garbage.pt", b"garbage" * 9),
        ("garbage.pth", b"PK\x03\x04" + b"garbage" * 9),
        ("huge.safetensors", write_safetensors(b"{}", 2**62)),
        ("json.safetensors", write_safetensors(b"[1, 2]")),
        (
            "short.safetensors",
            write_safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "damaged" in refusal(lambda: checkpoints.read(path))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(nn.Linear(20, 20).state_dict(), path)
    else:
        checkpoints.save(path, nn.Linear(20, 20), METADATA)
    path.write_bytes(path.read_bytes()[:-300])
    assert "damaged" in refusal(lambda: checkpoints.read(path))


def test_missing_files_folders_and_strange_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    assert "cannot read" in refusal(lambda: checkpoints.read(tmp_path / "absent.safetensors"))
    assert "cannot read" in refusal(lambda: checkpoints.read(tmp_path / "folder.pt"))
    assert "suffix" in refusal(lambda: checkpoints.read(tmp_path / "model.onnx"))
    assert "cannot read" in refusal(lambda: checkpoints.read("~nobody-of-this-name/model.pt"))
    assert "cannot read" in refusal(lambda: checkpoints.read("a\0b.pt"))
    assert "known form" in refusal(lambda: checkpoints.read(tmp_path))
    safetensors.torch.save_file({}, tmp_path / "none.safetensors")
    assert "no tensors" in refusal(lambda: checkpoints.read(tmp_path / "none.safetensors"))


def test_metadata_of_others_is_ignored_and_ours_must_be_sound(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"format": "pt"})
    assert checkpoints.read(path).metadata is None
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"hessdiag": json.dumps({"a": 1})})
    assert "metadata" in refusal(lambda: checkpoints.read(path))


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("wrn10-1", num_classes=10, input_shape=(1,)),
        ModelSpec("wrn16-2", num_classes=7, input_shape=(3,)),
        ModelSpec("resnet18", num_classes=1000, input_shape=(3,)),
        ModelSpec("resnet34", num_classes=2, input_shape=(1,)),
        ModelSpec("resnet50", num_classes=10, input_shape=(3,)),
        ModelSpec("resnet101", num_classes=10, input_shape=(3,)),
        ModelSpec("mlp-64-32-16-8-8-8", num_classes=3, input_shape=(12,)),
    ],
)
def test_networks_are_recognised_by_their_tensors(spec: ModelSpec) -> None:
    tensors = dict(sorted(models.skeleton(spec).state_dict().items()))
    assert checkpoints.recognise(tensors) == spec
    without_counters = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    assert checkpoints.recognise(without_counters) == spec
    assert checkpoints.recognise({**tensors, "extra": torch.zeros(1)}) is None


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"weight": (3, 2)},
        {"conv1.weight": (), "fc.weight": ()},
        {"conv1.weight": (0, 0), "fc.weight": (0, 0)},
        {"stem.weight": (1,), "head.weight": (1,), "groups.0.0.conv1.weight": (1,)},
        {"layers.0.weight": (0, 0), "layers.2.weight": (0, 0)},
        {"layers.0.weight": (9,), "layers.2.weight": (4, 4)},
    ],
)
def test_other_tensors_are_not_recognised(shapes: dict[str, tuple[int, ...]]) -> None:
    assert (
        checkpoints.recognise({name: torch.zeros(shape) for name, shape in shapes.items()}) is None
    )


def checkpoint_of(module: nn.Module, **changes: Tensor | None) -> checkpoints.Checkpoint:
    tensors = {**{n: t.clone() for n, t in module.state_dict().items()}, **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return checkpoints.Checkpoint(Path("model.pt"), "", kept, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": None}, "missing: weight"),
        ({"gain": torch.ones(3)}, "unexpected: gain"),
        ({"weight": torch.ones(2, 2)}, "weight (checkpoint (2, 2), network (3,))"),
        ({"weight": torch.ones(3, dtype=torch.int8)}, "weight (checkpoint integer (3,)"),
        ({"weight": torch.tensor([1.0, torch.nan, 1.0])}, "NaN or Inf in weight"),
        ({"weight": torch.full((3,), 1e300, dtype=torch.float64)}, "NaN or Inf in weight"),
        ({"running_var": torch.full((3,), torch.inf)}, "NaN or Inf in running_var"),
    ],
)
def test_loading_is_strict_and_all_or_nothing(
    changes: dict[str, Tensor | None], message: str
) -> None:
    module = nn.BatchNorm1d(3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    bad = checkpoint_of(nn.BatchNorm1d(3), **{"bias": torch.ones(3), **changes})
    assert message in refusal(lambda: checkpoints.load_into(module, bad))
    assert same(weights(module), before)


def test_long_lists_of_faults_are_cut() -> None:
    empty = replace(checkpoint_of(nn.Linear(1, 1)), tensors={})
    message = refusal(lambda: checkpoints.load_into(models.build(SPEC), empty))
    assert "more" in message
    assert len(message) < 500


def test_old_files_without_batch_counters_load() -> None:
    checkpoints.load_into(
        nn.BatchNorm1d(3), checkpoint_of(nn.BatchNorm1d(3), num_batches_tracked=None)
    )


def test_other_precisions_load() -> None:
    module = nn.Linear(2, 2)
    half = checkpoint_of(nn.Linear(2, 2).half())
    checkpoints.load_into(module, half)
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, half.tensors["weight"].float())


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_expand_out_of_bounds_are_refused(tmp_path: Path, legacy: bool) -> None:
    wide = torch.zeros(1, 1).expand(40_000, 40_000)
    torch.save({"weight": wide}, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    assert "asks for far more memory" in refusal(lambda: checkpoints.read(tmp_path / "m.pt"))


def test_weights_that_many_names_share_are_counted_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bounds, "LEAST", 1 << 10)
    shared = torch.zeros(10_000)
    torch.save({f"layers.{i}.weight": shared for i in range(100)}, tmp_path / "m.pt")
    assert len(checkpoints.read(tmp_path / "m.pt").tensors) == 100


def test_a_compressed_archive_out_of_bounds_is_refused_unread(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bounds, "LEAST", 1 << 20)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9", bytes(1 << 21))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is read"))
    assert "asks for far more memory" in refusal(lambda: checkpoints.read(tmp_path / "m.pt"))


@pytest.mark.parametrize("content", ["garbage", "cut", "with code", "a tar"])
def test_no_message_advises_to_run_the_code(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.pt"
    torch.save({"weight": torch.zeros(200), "x": Trap(tmp_path / "sprung")}, path)
    if content != "with code":
        torch.save({"weight": torch.zeros(200)}, path)
    data = path.read_bytes()
    if content == "a tar":
        with tarfile.open(path, "w") as archive:
            archive.add(__file__, "tensors")
    else:
        wanted = {"garbage": b"\x80\x02garbage", "cut": data[:300], "with code": data}
        path.write_bytes(wanted[content])
    message = refusal(lambda: checkpoints.read(path))
    assert not re.search(r"weights_only|safe_globals|trust|https?:|re-running", message), message


# --- the table of formats ----------------------------------------------------------------------


def test_a_form_is_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is touched for a new one."""
    (tmp_path / "numpy_file.py").write_text(
        "import numpy as np, torch\n"
        "from hessdiag.nets.checkpoints.checkpoint import Checkpoint\n"
        "WANTED = '.npz'\n"
        "def match(path): return path.suffix == '.npz'\n"
        "def read(path, choice):\n"
        "    arrays = dict(np.load(path))\n"
        "    return Checkpoint(path, '', {n: torch.tensor(a) for n, a in arrays.items()})\n"
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    reading.table.cache_clear()
    try:
        np.savez(tmp_path / "m.npz", weight=np.ones((3, 2), np.float32), bias=np.zeros(3))
        model = nn.Linear(2, 3)
        checkpoints.load_into(model, checkpoints.read(tmp_path / "m.npz"))
        assert model.weight.eq(1).all()
        assert ".npz" in refusal(lambda: checkpoints.read(tmp_path / "m.onnx"))
    finally:
        reading.table.cache_clear()


def test_no_two_forms_take_one_path(samples: Path) -> None:
    places = [place for place in samples.rglob("*") if place.suffix != ".json"]
    matches = {place: [f for f in reading.table() if f.match(place)] for place in places}
    assert max(map(len, matches.values())) == 1
    assert {form.WANTED for found in matches.values() for form in found} == {
        form.WANTED for form in reading.table()
    }
