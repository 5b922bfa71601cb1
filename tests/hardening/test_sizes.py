"""What a small file may ask for: no more memory than it holds, no reading without an end."""

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pytest
import torch
from msgspec import structs

from hessdiag import files, results
from hessdiag.errors import InputError
from hessdiag.gates import limits
from hessdiag.metadata import DataSpec, Metadata
from hessdiag.nets import checkpoints, models
from hessdiag.subjects import subject
from hessdiag.training import folder, loop, recipes, state
from tests.cli.conftest import FAST, Run
from tests.hardening.samples import SPEC


def metadata_of(path: Path, **changes: object) -> str:
    metadata = Metadata(structs.replace(SPEC, **changes), DataSpec("digits"), "cross-entropy")
    checkpoints.save(path, models.build(SPEC), metadata)
    return str(path)


@pytest.mark.parametrize("name", ["wrn100-60", "wrn40-9999", "mlp-999999-999999", "wrn1000-1"])
def test_metadata_that_name_a_huge_network_take_no_memory(tmp_path: Path, name: str):
    path = metadata_of(tmp_path / "m.safetensors", name=name)
    began, before = perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="does not fit"):
        subject.load(path, num_samples=4)
    assert perf_counter() - began < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB


@pytest.mark.parametrize("size", [10**12, 10**400, 0, -1])
def test_metadata_with_sizes_that_no_network_has(tmp_path: Path, size: int):
    path = metadata_of(tmp_path / "m.safetensors", num_classes=size)
    with pytest.raises(InputError, match=r"size out of range|model\.num_classes"):
        subject.load(path, num_samples=4)


def test_sparse_tensors_of_any_shape_take_no_memory(tmp_path: Path):
    path = tmp_path / "wide.pt"
    torch.save({"layers.0.weight": torch.zeros(1, 1).expand(10**6, 10**6)}, path)
    with pytest.raises(InputError):
        subject.load(str(path), data="digits", activation="gelu", num_samples=4)


READERS: dict[str, Callable[[Path], object]] = {
    "x.json": lambda path: results.read(path),
    "hessdiag.toml": lambda path: limits.find(str(path)),
    "recipe.toml": recipes.read_config,
    folder.CONFIG: lambda path: folder.read_config(path.parent),
    folder.METRICS: lambda path: folder.read_metrics(path.parent),
    state.CURRENT: lambda path: state.load(path.parent),
    "m.safetensors": checkpoints.read,
    "m.pt": checkpoints.read,
}


@pytest.mark.parametrize("device", ["/dev/full", "pipe"])
@pytest.mark.parametrize("name", READERS)
def test_what_never_ends_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, device: str
):
    if device == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(device)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it is read"))
    with pytest.raises(InputError, match="device or a pipe"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(("json", "toml"))])
def test_what_is_too_large_is_refused_unread(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, files.LARGEST + 1)
    with pytest.raises(InputError, match="bytes, at most"):
        READERS[name](tmp_path / name)


def forged(place: Path, samples: Path, **changes: object) -> InputError:
    """Go on from a state that was changed, its checksum with it."""
    shutil.copytree(samples / "run", place, dirs_exist_ok=True)
    payload, _ = state.load(place)
    assert payload is not None
    state.save(place, payload | changes)
    payload, _ = state.load(place)
    config = folder.read_config(place)
    with pytest.raises(InputError) as caught:
        loop.train(config, *loop.load_data(config), out=place, payload=payload)
    return caught.value


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 10**15},
        {"step": -1},
        {"step": "one"},
        {"model": {}},
        {"epochs": [{"number": 1}]},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"speed": None},
        {"speed": (1, "fast")},
        {"step": True},
        {"step": 1.5},
        {"totals": torch.zeros(2)},
        {"totals": 3},
        {"num_skipped": "none"},
        {"logged": [{"step": 1}]},
        {"logged": 3},
        {"epochs": [{"number": 10**400}]},
        {"model": {"layers.0.weight": torch.zeros(1)}},
        {"optimizer": {"state": {0: {"momentum_buffer": torch.zeros(9)}}, "param_groups": 3}},
    ],
    ids=str,
)
def test_a_forged_state_is_refused(tmp_path: Path, samples: Path, changes: dict[str, object]):
    assert "damaged" in str(forged(tmp_path, samples, **changes))


def test_an_index_of_five_thousand_digits_is_a_name(run: Run, samples: Path):
    outcome = run("spectrum", samples / "model.safetensors", *FAST, "--output", "9" * 5000)
    assert outcome.code == 2
    assert outcome.err.startswith("error: the network has no such output")
