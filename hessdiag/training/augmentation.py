"""Random flips and crops of a batch of images that lies on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hessdiag.errors import InputError, unknown

PADDING = 4
KINDS = ("flip", "crop4", "resized-crop")


def augment(images: Tensor, kinds: Sequence[str], generator: torch.Generator) -> Tensor:
    """Flip each image with probability ½, and crop it at random from its reflected surroundings.

    Each image has its own draws, whatever the others are. A crop starts at an offset uniform over
    {0, …, 8}² in the image padded by 4 pixels of its reflection, so it keeps its size; as padding
    reflects, it commutes with normalisation. Nothing is padded in memory: flips and crops are one
    index into the images.

    Args:
        images: (N, C, H, W), of any dtype, on any device; they are not changed.
        kinds: of "flip" and "crop4", in the order of their draws; none returns ``images``.
        generator: of the draws, on any device; its state alone determines them.

    Returns:
        New images, of the same shape, dtype and device.

    Raises:
        InputError: an unknown kind; "resized-crop", which needs the images as they were stored;
            inputs that are no images, or too small to be reflected.

    Source:
        Zagoruyko & Komodakis, "Wide Residual Networks" (2016), section 3.
    """
    check(kinds)
    if not kinds:
        return images
    if "resized-crop" in kinds:
        raise InputError(
            "resized crops belong to data that is streamed, such as imagenet or folder:DIR",
            got="images that are all in memory, at their final size",
            wanted='"flip" and "crop4"',
        )
    if images.ndim != 4:
        raise InputError(
            "only images can be augmented",
            got=f"inputs of shape {tuple(images.shape[1:])}",
            wanted="(channels, height, width)",
            hint="train without augmentation",
        )
    num_images, num_channels, height, width = images.shape
    if "crop4" in kinds and min(height, width) <= PADDING:
        raise InputError(
            f"the images are too small to be padded by {PADDING} pixels of their reflection",
            got=f"{height} × {width}",
            wanted=f"sides above {PADDING}",
        )
    rows = torch.arange(height, device=images.device).expand(num_images, -1)
    columns = torch.arange(width, device=images.device).expand(num_images, -1)

    def draw(high: int) -> Tensor:
        drawn = torch.randint(high, (num_images, 1), generator=generator, device=generator.device)
        return drawn.to(images.device)

    for kind in kinds:  # each maps where a pixel goes to where it comes from
        if kind == "flip":
            columns = torch.where(draw(2).bool(), columns.flip(1), columns)
        else:
            rows = rows.gather(1, _crop(draw(2 * PADDING + 1), height))
            columns = columns.gather(1, _crop(draw(2 * PADDING + 1), width))
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    index = index[:, None, :].expand(-1, num_channels, -1)
    return images.flatten(2).gather(2, index).view(images.shape)


def check(kinds: Sequence[str]) -> None:
    """Refuse augmentations that are not known.

    Raises:
        InputError: there is none of that name.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("augmentation", kind, KINDS)


def _crop(offset: Tensor, size: int) -> Tensor:
    """Turn offsets (N, 1) in the padded image into positions (N, size) in the image itself."""
    position = (torch.arange(size, device=offset.device) + offset - PADDING).abs()
    return (size - 1) - (size - 1 - position).abs()
