"""Streams: the same images as loaded ones, random views by seed alone, workers, refusals."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets as torchvision_datasets
from torchvision.transforms import v2

from hessdiag.data import datasets, streams, vision
from hessdiag.data.streams import Stream
from hessdiag.errors import InputError
from hessdiag.training import augmentation

RECIPE = ("resized-crop", "flip")
MODES = ("RGB", "L", "RGBA", "CMYK", "P", "1")
VIEWS: dict[str, Callable[[], Any]] = {
    "resized-crop": lambda: v2.RandomResizedCrop(224, (0.08, 1.0), (3 / 4, 4 / 3), antialias=True),
    "flip": lambda: v2.RandomHorizontalFlip(0.5),
    "crop4": lambda: v2.RandomCrop(224, padding=4, padding_mode="reflect"),
}


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


def write_images(folder: Path) -> str:
    """Two classes of three noisy images, each of another size and mode."""
    noise = np.random.default_rng(0)
    for number, mode in enumerate(MODES):
        place = folder / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        kind = "tif" if mode == "CMYK" else "png"
        Image.fromarray(pixels).convert(mode).save(place / f"{number}.{kind}")
    return f"folder:{folder}"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def stream(spec: str) -> Stream:
    return streams.open_stream(spec, split="train")


def views(
    stream: Stream, examples: Sequence[tuple[int, int | None]], size: int = 2, **options: Any
) -> list[Tensor]:
    """Decode examples in batches of ``size`` and tell them apart again."""
    batches = [examples[start : start + size] for start in range(0, len(examples), size)]
    return [image for x, _ in stream.batches(batches, **options) for image in x]


def by_hand(stream: Stream, index: int, seed: int, kinds: Sequence[str]) -> Tensor:
    image = Image.open(stream.samples[index][0]).convert("RGB")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if "resized-crop" not in kinds:
            image = v2.CenterCrop(224)(v2.Resize(256)(image))
        for kind in kinds:
            image = VIEWS[kind]()(image)
    pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor(stream.mean), torch.tensor(stream.std)
    return (pixels - mean[:, None, None]) / std[:, None, None]


# --- what is in a stream ---------------------------------------------------------------------


def test_a_stream_without_seeds_gives_the_images_that_are_loaded(stream: Stream, spec: str) -> None:
    loaded = datasets.load(spec)
    batches = list(stream.batches([[(0, None), (1, None), (2, None)], [(5, None), (3, None)]]))
    assert torch.equal(batches[0][0], loaded.inputs[:3])
    assert torch.equal(batches[1][0], loaded.inputs[[5, 3]])
    assert torch.equal(batches[1][1], loaded.targets[[5, 3]])
    x, y = batches[0]
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert x.shape == (3, *stream.input_shape)
    assert torch.equal(stream.targets, loaded.targets)
    for name in ("spec", "split", "num_samples", "num_classes", "classes", "mean", "std"):
        assert getattr(stream, name) == getattr(loaded, name)


def test_a_subset_is_the_one_that_is_loaded(spec: str) -> None:
    chosen = streams.open_stream(spec, split="test", num_samples=3, seed=5)
    loaded = datasets.load(spec, split="test", num_samples=3, seed=5)
    x, y = next(chosen.batches([[(index, None) for index in range(3)]]))
    assert torch.equal(x, loaded.inputs)
    assert torch.equal(y, loaded.targets)
    assert torch.equal(chosen.targets, loaded.targets)


def test_own_statistics_replace_imagenets(spec: str) -> None:
    own = streams.open_stream(spec, split="train", mean=(0.0,) * 3, std=(0.5,) * 3)
    x, _ = next(own.batches([[(0, None)]]))
    loaded = datasets.load(spec, mean=(0.0,) * 3, std=(0.5,) * 3)
    assert (own.mean, own.std) == (loaded.mean, loaded.std)
    assert torch.equal(x, loaded.inputs[:1])


def test_imagenet_is_streamed_from_its_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "val")
    names = {"cat": ("house cat", "Felis"), "dog": ("dog", "Canis")}
    torch.save((names, []), tmp_path / "meta.bin")
    monkeypatch.setattr(torchvision_datasets.imagenet, "check_integrity", lambda *_: True)
    found = streams.open_stream("imagenet", split="test", root=str(tmp_path))
    assert found.num_samples == 6
    assert found.classes == ("house cat", "dog")
    assert found.sha256 == streams.open_stream(f"folder:{tmp_path}", split="test").sha256


def test_images_of_any_mode_become_rgb(stream: Stream) -> None:
    for index, image in enumerate(views(stream, [(index, None) for index in range(6)])):
        assert torch.equal(image, by_hand(stream, index, 0, ()))


def test_the_hash_is_of_names_sizes_and_labels_within_the_folder(
    tmp_path: Path, stream: Stream, spec: str
) -> None:
    copy = write_images(tmp_path / "copy")

    def digest(**options: Any) -> str:
        return streams.open_stream(copy, split="train", **options).sha256

    assert digest() == stream.sha256  # wherever the folder lies
    assert digest(num_samples=5) != stream.sha256
    image = tmp_path / "copy" / "cat" / "0.png"
    image.rename(image.with_name("00.png"))
    assert digest() != stream.sha256
    image.with_name("00.png").rename(image)
    assert digest() == stream.sha256
    with image.open("ab") as stored:
        stored.write(b"more")
    assert digest() != stream.sha256
    samples = tuple((path, 1 - label) for path, label in stream.samples)
    relabelled = Stream(
        spec, "train", stream.folder, samples, stream.classes, stream.mean, stream.std
    )
    assert relabelled.sha256 != stream.sha256


# --- random views ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kinds",
    [
        RECIPE,
        ("flip", "resized-crop"),
        ("resized-crop", "crop4"),
        *[(kind,) for kind in augmentation.KINDS],
        (),
    ],
)
def test_random_views_are_torchvisions_under_the_examples_seed(
    stream: Stream, kinds: tuple[str, ...]
) -> None:
    examples = [(index, 100 + index) for index in range(6)]
    for (index, seed), image in zip(examples, views(stream, examples, kinds=kinds), strict=True):
        assert torch.equal(image, by_hand(stream, index, seed, kinds))


def test_a_view_depends_on_index_and_seed_alone(stream: Stream) -> None:
    examples = [(4, 8), (1, 2**63 - 1), (4, 9), (4, None), (0, 8), (4, 8)]
    together = views(stream, examples, size=6, kinds=RECIPE)
    apart = views(stream, examples[::-1], size=1, kinds=RECIPE)[::-1]
    assert all(map(torch.equal, together, apart))
    assert torch.equal(together[0], together[5])
    assert not torch.equal(together[0], together[2])
    assert torch.equal(together[3], views(stream, [(4, None)])[0])


def test_decoding_leaves_the_random_generators_of_others_alone(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    reseeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    before = torch.get_rng_state()
    assert views(stream, [(0, 1), (1, None)], kinds=RECIPE)
    assert torch.equal(torch.get_rng_state(), before)
    assert not reseeded


# --- workers ---------------------------------------------------------------------------------


def test_workers_change_nothing_and_end(
    stream: Stream, capfd: pytest.CaptureFixture[str], spec: str
) -> None:
    examples: list[tuple[int, int | None]] = [(index, index) for index in range(6)]
    examples[3] = (3, None)
    before = torch.get_rng_state()
    alone = views(stream, examples, kinds=RECIPE)
    shared = views(stream, examples, kinds=RECIPE, num_workers=2)
    assert all(map(torch.equal, alone, shared))
    assert torch.equal(torch.get_rng_state(), before)
    assert not multiprocessing.active_children()

    begun = stream.batches([[(0, None)]] * 10, num_workers=2)
    next(begun)
    assert len(multiprocessing.active_children()) == 2
    begun.close()
    assert not multiprocessing.active_children()

    begun = stream.batches([[(0, None)]] * 10, num_workers=1)
    next(begun)
    del begun
    assert not multiprocessing.active_children()
    assert capfd.readouterr() == ("", "")


def decode_until_killed(stream: Stream, workers: Connection) -> None:
    begun = stream.batches([[(0, None)]] * 100, num_workers=2)
    next(begun)
    workers.send([process.pid for process in multiprocessing.active_children()])
    time.sleep(600)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow  # a process of its own has a fork server of its own
def test_workers_end_when_their_process_is_killed(stream: Stream) -> None:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=decode_until_killed, args=(stream, theirs))
    process.start()
    with theirs:
        workers = ours.recv()
    assert len(workers) == 2
    assert all(map(is_running, workers))
    process.kill()
    process.join()
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ours.close()


@pytest.mark.slow
def test_a_lost_worker_is_told_once(stream: Stream, capfd: pytest.CaptureFixture[str]) -> None:
    begun = stream.batches([[(0, None)]] * 1000, num_workers=2)
    next(begun)
    for worker in multiprocessing.active_children():
        os.kill(worker.ident or 0, signal.SIGINT)  # as Ctrl-C does; it is for the parent to tell
    for _ in range(20):
        next(begun)
    multiprocessing.active_children()[0].kill()
    with pytest.raises(InputError, match="a process that decodes images is lost"):
        list(begun)
    assert not multiprocessing.active_children()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_named(tmp_path: Path, num_workers: int) -> None:
    spec = write_images(tmp_path)
    damaged = tmp_path / "cat" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    batches = streams.open_stream(spec, split="train").batches(
        [[(0, None)], [(1, 7)]], kinds=RECIPE, num_workers=num_workers
    )
    next(batches)
    message = refusal(lambda: next(batches))
    assert message.startswith(f"the image {damaged} cannot be read\n  got: ")
    assert "Traceback" not in message
    assert not multiprocessing.active_children()


def test_what_a_decoder_may_raise_on_damage_is_an_input_error(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert "DecompressionBomb" in refusal(lambda: views(stream, [(0, None)]))


# --- refusals --------------------------------------------------------------------------------


def test_only_folders_and_imagenet_are_streamed(spec: str) -> None:
    assert streams.is_streamed("imagenet")
    assert streams.is_streamed(spec)
    assert not any(map(streams.is_streamed, ("digits", *vision.ARRAYS, "a.npz", "a.b:c")))
    message = refusal(lambda: streams.open_stream("digits", split="train"))
    assert "imagenet, folder:DIR" in message


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    def act() -> Stream:
        return streams.open_stream(f"folder:{tmp_path / 'photos'}", split="train")

    assert "does not exist" in refusal(act)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    assert "holds no images" in refusal(act)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "unknown split"),
        ({"num_samples": 7}, "1 to 6"),
        ({"mean": (0.5,) * 3}, "go together"),
        ({"mean": (0.5,), "std": (1.0,)}, "do not fit"),
    ],
)
def test_unsound_options_are_refused(spec: str, options: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: streams.open_stream(spec, **{"split": "train", **options}))


def test_unknown_augmentations_are_refused_before_the_first_batch(stream: Stream) -> None:
    assert "did you mean flip" in refusal(lambda: stream.batches([], kinds=("flips",)))
