"""Planes: named weights, filter-normalised directions, eigenvectors, and their bases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from hessdiag.landscapes import planes
from hessdiag.landscapes.planes import Plane, eigenvector_plane, random_plane, weight_plane
from tests.cases import BY_NAME, labels, normal, seeded
from tests.oracles import truth_of


def decomposition(name: str = "mlp-gelu", **options) -> Decomposition:
    return Decomposition(*BY_NAME[name], **options)


def plane_of(*rows: list[float]) -> Plane:
    first, second = torch.tensor(rows, dtype=torch.float64)
    return Plane("own", ("u", "v"), first, second)


# --- two weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "index"),
    [
        ("fc1.weight[0,1]", "fc1.weight", (0, 1)),
        ("fc1.weight[4,3]", "fc1.weight", (4, 3)),
        (" fc2.weight [ 3 , 0 ] ", "fc2.weight", (3, 0)),
        ("fc3.bias[2]", "fc3.bias", (2,)),
    ],
)
def test_a_weight_is_found_by_its_name(text: str, name: str, index: tuple[int, ...]):
    dec = decomposition()
    plane = weight_plane(dec, ("fc1.bias[0]", text))
    for row, (parameter, at) in zip(
        (plane.first, plane.second), (("fc1.bias", (0,)), (name, index)), strict=True
    ):
        tensors = dict(zip(dec.layout.names, dec.layout.unflatten(row), strict=True))
        assert tensors[parameter][at] == 1
        assert row.abs().sum() == 1
    assert plane.labels == ("fc1.bias[0]", f"{name}[{','.join(map(str, index))}]")


def test_convolutions_and_scalars_have_weights_too():
    dec = decomposition("cnn-relu-bn")
    plane = weight_plane(dec, ("conv2.weight[2,1,0,2]", "bn1.weight[1]"))
    tensors = dict(zip(dec.layout.names, dec.layout.unflatten(plane.first), strict=True))
    assert tensors["conv2.weight"][2, 1, 0, 2] == 1

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.scale * self.fc(x)

    dec = Decomposition(seeded(Scaled), [(normal(4, 4), labels(4))])
    assert weight_plane(dec, ("scale", "fc.bias[0]")).labels[0] == "scale"
    assert weight_plane(dec, ("scale[]", "fc.bias[0]")).first.argmax() == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fc1.wieght[0,1]", r"unknown parameter[\s\S]*did you mean fc1.weight"),
        ("layer7[0]", r"unknown parameter[\s\S]*wanted: [\s\S]*the nearest of 6"),
        ("fc1.weight", "index is missing[\\s\\S]*0 to 4, 0 to 3"),
        ("fc1.weight[]", "index is missing"),
        ("fc1.weight[1]", "index does not fit"),
        ("fc1.weight[0,0,0]", "index does not fit"),
        ("fc1.weight[5,0]", "index is out of range"),
        ("fc1.weight[0,-1]", "whole numbers"),
        ("fc1.weight[a,b]", "whole numbers"),
        ("fc1.weight[0,1.5]", "whole numbers"),
        ("fc1.weight[0,²]", "whole numbers|out of range"),
        ("fc1.weight[0,99999999999999999999]", "whole numbers"),
        ("fc1.weight[0,0", "unknown parameter"),
        ("", "unknown parameter"),
        ("fc1.bias[00]", "the two weights are the same"),
    ],
)
def test_weights_that_do_not_exist_are_refused(text: str, words: str):
    with pytest.raises(InputError) as caught:
        weight_plane(decomposition(), ("fc1.bias[0]", text))
    caught.match(words)


@pytest.mark.parametrize("weights", [(), ("fc1.bias[0]",), ("fc1.bias[0]",) * 3, "fc1.bias[0]"])
def test_it_takes_two_weights(weights):
    with pytest.raises(InputError, match="spanned by two weights"):
        weight_plane(decomposition(), weights)


def test_only_chosen_parameters_have_weights():
    with pytest.raises(InputError, match="unknown parameter"):
        weight_plane(decomposition(params="fc1.*"), ("fc1.bias[0]", "fc2.bias[0]"))


# --- random directions ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp-gelu", "cnn-gelu-bn", "attention"])
def test_every_filter_has_the_norm_of_its_own(name: str):
    dec = decomposition(name)
    plane = random_plane(dec, seed=3)
    for row in (plane.first, plane.second):
        pairs = zip(dec.layout.unflatten(row), dec.risk.parameters.values(), strict=True)
        for direction, theta in pairs:
            if theta.ndim < 2:
                assert not direction.any()
            else:
                wanted = theta.detach().flatten(1).norm(dim=1)
                torch.testing.assert_close(direction.flatten(1).norm(dim=1), wanted)


def test_random_directions_depend_on_the_seed_alone():
    one, two = random_plane(decomposition(), seed=1), random_plane(decomposition(), seed=1)
    assert torch.equal(one.first, two.first)
    assert torch.equal(one.second, two.second)
    assert not torch.equal(one.first, one.second)
    assert not torch.equal(one.first, random_plane(decomposition(), seed=2).first)
    rounded = random_plane(decomposition(dtype=torch.float32), seed=1).first
    torch.testing.assert_close(rounded.double(), one.first, rtol=1e-5, atol=1e-6)


def test_a_filter_of_zeros_stays_where_it_is():
    model, batches, loss = BY_NAME["mlp-gelu"]
    assert isinstance(model, nn.Module)
    with torch.no_grad():
        model.get_parameter("fc1.weight")[2] = 0
    dec = Decomposition(model, batches, loss)
    (weight, *_) = dec.layout.unflatten(random_plane(dec).first)
    assert not weight[2].any()
    assert weight[1].all()


def test_without_filters_there_are_no_random_directions():
    with pytest.raises(InputError, match="no filters to take random directions in"):
        random_plane(decomposition(params="*.bias"))


# --- eigenvectors --------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["hessian", "gn", "nme"])
@pytest.mark.parametrize("name", ["mlp-gelu", "cnn-gelu-bn"])
def test_eigenvectors_have_the_two_largest_eigenvalues(name: str, part: str):
    dense = getattr(truth_of(name), part)
    wanted = torch.linalg.eigvalsh(dense).flip(0)[:2]
    plane = eigenvector_plane(decomposition(name), part)
    rows = torch.stack([plane.first, plane.second])
    torch.testing.assert_close(rows @ rows.T, torch.eye(2).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close((rows @ dense * rows).sum(1), wanted, rtol=1e-9, atol=1e-10)
    assert [r.value for r in plane.eigenvalues] == pytest.approx(wanted.tolist(), rel=1e-9)
    assert all(row[row.abs().argmax()] > 0 for row in rows)
    assert plane.notes == ()
    assert plane.labels == (f"{part} eigenvector 1", f"{part} eigenvector 2")


def test_eigenvectors_that_have_not_converged_say_so():
    plane = eigenvector_plane(decomposition(), "hessian", max_passes=3)
    assert len(plane.notes) == 2
    assert "hessian eigenvector 1 not converged within 3 passes" in plane.notes[0]
    assert plane.basis().shape == (2, plane.first.numel())


def test_two_parameters_are_enough():
    dec = decomposition("mlp-gelu", params="fc3.bias")
    assert eigenvector_plane(dec, "gn").first.shape == (3,)
    model = seeded(lambda: nn.Linear(1, 2, bias=False))
    dec = Decomposition(model, [(normal(5, 1), labels(5, num_classes=2))])
    assert eigenvector_plane(dec, "gn").basis().shape == (2, 2)


def test_one_parameter_spans_no_plane():
    model = seeded(lambda: nn.Linear(1, 1, bias=False))
    dec = Decomposition(model, [(normal(5, 1), normal(5, 1))], "mse")
    for make in (random_plane, lambda dec: eigenvector_plane(dec, "gn")):
        with pytest.raises(InputError, match="no plane in so small a space"):
            make(dec)


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="unknown part"):
        eigenvector_plane(decomposition(), "gm")


def test_eigenvectors_that_memory_cannot_hold_are_refused(monkeypatch):
    monkeypatch.setattr(planes, "available_bytes", lambda _: 1000)
    with pytest.raises(InputError, match="too little memory for two eigenvectors"):
        eigenvector_plane(decomposition(), "hessian")


# --- bases ---------------------------------------------------------------------------------------


def test_the_basis_is_orthonormal_and_spans_the_plane():
    plane = plane_of([3.0, 1.0, 0.0, 2.0], [2.9, 1.1, 0.1, 2.0])
    basis = plane.basis()
    torch.testing.assert_close(basis @ basis.T, torch.eye(2).double(), rtol=0, atol=1e-14)
    for row in (plane.first, plane.second):
        torch.testing.assert_close(row @ basis.T @ basis, row)
    torch.testing.assert_close(plane.step(2.0, -3.0), 2 * plane.first - 3 * plane.second)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (([1.0, 2.0], [2.0, 4.0]), "collinear"),
        (([1.0, 2.0], [-1.0, -2.0 - 1e-9]), "collinear"),
        (([0.0, 0.0], [1.0, 0.0]), "the direction u has no direction"),
        (([1.0, 0.0], [float("nan"), 0.0]), "the direction v has no direction"),
    ],
)
def test_directions_that_span_no_plane_are_refused(rows, words: str):
    with pytest.raises(InputError, match=words):
        plane_of(*rows).basis()
