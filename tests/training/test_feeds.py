"""Where a run's examples come from: memory or a stream of files, in batches and shares of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hessdiag.data import datasets
from hessdiag.data.datasets import Dataset
from hessdiag.data.streams import Stream
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.nets import checkpoints
from hessdiag.seeds import stream as named
from hessdiag.training import feeds, folder, loop, recipes, state
from hessdiag.training.augmentation import augment
from hessdiag.training.feeds import Batch, MemoryFeed, StreamFeed, hold_out, make_feed, shuffled
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch, Standing

CPU = torch.device("cpu")
KINDS = ("resized-crop", "flip")
RECIPE = replace(
    recipes.find("digits-wrn10-1"),
    model="tests.training.test_feeds:small",
    activation=None,
    epochs=2,
    batch_size=6,
    lr=0.05,
    augmentation=KINDS,
    mean=None,
    std=None,
)
RESULTS = (folder.LAST, folder.BEST, folder.METRICS)


def small() -> nn.Module:
    """Make a network of few weights that takes ImageNet's images."""
    return nn.Sequential(
        nn.AvgPool2d(56), nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.GELU(),
        nn.Linear(8, 2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write dark cats and bright dogs, twenty to train on and eight to test on."""
    place = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for split, number in (("train", 10), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (place / split / name).mkdir(parents=True)
            for index in range(number):
                pixels = noise.integers(0, 160, (24, 28, 3)) + 60 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / split / name / f"{index}.png")
    return f"folder:{place}"


def config(images: str, **changes: Any) -> Config:
    return Config(replace(RECIPE, data=images, **changes), save_every=1)


def sets(images: str) -> tuple[Stream, Stream]:
    data, test = loop.load_data(config(images))
    assert isinstance(data, Stream)
    assert isinstance(test, Stream)
    return data, test


@pytest.fixture
def data(images: str) -> Stream:
    return sets(images)[0]


def digits(size: int = 9) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(size, 1, 8, 8, generator=generator)
    return Dataset("made up", "train", inputs, torch.arange(size) % 3, 3)


def equal(left: list[Batch], right: list[Batch]) -> bool:
    return all(
        torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and (a.size, a.first) == (b.size, b.first)
        for a, b in zip(left, right, strict=True)
    )


# --- batches -----------------------------------------------------------------------------------


def test_memory_gives_the_examples_chosen() -> None:
    data, chosen = digits(), [torch.tensor([4, 0, 7]), torch.tensor([8, 2])]
    wanted = [Batch(data.inputs[index], data.targets[index], len(index), 0) for index in chosen]
    plain = make_feed(data, CPU)
    assert isinstance(plain, MemoryFeed)
    assert equal([*plain.batches(chosen, 3)], wanted)
    assert equal([*make_feed(data, CPU, ("crop4",)).batches(chosen, None)], wanted)


def test_augmentation_in_memory_is_that_of_seed_and_step() -> None:
    data, chosen = digits(), [torch.tensor([4, 0, 7]), torch.tensor([8, 2])]
    found = [*MemoryFeed(data, CPU, ("flip", "crop4"), seed=5).batches(chosen, 3)]
    for step, (index, batch) in enumerate(zip(chosen, found, strict=True), 3):
        generator = torch.Generator().manual_seed(named(5, "augmentation", step))
        assert torch.equal(batch.x, augment(data.inputs[index], ("flip", "crop4"), generator))
        assert torch.equal(batch.y, data.targets[index])


def test_a_stream_gives_the_views_of_seed_step_and_place(data: Stream) -> None:
    chosen = [torch.tensor([4, 0, 17]), torch.tensor([19, 2])]
    feed = make_feed(data, CPU, KINDS, seed=5)
    assert isinstance(feed, StreamFeed)
    found = [*feed.batches(chosen, 3)]
    seeds = [named(5, "augmentation", step) for step in (3, 4)]
    examples = [
        [(index, seed + at) for at, index in enumerate(batch.tolist())]
        for seed, batch in zip(seeds, chosen, strict=True)
    ]
    wanted = [Batch(x, y, len(y), 0) for x, y in data.batches(examples, kinds=KINDS)]
    assert equal(found, wanted)
    assert equal([*feed.batches(chosen[1:], 4)], wanted[1:])  # as after a stop


def test_without_a_step_a_stream_gives_the_images_that_are_loaded(
    data: Stream, images: str
) -> None:
    loaded = datasets.load(images)
    index = torch.tensor([3, 12, 0])
    (batch,) = make_feed(data, CPU, KINDS).batches([index], None)
    x, y = feeds.examples(data, index)
    assert torch.equal(batch.x, x)
    assert torch.equal(x, loaded.inputs[index])
    assert torch.equal(batch.y, y)
    assert torch.equal(y, loaded.targets[index])
    assert all(map(torch.equal, feeds.examples(loaded, index), (x, y)))


@pytest.mark.parametrize("share", [slice(0, 2), slice(2, 5), slice(5, 5)], ids=str)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_share_is_part_of_the_whole_batch(
    data: Stream, monkeypatch: pytest.MonkeyPatch, share: slice, streamed: bool
) -> None:
    """Even of a batch with fewer examples than processes, of which some have none."""
    kinds = KINDS if streamed else ("flip", "crop4")
    feed, chosen = make_feed(data if streamed else digits(), CPU, kinds), [torch.arange(5)]
    for step in (7, None):
        (whole,) = feed.batches(chosen, step)
        with monkeypatch.context() as patch:
            patch.setattr(processes, "share", lambda _: share)
            (part,) = feed.batches(chosen, step)
        assert (part.size, part.first) == (5, share.start)
        assert torch.equal(part.x, whole.x[share])
        assert torch.equal(part.y, whole.y[share])


# --- indices -----------------------------------------------------------------------------------


def test_examples_held_out_are_drawn_by_the_seed() -> None:
    training, held_out = hold_out(40, 0.25, 7)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(named(7, "validation")))
    assert torch.equal(held_out, order[:10])
    assert torch.equal(training, order[10:])
    assert not torch.equal(hold_out(40, 0.25, 8)[1], held_out)


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_no_share_leaves_all_to_train_on(share: float) -> None:
    training, held_out = hold_out(40, share, 7)
    assert training.tolist() == [*range(40)]
    assert len(held_out) == 0


@pytest.mark.parametrize(("size", "share"), [(1, 0.0), (4, 0.75), (3, 0.9)])
def test_too_few_to_train_on_are_refused(size: int, share: float) -> None:
    with pytest.raises(InputError, match=r"(?s)at least two examples.*is held out"):
        hold_out(size, share, 0)


@pytest.mark.parametrize(
    ("size", "wanted"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2]), (2, [2]), (1, [])]
)
def test_all_but_a_last_single_example_are_in_the_batches(size: int, wanted: list[int]) -> None:
    indices, order = 100 + torch.arange(size), torch.Generator().manual_seed(3)
    batches = shuffled(indices, 4, order)
    assert [len(batch) for batch in batches] == wanted
    permutation = torch.randperm(size, generator=torch.Generator().manual_seed(3))
    assert [i for batch in batches for i in batch] == (100 + permutation).tolist()[: sum(wanted)]
    again = shuffled(torch.arange(50), 50, order)
    assert not torch.equal(again[0], shuffled(torch.arange(50), 50, order)[0])


# --- runs on streams ---------------------------------------------------------------------------


class Stopped(BaseException):
    """Raised in the middle of a run."""


def stop_at(step: int) -> Callable[[Standing], None]:
    def on_step(now: Standing) -> None:
        if now.step == step:
            raise Stopped

    return on_step


def start(out: Path, given: Config, **options: Any) -> dict[str, bytes]:
    out.mkdir(exist_ok=True)
    loop.train(given, *sets(given.recipe.data), out=out, **options)
    return {name: (out / name).read_bytes() for name in RESULTS}


def test_a_streamed_run_is_the_same_with_workers_and_after_a_stop(
    tmp_path: Path, images: str
) -> None:
    given = config(images)
    epochs: list[Epoch] = []
    whole = start(tmp_path / "whole", given, on_epoch=epochs.append)
    assert [epoch.step for epoch in epochs] == [4, 8]
    assert epochs[-1].train_loss < epochs[0].train_loss
    for stop, (before, after) in ((3, (2, 0)), (6, (0, 2))):  # both in mid-epoch
        parts = tmp_path / str(stop)
        with pytest.raises(Stopped):
            start(parts, given, num_workers=before, on_step=stop_at(stop))
        payload, remark = state.load(parts)
        assert payload is not None
        assert (payload["step"], remark) == (stop - 1, None)
        assert start(parts, given, payload=payload, num_workers=after) == whole


def test_accuracies_of_a_streamed_run_are_those_of_plain_images(
    tmp_path: Path, images: str
) -> None:
    given = config(images, validation=0.5)
    epochs: list[Epoch] = []
    start(tmp_path / "run", given, on_epoch=epochs.append)
    model = small()
    checkpoints.load_into(model, checkpoints.read(tmp_path / "run" / folder.LAST))
    loaded, test = datasets.load(images), datasets.load(images, split="test")
    _, held_out = hold_out(20, 0.5, 0)

    def accuracy(x: Tensor, y: Tensor) -> float:
        return float((model.eval()(x).argmax(1) == y).double().mean())

    found = accuracy(loaded.inputs[held_out], loaded.targets[held_out])
    assert epochs[-1].validation_accuracy == pytest.approx(found)
    assert epochs[-1].test_accuracy == pytest.approx(accuracy(test.inputs, test.targets))


def test_what_is_held_out_is_not_augmented(
    tmp_path: Path, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int | None]] = []
    real = StreamFeed.batches

    def note(feed: StreamFeed, chosen: Any, step: int | None) -> Any:
        calls.append((sum(map(len, chosen)), step))
        return real(feed, chosen, step)

    monkeypatch.setattr(StreamFeed, "batches", note)
    start(tmp_path / "run", config(images, validation=0.25, epochs=1))
    assert calls == [(15, 0), (5, None), (8, None)]  # trained on, held out, tested on


def test_splits_of_different_classes_are_refused(tmp_path: Path) -> None:
    for split, names in (("train", ("cat", "dog")), ("test", ("cat", "owl"))):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    with pytest.raises(InputError, match=r"has classes that .* has not"):
        loop.load_data(config(f"folder:{tmp_path}"))


def test_a_folder_without_splits_has_nothing_to_test_on(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    data, test = loop.load_data(config(f"folder:{tmp_path}"))
    assert data.num_samples == 2
    assert test is None
