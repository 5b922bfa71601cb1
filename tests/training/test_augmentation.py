"""Flips and crops against torch's own padding, and their distribution."""

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hessdiag.errors import InputError
from hessdiag.training.augmentation import augment

OFFSETS = range(9)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def variants(image: Tensor) -> dict[tuple[bool, int, int], Tensor]:
    """Every crop and flip of an image (C, H, W), by padding it."""
    _, height, width = image.shape
    found: dict[tuple[bool, int, int], Tensor] = {}
    for flip in (False, True):
        base = image.flip(-1) if flip else image
        padded = F.pad(base[None].double(), (4, 4, 4, 4), mode="reflect")[0].to(image.dtype)
        for top, left in itertools.product(OFFSETS, OFFSETS):
            found[flip, top, left] = padded[:, top : top + height, left : left + width]
    return found


def picture(num: int, channels: int = 1, seed: int = 0) -> Tensor:
    """Images wide enough for their 162 variants to differ: narrow ones flip by reflection alone."""
    return torch.randn(num, channels, 6, 11, generator=seeded(seed))


def choices(images: Tensor, outputs: Tensor) -> list[tuple[bool, int, int]]:
    """Which variant of its input each output is; fails where it is none, or more than one."""
    known: dict[bytes, dict[bytes, tuple[bool, int, int]]] = {}
    found: list[tuple[bool, int, int]] = []
    for image, output in zip(images, outputs, strict=True):
        key = image.numpy().tobytes()
        if key not in known:  # seldom: many tests repeat one image
            made = variants(image)
            known[key] = {v.contiguous().numpy().tobytes(): name for name, v in made.items()}
            assert len(known[key]) == 2 * 81
        found.append(known[key][output.contiguous().numpy().tobytes()])
    return found


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 5), (2, 6, 11), (3, 32, 32)], ids=str)
def test_every_output_is_a_crop_or_flip_of_its_own_input(shape: tuple[int, ...]):
    images = torch.randn(60, *shape, generator=seeded())
    for image, output in zip(images, augment(images, ("flip", "crop4"), seeded(1)), strict=True):
        assert any(torch.equal(output, variant) for variant in variants(image).values())


@pytest.mark.parametrize("kinds", [("flip", "crop4"), ("crop4", "flip")], ids=str)
def test_all_crops_and_flips_are_equally_likely(kinds: tuple[str, ...]):
    num = 16200
    images = picture(1).expand(num, -1, -1, -1)
    counts = Counter(choices(images, augment(images, kinds, seeded(2))))
    assert len(counts) == 2 * 81
    p = 1 / 162
    limit = 4 * (num * p * (1 - p)) ** 0.5
    assert all(abs(count - num * p) < limit for count in counts.values())
    chi2 = sum((count - num * p) ** 2 / (num * p) for count in counts.values())
    assert abs(chi2 - 161) < 4 * (2 * 161) ** 0.5
    for part, size in ((0, 2), (1, 9), (2, 9)):
        margin = Counter(name[part] for name in counts.elements())
        error = (num / size * (1 - 1 / size)) ** 0.5
        assert all(abs(count - num / size) < 4 * error for count in margin.values())


def test_the_images_of_a_batch_draw_independently():
    """Neighbours agree as often as chance has it, in each choice and in all."""
    images = picture(1).expand(8100, -1, -1, -1)
    found = choices(images, augment(images, ("flip", "crop4"), seeded(3)))
    pairs = list(itertools.pairwise(found))
    for part, p in ((0, 1 / 2), (1, 1 / 9), (2, 1 / 9)):
        equal = sum(a[part] == b[part] for a, b in pairs)
        assert abs(equal - p * len(pairs)) < 4 * (len(pairs) * p * (1 - p)) ** 0.5
    for one, other, p in ((0, 1, 1 / 18), (1, 2, 1 / 81)):  # nor do the choices for one image
        both = sum(name[one] == 1 and name[other] == 1 for name in found)
        assert abs(both - p * len(found)) < 4 * (len(found) * p * (1 - p)) ** 0.5


def test_one_kind_alone():
    images = picture(50, 2)
    flips = choices(images, augment(images, ("flip",), seeded()))
    assert {name[1:] for name in flips} == {(4, 4)}
    assert {name[0] for name in flips} == {False, True}
    crops = choices(images, augment(images, ("crop4",), seeded()))
    assert {name[0] for name in crops} == {False}


def test_all_channels_move_together():
    image = torch.randn(40, 1, 8, 8, generator=seeded())
    output = augment(image.expand(-1, 3, -1, -1), ("flip", "crop4"), seeded())
    assert torch.equal(output, output[:, :1].expand(-1, 3, -1, -1))


def test_the_generator_alone_decides():
    images = torch.randn(30, 1, 8, 8, generator=seeded())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment(images, ("flip", "crop4"), seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, augment(images, ("flip", "crop4"), seeded(5)))
    assert not torch.equal(first, augment(images, ("flip", "crop4"), seeded(6)))
    generator = seeded(5)
    augment(images, ("flip", "crop4"), generator)
    assert not torch.equal(first, augment(images, ("flip", "crop4"), generator))


def test_the_values_do_not_sway_the_draws():
    kinds = ("flip", "crop4")
    drawn = [choices(x, augment(x, kinds, seeded(7))) for x in (picture(30), picture(30, seed=1))]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("kinds", [("flip",), ("crop4",), ("flip", "crop4"), ()], ids=str)
def test_the_input_stays_as_it_is(kinds: tuple[str, ...]):
    images = torch.randn(20, 3, 8, 8, generator=seeded())
    before = images.clone()
    output = augment(images, kinds, seeded())
    if kinds:
        output.zero_()
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.bfloat16], ids=str)
def test_dtype_and_shape_are_kept(dtype: torch.dtype):
    images = (255 * torch.rand(10, 3, 9, 8, generator=seeded())).to(dtype)
    output = augment(images, ("flip", "crop4"), seeded())
    assert (output.dtype, output.shape, output.device) == (dtype, images.shape, images.device)
    assert augment(images[:0], ("flip", "crop4"), seeded()).shape == (0, 3, 9, 8)


def test_any_layout_in_memory():
    images = torch.randn(10, 3, 8, 8, generator=seeded())
    strange = images.to(memory_format=torch.channels_last)
    wanted = augment(images, ("flip", "crop4"), seeded(1))
    assert torch.equal(augment(strange, ("flip", "crop4"), seeded(1)), wanted)


def test_augmentation_commutes_with_normalisation():
    images = torch.randn(10, 3, 8, 8, generator=seeded(), dtype=torch.float64)
    before = augment((images - 0.4) / 0.2, ("flip", "crop4"), seeded(1))
    assert torch.equal(before, (augment(images, ("flip", "crop4"), seeded(1)) - 0.4) / 0.2)


@pytest.mark.gpu
def test_a_device_sees_what_the_cpu_sees(accelerator: torch.device):
    images = torch.randn(100, 3, 32, 32, generator=seeded())
    wanted = augment(images, ("flip", "crop4"), seeded(1))
    output = augment(images.to(accelerator), ("flip", "crop4"), seeded(1))
    assert output.device.type == accelerator.type
    assert torch.equal(output.cpu(), wanted)
    there = torch.Generator(accelerator).manual_seed(1)
    choices(images, augment(images.to(accelerator), ("flip", "crop4"), there).cpu())


def test_what_cannot_be_augmented_is_refused():
    images = torch.randn(4, 3, 8, 8)
    with pytest.raises(InputError, match=r"(?s)unknown augmentation.*did you mean crop4"):
        augment(images, ("crop",), seeded())
    with pytest.raises(InputError, match="resized crops belong to data that is streamed"):
        augment(images, ("resized-crop", "flip"), seeded())
    with pytest.raises(InputError, match=r"(?s)only images can be augmented.*\(64,\)"):
        augment(torch.randn(4, 64), ("flip",), seeded())
    with pytest.raises(InputError, match=r"(?s)too small.*4 × 8.*above 4"):
        augment(images[:, :, :4], ("crop4",), seeded())
    assert augment(images[:, :, :4], ("flip",), seeded()).shape == (4, 3, 4, 8)
