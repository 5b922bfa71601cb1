"""Images of ImageNet or a folder for training, decoded as they are needed."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hessdiag.data import preparation, vision
from hessdiag.data.sources import Statistics, reason
from hessdiag.errors import InputError, unknown

_Example = tuple[str, int, int | None]  # path, label, seed of the random view


@dataclass(frozen=True, eq=False)
class Stream:
    """Selected images of a split, decoded as they are needed.

    Attributes:
        spec: the ``--data`` value they come from.
        split: ``train`` or ``test``.
        folder: folder of the class folders.
        samples: path and label of each image.
        classes: names of the classes.
        mean: per-channel mean that is subtracted from images in [0, 1].
        std: per-channel divisor, likewise.
    """

    spec: str
    split: str
    folder: str
    samples: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_samples(self) -> int:
        """Number of images."""
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one decoded image."""
        return (3, vision.SIZE, vision.SIZE)

    @functools.cached_property
    def targets(self) -> Tensor:
        """Labels, int64 (N,)."""
        return torch.tensor([label for _, label in self.samples])

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of each image's file name within the folder, size and label; not of its pixels.

        Hashing the pixels would read all of ImageNet before the first step.
        """
        digest = hashlib.sha256()
        root = os.path.join(self.folder, "")
        for path, label in self.samples:
            name = path.removeprefix(root)
            digest.update(f"{name}\0{os.path.getsize(path)}\0{label}\0".encode())
        return digest.hexdigest()

    def batches(
        self,
        batches: Iterable[Sequence[tuple[int, int | None]]],
        *,
        kinds: Sequence[str] = (),
        num_workers: int = 0,
        pin: bool = False,
    ) -> Generator[tuple[Tensor, Tensor]]:
        """Decode batches of examples, in order.

        An example's view is a function of its index and seed alone: neither the number of workers
        nor the batch around it matters, so a run can go on from any batch. Workers end with the
        generator, be it exhausted, closed, dropped or stopped by an error.

        Cost: one decoding an example; each worker holds up to three batches.

        Args:
            batches: (index, seed) of each example of each batch; the seed is that of the example's
                random view, or None for ImageNet's evaluation view (256, centre 224).
            kinds: what random views are made of, in this order: "resized-crop" (8% to 100% of the
                area, 3:4 to 4:3, to 224 × 224), "flip" (with probability ½), "crop4" (padded by 4
                pixels of its reflection). Without "resized-crop" they begin with evaluation's view.
            num_workers: processes that decode; 0 decodes in this one.
            pin: whether the tensors lie in pinned memory, for copies to a GPU beside its work.

        Returns:
            Inputs, normalised float32 (n, 3, 224, 224), and targets, int64 (n,), of each batch.

        Raises:
            InputError: an unknown kind; while iterating: an image that is damaged.

        Source:
            Szegedy et al., "Going deeper with convolutions" (2015), section 6, for resized crops.
        """
        decoder = _Decoder(kinds, (self.mean, self.std))
        examples = ([(*self.samples[index], seed) for index, seed in batch] for batch in batches)
        # forks of a process with threads or a GPU may hang: workers are forked from a fresh one,
        # which imports what they need once
        multiprocessing.set_forkserver_preload([__name__, "torchvision.transforms.v2"])
        loader = DataLoader(
            decoder,
            batch_size=None,  # as the sampler's items are batches
            sampler=examples,
            num_workers=num_workers,
            pin_memory=pin,
            multiprocessing_context="forkserver" if num_workers else None,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # it would advance the global one
        )
        return _raising(loader)


def open_stream(
    spec: str,
    *,
    split: str,
    num_samples: int | None = None,
    seed: int = 0,
    root: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    label_noise: float = 0.0,
) -> Stream:
    """Find the images that ``spec`` names, without decoding any.

    Args:
        spec: ``imagenet`` or ``folder:DIR``.
        split: ``train`` or ``test``.
        num_samples: size of a random subset, the one that ``datasets.load`` takes; None for all.
        seed: seed of that subset.
        root: where ImageNet lies; default ``$HESSDIAG_DATA``, else ``data``.
        mean: per-channel mean of images in [0, 1]; default ImageNet's.
        std: per-channel divisor, likewise; both or neither.
        label_noise: share of the labels that are drawn anew, by ``seed``.

    Raises:
        InputError: data that is unknown or missing; more samples wanted than there are; mean and
            std that do not fit.
    """
    preparation.check_split(split)
    found = vision.find(spec, split, root)
    statistics = preparation.given_statistics(mean, std) or vision.IMAGENET_STATISTICS
    preparation.check_channels(statistics, 3)
    chosen = preparation.select(len(found.samples), num_samples, seed)
    samples = tuple(found.samples[index] for index in chosen.tolist())
    if label_noise:
        labels = torch.tensor([label for _, label in samples])
        sizes = len(found.samples), len(found.classes)
        labels = preparation.redraw(labels, chosen, *sizes, label_noise, seed).tolist()
        samples = tuple((path, label) for (path, _), label in zip(samples, labels, strict=True))
    return Stream(spec, split, found.path, samples, found.classes, *statistics)


def is_streamed(spec: str) -> bool:
    """Tell whether ``spec`` names images that can be streamed."""
    return spec == "imagenet" or spec.startswith("folder:")


class _Decoder(Dataset[tuple[Tensor, Tensor] | InputError]):
    """From the examples of a batch to its tensors, in any process."""

    def __init__(self, kinds: Sequence[str], statistics: Statistics) -> None:
        self.random_view, self.statistics = _random_view(kinds), statistics
        self.evaluation_view = vision.evaluation_view()

    def __getitem__(self, index: Sequence[_Example]) -> tuple[Tensor, Tensor] | InputError:
        images = torch.empty(len(index), vision.SIZE, vision.SIZE, 3, dtype=torch.uint8)
        try:
            for image, (path, _, seed) in zip(images, index, strict=True):
                image.copy_(self._decode(path, seed))
        except InputError as error:
            return error  # raised by a worker, it would reach the user as text with a traceback
        labels = torch.tensor([label for _, label, _ in index], dtype=torch.int64)
        return preparation.normalise(images, self.statistics, 255.0), labels

    def _decode(self, path: str, seed: int | None) -> Tensor:
        if seed is None:
            return vision.decode(path, self.evaluation_view)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(seed)  # of the CPU only, GPUs keep theirs
            return vision.decode(path, self.random_view)


def _random_view(kinds: Sequence[str]) -> Callable[[Any], Any]:
    from torchvision.transforms import v2

    views: dict[str, Callable[[Any], Any]] = {
        "flip": v2.RandomHorizontalFlip(),
        "crop4": v2.RandomCrop(vision.SIZE, padding=4, padding_mode="reflect"),
        "resized-crop": v2.RandomResizedCrop(vision.SIZE),
    }
    for kind in kinds:
        if kind not in views:
            raise unknown("augmentation", kind, views)
    first = [] if "resized-crop" in kinds else [vision.evaluation_view()]
    return v2.Compose([*first, *(views[kind] for kind in kinds)])


def _end_with_parent(_: int) -> None:
    """End this worker if its process is killed; torch watches the fork server, which lives on."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _begun(loader: DataLoader[Any]) -> Iterable[Any]:
    """Start the workers without SIGINT, which a terminal sends to all; this process tells of it."""
    if not loader.num_workers:
        return loader
    resource_tracker.ensure_running()  # which lets SIGINT through when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raising(loader: DataLoader[Any]) -> Generator[tuple[Tensor, Tensor]]:
    try:
        for found in _begun(loader):
            if isinstance(found, InputError):
                raise found
            x, y = found
            yield x, y
    except (RuntimeError, OSError, EOFError) as error:
        if not loader.num_workers:
            raise
        raise InputError(
            "a process that decodes images is lost",
            got=reason(error),
            hint="memory may have run out: try fewer `workers`",
        ) from error
