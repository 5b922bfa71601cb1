"""Where a run's examples come from, batch by batch: memory, or files decoded as they are needed."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hessdiag.data.datasets import Dataset
from hessdiag.data.streams import Stream
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.seeds import stream
from hessdiag.training.augmentation import augment

Data = Dataset | Stream


@dataclass(frozen=True)
class Batch:
    """This process's share of a batch, on the device.

    Attributes:
        x: inputs ``(n, …)``.
        y: labels ``(n,)``.
        size: N, examples in the whole batch.
        first: index in it of the first one here.
    """

    x: Tensor
    y: Tensor
    size: int
    first: int


class Feed(Protocol):
    """Gives batches of examples."""

    def batches(self, chosen: Sequence[Tensor], step: int | None) -> Generator[Batch]:
        """Give the batches of the examples ``chosen``, each a tensor of indices.

        Args:
            chosen: indices of each whole batch.
            step: that of the first of them, which with the seed determines the augmentation; None
                for no augmentation.
        """
        ...


class MemoryFeed:
    """Examples that lie on the device and are augmented there.

    Args:
        data: the examples.
        device: where they are to lie.
        kinds: of augmentation.
        seed: of the run.
    """

    def __init__(
        self, data: Dataset, device: torch.device, kinds: Sequence[str] = (), seed: int = 0
    ) -> None:
        self.inputs, self.targets = data.inputs.to(device), data.targets.to(device)
        self.kinds, self.seed = kinds, seed

    def batches(self, chosen: Sequence[Tensor], step: int | None) -> Generator[Batch]:
        """See :class:`Feed`."""
        for number, index in enumerate(chosen):
            share = processes.share(len(index))
            here = index.to(self.targets.device)
            if self.kinds and step is not None:  # the draws are those of the whole batch
                generator = torch.Generator(here.device)
                generator.manual_seed(stream(self.seed, "augmentation", step + number))
                x = augment(self.inputs[here], self.kinds, generator)[share]
            else:
                x = self.inputs[here[share]]
            yield Batch(x, self.targets[here[share]], len(index), share.start)


class StreamFeed:
    """Images decoded, and augmented, as they are needed.

    Args:
        data: the images.
        device: where the batches go.
        kinds: of augmentation.
        seed: of the run.
        num_workers: processes that decode.
    """

    def __init__(
        self,
        data: Stream,
        device: torch.device,
        kinds: Sequence[str] = (),
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        self.data, self.device, self.kinds, self.seed = data, device, kinds, seed
        self.num_workers = num_workers

    def batches(self, chosen: Sequence[Tensor], step: int | None) -> Generator[Batch]:
        """See :class:`Feed`."""

        def examples() -> Iterable[list[tuple[int, int | None]]]:
            for number, index in enumerate(chosen):
                share = processes.share(len(index))
                seed = 0 if step is None else stream(self.seed, "augmentation", step + number)
                yield [
                    (int(index[at]), None if step is None else seed + at)
                    for at in range(share.start, share.stop)
                ]

        pin = self.device.type == "cuda"
        decoded = self.data.batches(
            examples(), kinds=self.kinds, num_workers=self.num_workers, pin=pin
        )
        for index, (x, y) in zip(chosen, decoded, strict=True):
            x, y = x.to(self.device, non_blocking=pin), y.to(self.device, non_blocking=pin)
            yield Batch(x, y, len(index), processes.share(len(index)).start)


def make_feed(
    data: Data,
    device: torch.device,
    kinds: Sequence[str] = (),
    seed: int = 0,
    num_workers: int = 0,
) -> Feed:
    """Make the feed that goes with the data."""
    if isinstance(data, Stream):
        return StreamFeed(data, device, kinds, seed, num_workers)
    return MemoryFeed(data, device, kinds, seed)


def examples(data: Data, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Take examples by their indices, all in this process, without augmentation."""
    if isinstance(data, Stream):
        return next(data.batches([[(index, None) for index in chosen.tolist()]]))
    return data.inputs[chosen], data.targets[chosen]


def hold_out(size: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose the examples to train on and those held out, as indices.

    Raises:
        InputError: fewer than two are left to train on.
    """
    held_out = round(share * size)
    if size - held_out < 2:
        raise InputError(
            "training needs at least two examples",
            got=f"{size - held_out} of {size}, as a share of {share:g} is held out",
        )
    generator = torch.Generator().manual_seed(stream(seed, "validation"))
    order = torch.randperm(size, generator=generator) if held_out else torch.arange(size)
    return order[held_out:], order[:held_out]


def shuffled(indices: Tensor, batch_size: int, order: torch.Generator) -> list[Tensor]:
    """Shuffle indices into batches; a last batch of one is left out, as BatchNorm needs two."""
    batches = indices[torch.randperm(len(indices), generator=order)].split(batch_size)
    return [batch for batch in batches if len(batch) > 1]
