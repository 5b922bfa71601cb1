"""Data: every kind of source, selection, normalisation, and what is refused."""

import hashlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from hessdiag.data import datasets, preparation
from hessdiag.errors import InputError

LABELS = np.arange(20, dtype=np.uint8) % 5
COLOURS = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
GREYS = COLOURS[..., 0]


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


def npz(folder: Path, name: str = "data.npz", **arrays: Any) -> str:
    np.savez(folder / name, **arrays)
    return str(folder / name)


# --- the embedded digits ---------------------------------------------------------------------


def test_digits_have_a_fixed_stratified_split() -> None:
    train, test = datasets.load("digits"), datasets.load("digits", split="test", seed=7)
    assert (train.num_samples, test.num_samples) == (1442, 355)
    assert train.input_shape == (1, 8, 8)
    assert train.inputs.dtype == torch.float32
    assert train.targets.dtype == torch.int64
    assert train.num_classes == 10
    for label in range(10):
        share = (test.targets == label).sum() / (train.targets == label).sum()
        assert 0.23 < float(share) < 0.26
    assert float(train.inputs.mean()) == pytest.approx(0, abs=1e-3)
    assert float(train.inputs.std()) == pytest.approx(1, abs=1e-3)
    rows = {example.numpy().tobytes() for example in train.inputs}
    assert not any(example.numpy().tobytes() in rows for example in test.inputs)


def test_digits_are_scaled_by_sixteen() -> None:
    found = datasets.load("digits", mean=(0.0,), std=(1.0,))
    assert found.inputs.unique().tolist() == [level / 16 for level in range(17)]
    assert (found.mean, found.std) == ((0.0,), (1.0,))


# --- selection -------------------------------------------------------------------------------


def test_a_subset_is_seeded_without_replacement_and_in_stored_order(tmp_path: Path) -> None:
    spec = npz(tmp_path, inputs=np.arange(100.0).reshape(100, 1), targets=np.arange(100))
    found = datasets.load(spec, num_samples=30, seed=3)
    again = datasets.load(spec, num_samples=30, seed=3)
    other = datasets.load(spec, num_samples=30, seed=4)
    assert torch.equal(found.targets, found.targets.unique(sorted=True))
    assert torch.equal(found.inputs.flatten(), found.targets.double())
    assert torch.equal(found.targets, again.targets)
    assert not torch.equal(found.targets, other.targets)
    assert found.sha256 == again.sha256 != other.sha256
    assert datasets.load(spec, num_samples=100).sha256 == datasets.load(spec).sha256


def test_the_hash_is_of_inputs_then_targets() -> None:
    found = datasets.load("digits", num_samples=5)
    content = found.inputs.numpy().tobytes() + found.targets.numpy().tobytes()
    assert found.sha256 == hashlib.sha256(content).hexdigest()


def test_a_default_size_yields_to_small_data_and_to_a_wish() -> None:
    assert datasets.load("digits", at_most=100).num_samples == 100
    assert datasets.load("digits", at_most=9999).num_samples == 1442
    assert datasets.load("digits", num_samples=7, at_most=5).num_samples == 7


@pytest.mark.parametrize("wanted", [0, -1, 1443])
def test_a_subset_that_cannot_be_is_refused(wanted: int) -> None:
    assert "1 to 1442" in refusal(lambda: datasets.load("digits", num_samples=wanted))


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [GREYS, COLOURS])
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_byte_images_are_normalised_by_the_whole_file(
    tmp_path: Path, kind: str, images: np.ndarray[Any, Any]
) -> None:
    path = tmp_path / f"data.{kind}"
    if kind == "npz":
        np.savez(path, images=images, labels=LABELS)
    else:
        safetensors.torch.save_file(
            {"images": torch.tensor(images), "labels": torch.tensor(LABELS)}, path
        )
    found = datasets.load(str(path), num_samples=4)
    whole = datasets.load(str(path))
    pixels = images.reshape(20, 4, 6, -1).transpose(0, 3, 1, 2) / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    np.testing.assert_allclose(found.mean, mean)
    np.testing.assert_allclose(found.std, std)
    wanted = (pixels - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(whole.inputs, wanted, atol=1e-6)
    assert whole.num_classes == found.num_classes == 5
    assert found.input_shape == (pixels.shape[1], 4, 6)
    assert datasets.load(str(path), mean=found.mean, std=found.std).sha256 == whole.sha256


def test_a_constant_channel_becomes_zero(tmp_path: Path) -> None:
    spec = npz(tmp_path, images=np.full((3, 2, 2), 77, np.uint8), labels=np.arange(3))
    assert not datasets.load(spec).inputs.any()


def test_float_images_are_normalised_only_on_demand(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((20, 3, 4, 4))
    spec = npz(tmp_path, images=images, labels=LABELS, classes=np.array(list("abcde")))
    plain = datasets.load(spec)
    scaled = datasets.load(spec, mean=(0.5, 0.5, 0.5), std=(2.0, 2.0, 2.0))
    assert plain.mean is None
    assert plain.inputs.dtype == torch.float32
    assert plain.classes == tuple("abcde")
    np.testing.assert_allclose(plain.inputs, images, atol=1e-7)
    np.testing.assert_allclose(scaled.inputs, (images - 0.5) / 2, atol=1e-7)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f8", "f2"])
def test_inputs_keep_their_kind_in_any_byte_order(tmp_path: Path, dtype: str) -> None:
    inputs = np.arange(12, dtype=dtype).reshape(3, 4)
    spec = npz(tmp_path, inputs=inputs, targets=np.array([0.5, 1.5, 2.5], ">f8"))
    found = datasets.load(spec)
    assert found.inputs.tolist() == inputs.tolist()
    assert found.inputs.element_size() == inputs.itemsize
    assert found.targets.tolist() == [0.5, 1.5, 2.5]
    assert found.num_classes is None


@pytest.mark.parametrize("dtype", ["u1", ">u2", ">i4", "u8", "i8"])
def test_labels_of_any_integer_kind_are_read(tmp_path: Path, dtype: str) -> None:
    spec = npz(tmp_path, inputs=np.zeros((5, 2)), labels=np.arange(5, dtype=dtype))
    assert datasets.load(spec).targets.tolist() == [0, 1, 2, 3, 4]
    assert datasets.load(spec).targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GREYS}, "lacks arrays"),
        ({"labels": LABELS}, "lacks arrays"),
        ({"images": GREYS[:4], "labels": LABELS}, "differ in length"),
        ({"images": GREYS[:0], "labels": LABELS[:0]}, "empty"),
        ({"images": GREYS, "labels": LABELS / 2}, "not of a labels' kind"),
        ({"images": GREYS, "labels": np.eye(20, dtype=int)}, "not of a labels' kind"),
        ({"images": GREYS, "labels": LABELS.astype(int) - 1}, "-1 to 3"),
        ({"images": GREYS, "labels": LABELS, "classes": np.array(["a", "b"])}, "0 to 4"),
        ({"images": GREYS, "labels": LABELS.astype(str)}, "numbers"),
        ({"images": GREYS.astype(int), "labels": LABELS}, "unknown form"),
        ({"images": GREYS.astype("f4"), "labels": LABELS}, "unknown form"),
        ({"images": COLOURS.transpose(0, 3, 1, 2), "labels": LABELS}, "unknown form"),
        ({"images": np.full((20, 1, 2, 2), np.nan), "labels": LABELS}, "inputs hold NaN"),
        ({"inputs": np.full((20, 2), np.inf), "labels": LABELS}, "inputs hold NaN"),
        ({"inputs": np.zeros((20, 2)), "targets": np.full(20, np.nan)}, "targets hold NaN"),
        ({"inputs": np.zeros((20, 2)), "targets": np.float64(1)}, "differ in length"),
    ],
)
def test_unsound_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    spec = npz(tmp_path, **arrays)
    assert message in refusal(lambda: datasets.load(spec))


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_arrays_do_not_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    objects = np.array([Trap(sprung), 1], dtype=object)
    spec = npz(tmp_path, images=objects, labels=np.arange(2))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap(sprung)))
    assert "cannot be read" in refusal(lambda: datasets.load(spec))
    assert "cannot be read" in refusal(lambda: datasets.load(str(tmp_path / "bare.npz")))
    assert not sprung.exists()


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    spec = npz(tmp_path, images=GREYS, labels=LABELS)
    content = Path(spec).read_bytes()
    (tmp_path / "short.npz").write_bytes(content[:200])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    np.save(tmp_path / "array.npy", GREYS)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "folder.npz").mkdir()
    for name in ("short.npz", "empty.safetensors", "array.npz"):
        assert "cannot be read" in refusal(lambda name=name: datasets.load(str(tmp_path / name)))
    for name in ("absent.npz", "folder.npz"):
        assert "does not exist" in refusal(lambda name=name: datasets.load(str(tmp_path / name)))


def test_a_file_holds_one_split(tmp_path: Path) -> None:
    train = npz(tmp_path, "a_train.npz", inputs=np.zeros((3, 1)), labels=np.zeros(3, int))
    alone = npz(tmp_path, "b.npz", inputs=np.zeros((4, 1)), labels=np.zeros(4, int))
    assert "training split only" in refusal(lambda: datasets.load(train, split="test"))
    npz(tmp_path, "a_test.npz", inputs=np.zeros((2, 1)), labels=np.zeros(2, int))
    pattern = str(tmp_path / "a_{split}.npz")
    assert [datasets.load(train, split=s).num_samples for s in preparation.SPLITS] == [3, 2]
    assert [datasets.load(pattern, split=s).num_samples for s in preparation.SPLITS] == [3, 2]
    assert [datasets.load(alone, split=s).num_samples for s in preparation.SPLITS] == [4, 4]


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), None, "go together"),
        (None, (0.5,), "go together"),
        ((0.5,), (0.0,), "out of range"),
        ((float("nan"),), (1.0,), "out of range"),
        ((), (), "out of range"),
        ((0.5, 0.5), (1.0, 1.0), "do not fit"),
        ((0.5,), (1.0, 1.0), "do not fit"),
    ],
)
def test_unsound_statistics_are_refused(mean: Any, std: Any, message: str) -> None:
    assert message in refusal(lambda: datasets.load("digits", mean=mean, std=std))


def test_inputs_that_are_no_images_are_not_normalised(tmp_path: Path) -> None:
    spec = npz(tmp_path, inputs=np.ones((2, 1)), labels=np.zeros(2, int))
    found = datasets.load(spec, mean=(1.0,), std=(2.0,))
    assert found.inputs.tolist() == [[1.0], [1.0]]
    assert found.mean is found.std is None


# --- factories -------------------------------------------------------------------------------

SOURCE = """
import numpy as np, torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset
asked = []
class Lazy(Dataset):
    classes = ["a", "b", "c"]
    def __len__(self): return 50
    def __getitem__(self, index):
        asked.append(index)
        return np.full((2, 3), index, np.float32), index % 3
class Endless(IterableDataset):
    def __iter__(self): return iter(())
class Broken(Lazy):
    def __getitem__(self, index): raise OSError("disk on fire")
class Boundless(Dataset):
    def __getitem__(self, index): return 0, 0
def arrays(): return np.arange(6.0).reshape(2, 3)[:, ::-1], [1, 0]
def frozen(): return np.frombuffer(bytes(16), "f4").reshape(2, 2), torch.tensor([0.5, 1.5])
def tensors(): return TensorDataset(torch.arange(4.0).view(4, 1), torch.arange(4))
def texts(): return ["a", "b"], [1, 0]
def ragged(): return [[1], [2, 3]], [1, 0]
def number(): return 3
"""


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)


@pytest.mark.usefixtures("own_data")
def test_factories_give_arrays_or_tensors() -> None:
    strided, frozen = datasets.load("own_data:arrays"), datasets.load("own_data:frozen")
    assert strided.inputs.tolist() == [[2, 1, 0], [5, 4, 3]]
    assert strided.targets.tolist() == [1, 0]
    assert frozen.targets.tolist() == [0.5, 1.5]
    assert datasets.load("own_data:tensors").targets.tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("own_data")
def test_only_the_selected_examples_of_a_torch_data_set_are_read() -> None:
    found = datasets.load("own_data:Lazy", num_samples=4)
    assert found.num_classes == 3
    assert found.inputs.shape == (4, 2, 3)
    assert found.inputs[:, 0, 0].tolist() == sys.modules["own_data"].asked
    assert found.targets.tolist() == [index % 3 for index in sys.modules["own_data"].asked]


@pytest.mark.usefixtures("own_data")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "returned no data"),
        ("Endless", "returned no data"),
        ("Broken", "disk on fire"),
        ("Boundless", "no length"),
        ("texts", "numbers"),
        ("ragged", "cannot be read"),
    ],
)
def test_bad_factories_are_refused(name: str, message: str) -> None:
    assert message in refusal(lambda: datasets.load(f"own_data:{name}"))


# --- the rest --------------------------------------------------------------------------------


def test_unknown_data_and_splits_are_met_with_the_nearest(tmp_path: Path) -> None:
    assert "did you mean cifar10" in refusal(lambda: datasets.load("cifar-10"))
    assert f"folder:{tmp_path}" in refusal(lambda: datasets.load(str(tmp_path)))
    assert "unknown split" in refusal(lambda: datasets.load("digits", split="val"))


@pytest.mark.parametrize(
    ("targets", "num_classes", "message"),
    [
        (torch.tensor([0, 10]), 10, "0 to 9"),
        (torch.tensor([-1, 3]), None, "-1 to 3"),
        (torch.tensor([0.5]), 10, "no integers"),
    ],
)
def test_labels_that_a_network_lacks_are_refused(
    targets: torch.Tensor, num_classes: int | None, message: str
) -> None:
    assert message in refusal(lambda: datasets.check_labels(targets, num_classes))
    datasets.check_labels(torch.tensor([0, 9]), 10)


def test_a_share_of_the_training_labels_is_drawn_anew():
    clean, noisy = (datasets.load("digits", label_noise=share, seed=3) for share in (0.0, 0.42))
    assert torch.equal(clean.inputs, noisy.inputs)
    changed = (clean.targets != noisy.targets).double().mean()
    assert abs(changed - 0.42 * 0.9) < 4 * (0.378 * 0.622 / len(clean.targets)) ** 0.5
    assert noisy.sha256 != clean.sha256
    everything = datasets.load("digits", label_noise=1.0, seed=3).targets
    assert torch.equal(noisy.targets[clean.targets != noisy.targets].unique(), torch.arange(10))
    assert abs((everything == clean.targets).double().mean() - 0.1) < 0.04
    tested = [datasets.load("digits", split="test", label_noise=x).targets for x in (0.0, 0.5)]
    assert torch.equal(*tested)


def test_redrawn_labels_depend_on_seed_and_example_alone():
    def labels(**options):
        return datasets.load("digits", label_noise=0.5, **options).targets

    assert torch.equal(labels(seed=1), labels(seed=2, noise_seed=1))
    assert not torch.equal(labels(seed=1), labels(seed=2))
    of_all = labels(noise_seed=7)
    some = preparation.select(len(of_all), 90, 5)
    assert torch.equal(labels(num_samples=90, seed=5, noise_seed=7), of_all[some])


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_labels_is_between_0_and_1(share):
    with pytest.raises(InputError, match="label_noise"):
        datasets.load("digits", label_noise=share)


def test_labels_that_do_not_count_are_no_labels():
    redrawn = preparation.redraw(torch.tensor([0, -100, 2]), torch.arange(3), 3, 3, 1.0, seed=0)
    assert redrawn[1] == -100
    datasets.check_labels(torch.tensor([0, -100, 2]), 3)
    with pytest.raises(InputError, match="no class label counts"):
        datasets.check_labels(torch.tensor([-100, -100]), 3)
