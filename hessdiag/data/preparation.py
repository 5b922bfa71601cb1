"""What loaded and streamed data share: the random subset, and the normalisation of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hessdiag import seeds
from hessdiag.data.sources import Statistics
from hessdiag.errors import InputError, unknown

SPLITS = ("train", "test")
IGNORED = -100  # label of what does not count, as in torch
AT_MOST = 512  # examples that are looked at where no number is asked for


def check_split(split: str) -> None:
    """Refuse a split that is not known.

    Raises:
        InputError: there is none of that name.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)


def select(available: int, wanted: int | None, seed: int) -> Tensor:
    """Choose the indices of a random subset without replacement, sorted.

    Args:
        available: number of examples.
        wanted: size of the subset; None for all.
        seed: seed of the choice.

    Returns:
        int64 (wanted,).

    Raises:
        InputError: there are no examples, or ``wanted`` is not in 1 to ``available``.
    """
    if available == 0:
        raise InputError("the data is empty")
    if wanted is None:
        return torch.arange(available)
    if not 1 <= wanted <= available:
        raise InputError(
            "the number of samples is out of range", got=wanted, wanted=f"1 to {available}"
        )
    generator = torch.Generator().manual_seed(seeds.stream(seed, "sample"))
    return torch.randperm(available, generator=generator)[:wanted].sort().values


def redraw(
    targets: Tensor,
    indices: Tensor,
    available: int,
    num_classes: int | None,
    share: float,
    seed: int,
) -> Tensor:
    """Give a share of the labels anew, uniformly over all classes, the right one among them.

    Which examples, and their new labels, depend on the seed and on their place in the split alone,
    whichever of them are chosen.

    Args:
        targets: labels of the chosen examples ``(n,)``.
        indices: their places in the split.
        available: examples in the split.
        num_classes: to draw from.
        share: chance of each example.
        seed: of both choices.

    Raises:
        InputError: the share is out of range, or the targets are no labels of known classes.
    """
    if not 0 <= share <= 1:
        raise InputError("`label_noise` is out of range", got=share, wanted="0 to 1")
    if share == 0:
        return targets
    if targets.is_floating_point() or targets.ndim != 1 or num_classes is None:
        got = f"{targets.dtype} of shape {tuple(targets.shape)}"
        raise InputError("`label_noise` needs labels of classes", got=got)
    generator = torch.Generator().manual_seed(seeds.stream(seed, "label noise"))
    chosen = torch.rand(available, generator=generator)[indices] < share
    drawn = torch.randint(num_classes, (available,), generator=generator)[indices]
    return torch.where(chosen & (targets != IGNORED), drawn.to(targets.dtype), targets)


def given_statistics(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Statistics | None:
    """Check the user's own mean and std of each channel; None where neither is given.

    Raises:
        InputError: one without the other, values that are not finite, or std not above 0.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise InputError("mean and std go together", got=f"mean {mean}, std {std}")
    if not all(map(math.isfinite, (*mean, *std))) or min(std, default=0) <= 0:
        raise InputError(
            "mean and std are out of range",
            got=f"mean {mean}, std {std}",
            wanted="finite numbers, and std above 0",
        )
    return tuple(mean), tuple(std)


def measure(images: Tensor, white: float) -> Statistics:
    """Compute every channel's mean and std exactly, from its histogram; a constant's std is 1.

    Args:
        images: uint8 (N, H, W[, C]).
        white: the value that means 1.
    """
    channels = images.unsqueeze(-1) if images.ndim == 3 else images
    levels = torch.arange(256, dtype=torch.float64) / white
    means: list[float] = []
    stds: list[float] = []
    for channel in channels.unbind(-1):
        weights = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = float((weights * levels).sum())
        std = float((weights * (levels - mean) ** 2).sum().sqrt())
        means.append(mean)
        stds.append(std or 1.0)
    return tuple(means), tuple(stds)


def normalise(images: Tensor, statistics: Statistics | None, white: float) -> Tensor:
    """Turn images into (x / white - mean) / std; floating images are not divided by white.

    Args:
        images: uint8 (N, H, W[, C]) or floating (N, C, H, W); may be overwritten.
        statistics: mean and std of each channel; None leaves images in [0, 1] as they are.
        white: the value that means 1 in uint8 images.

    Returns:
        float32 (N, C, H, W).

    Raises:
        InputError: the statistics are of another number of channels.
    """
    if images.dtype == torch.uint8:
        channels = images.unsqueeze(-1) if images.ndim == 3 else images
        images = channels.movedim(-1, 1).to(torch.float32).contiguous().div_(white)
    images = images.to(torch.float32)
    if statistics is None:
        return images
    check_channels(statistics, images.shape[1])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in statistics)
    return images.sub_(mean).div_(std)


def check_channels(statistics: Statistics, num_channels: int) -> None:
    """Check that there are a mean and a std for each channel.

    Raises:
        InputError: there are more or fewer.
    """
    mean, std = statistics
    if not len(mean) == len(std) == num_channels:
        raise InputError(
            "mean and std do not fit the images",
            got=f"{len(mean)} and {len(std)} values",
            wanted=f"{num_channels}, one for each channel",
        )
