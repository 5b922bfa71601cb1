"""Layouts: every entry has one place, and views stay views."""

import pytest
import torch
from torch import Tensor

from hessdiag.linalg.vectors import Layout
from tests.linalg.matrices import normal

CASES: dict[str, dict[str, Tensor]] = {
    "one": {"weight": normal(3, 2)},
    "several": {"conv": normal(4, 2, 3, 3), "bias": normal(4), "fc": normal(2, 5)},
    "with a scalar": {"scale": normal(), "weight": normal(3)},
    "with an empty one": {"none": normal(0, 3), "weight": normal(2, 2), "last": normal(1)},
    "none at all": {},
}
each_case = pytest.mark.parametrize("tensors", CASES.values(), ids=CASES)
some = pytest.mark.parametrize(
    "tensors", [t for t in CASES.values() if t], ids=filter(CASES.get, CASES)
)


@each_case
def test_the_slices_tile_the_vector_in_order(tensors: dict[str, Tensor]) -> None:
    layout = Layout.of(tensors)
    places = [i for at in layout.slices.values() for i in range(layout.size)[at]]
    assert places == list(range(layout.size))
    assert list(layout.slices) == list(layout.names) == list(tensors)
    assert layout.size == sum(layout.sizes) == sum(tensor.numel() for tensor in tensors.values())


@some
def test_each_slice_holds_its_tensor(tensors: dict[str, Tensor]) -> None:
    layout = Layout.of(tensors)
    vector = layout.flatten(list(tensors.values()))
    assert vector.shape == (layout.size,)
    for name, tensor in tensors.items():
        assert torch.equal(vector[layout.slices[name]], tensor.reshape(-1))


@some
def test_unflatten_undoes_flatten(tensors: dict[str, Tensor]) -> None:
    layout = Layout.of(tensors)
    parts = layout.unflatten(layout.flatten(list(tensors.values())))
    assert [part.shape for part in parts] == [tensor.shape for tensor in tensors.values()]
    assert all(map(torch.equal, parts, tensors.values()))


def test_unflatten_copies_nothing() -> None:
    layout = Layout.of(CASES["several"])
    vector = torch.zeros(layout.size)
    for value, part in enumerate(layout.unflatten(vector), 1):
        part.fill_(value)
    for value, at in enumerate(layout.slices.values(), 1):
        assert bool((vector[at] == value).all())


def test_flatten_copies_even_a_single_tensor() -> None:
    tensor = normal(4)
    Layout.of({"weight": tensor}).flatten([tensor]).zero_()
    assert torch.equal(tensor, normal(4))


def test_flatten_takes_tensors_that_are_not_contiguous() -> None:
    tensor = normal(3, 5).T
    assert not tensor.is_contiguous()
    layout = Layout.of({"weight": tensor})
    assert torch.equal(layout.unflatten(layout.flatten([tensor]))[0], tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    tensor = normal(2, 2, dtype=dtype)
    layout = Layout.of({"weight": tensor})
    assert layout.flatten([tensor]).dtype == layout.unflatten(tensor.flatten())[0].dtype == dtype


def test_a_vector_of_another_length_is_not_cut_up() -> None:
    layout = Layout.of(CASES["several"])
    with pytest.raises(RuntimeError):
        layout.unflatten(torch.zeros(layout.size + 1))
