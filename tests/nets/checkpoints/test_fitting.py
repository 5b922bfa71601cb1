"""Names as other tools write them, against the names of a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from hessdiag.errors import InputError
from hessdiag.nets import checkpoints

State = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.BatchNorm1d(6))
        self.fc = nn.Linear(6, 3)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def inside(name: str) -> Callable[[State], State]:
    return lambda state: {n.replace("body.", f"body.{name}."): t for n, t in state.items()}


def among_others(state: State) -> State:
    """As a LightningModule with a loss and metrics of its own."""
    own = {f"model.{name}": tensor for name, tensor in state.items()}
    return {"loss.weight": torch.ones(3), **own, "accuracy.tp": torch.zeros(3, dtype=torch.long)}


def averaged(state: State) -> State:
    return {"n_averaged": torch.tensor(5), **prefixed("module.")(state)}


def profiled(state: State) -> State:
    return {**state, "total_ops": torch.zeros(1), "fc.total_params": torch.zeros(1)}


CHANGES: dict[str, tuple[Callable[[State], State], str]] = {
    "module": (prefixed("module."), "without module."),
    "model": (prefixed("model."), "without model."),
    "two": (prefixed("net.encoder."), "without net.encoder."),
    "wrapped twice": (prefixed("module._orig_mod."), "_orig_mod."),
    "compiled, then wrapped": (prefixed("_orig_mod.module."), "without module."),
    "compiled part": (inside("_orig_mod"), "body._orig_mod.0.weight"),
    "sharded part": (inside("_fsdp_wrapped_module"), "body._fsdp_wrapped_module.0.weight"),
    "recomputed part": (inside("_checkpoint_wrapped_module"), "without what"),
    "averaged": (averaged, "left out: n_averaged"),
    "profiled": (profiled, ""),
    "among others": (among_others, "left out: loss.weight, accuracy.tp"),
}


def read(path: Path, state: Any) -> checkpoints.Checkpoint:
    torch.save(state, path)
    return checkpoints.read(path)


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("change", CHANGES)
def test_names_are_met_whatever_was_put_around_them(tmp_path: Path, change: str) -> None:
    model, other = Net(), Net()
    act, told = CHANGES[change]
    notes = checkpoints.load_into(other, read(tmp_path / "m.pt", act(model.state_dict())))
    assert same(model, other)
    assert told in "; ".join(notes)


def test_a_plain_fit_says_nothing(tmp_path: Path) -> None:
    checkpoint = read(tmp_path / "m.pt", Net().state_dict())
    assert checkpoints.load_into(Net(), checkpoint) == ()


def test_the_network_may_be_the_wrapped_one(tmp_path: Path) -> None:
    model = Net()
    for wrapped in (nn.ModuleDict({"module": Net()}), torch.compile(Net())):
        checkpoints.load_into(wrapped, read(tmp_path / "m.pt", model.state_dict()))
        inner = next(child for child in wrapped.modules() if isinstance(child, Net))
        assert same(model, inner)


def test_a_layer_of_many_is_not_renamed_to_fit(tmp_path: Path) -> None:
    state = {**Net().state_dict(), "gain": torch.ones(1)}
    with pytest.raises(InputError, match="unexpected: gain"):
        checkpoints.load_into(Net(), read(tmp_path / "m.pt", state))


def test_two_parts_that_fit_are_a_question(tmp_path: Path) -> None:
    teacher, student = Net(), Net()
    state = prefixed("teacher.")(teacher.state_dict()) | prefixed("student.")(student.state_dict())
    checkpoint = read(tmp_path / "m.pt", state)
    with pytest.raises(InputError, match=r"several parts[\s\S]*student, teacher[\s\S]*--key"):
        checkpoints.load_into(Net(), checkpoint)
    other = Net()
    chosen = checkpoints.read(tmp_path / "m.pt", checkpoints.Choice("student"))
    checkpoints.load_into(other, chosen)
    assert same(student, other)


@pytest.mark.parametrize("kept", ["embedding.weight", "head.weight"])
def test_of_tied_weights_one_name_is_enough(tmp_path: Path, kept: str) -> None:
    model, other = Tied(), Tied()
    safetensors.torch.save_file({kept: model.head.weight.detach()}, tmp_path / "m.safetensors")
    notes = checkpoints.load_into(other, checkpoints.read(tmp_path / "m.safetensors"))
    assert same(model, other)
    assert other.head.weight is other.embedding.weight
    assert "tied weights" in notes[0]


def test_save_model_of_safetensors_is_read(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    safetensors.torch.save_model(model, str(tmp_path / "m.safetensors"))
    checkpoints.load_into(other, checkpoints.read(tmp_path / "m.safetensors"))
    assert same(model, other)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("old", "new"),
    [(weight_norm, parametrizations.weight_norm), (spectral_norm, parametrizations.spectral_norm)],
)
def test_both_spellings_of_a_parametrisation_are_one(tmp_path: Path, old: Any, new: Any) -> None:
    x = torch.randn(5, 4)
    for written, read_as in ((old, new), (new, old)):
        model = nn.Sequential(written(nn.Linear(4, 3)), nn.Linear(3, 2)).eval()
        other = nn.Sequential(read_as(nn.Linear(4, 3)), nn.Linear(3, 2)).eval()
        checkpoints.load_into(other, read(tmp_path / "m.pt", model.state_dict()))
        assert torch.allclose(model(x), other(x))


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse_coo": lambda t: t.to_sparse(),
    "sparse_csr": lambda t: t.to_sparse_csr(),
    "qint8": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "float8_e4m3fn": lambda t: t.to(torch.float8_e4m3fn),
    "float4_e2m1fn_x2": lambda t: t.to(torch.uint8).view(torch.float4_e2m1fn_x2),
    "complex": lambda t: t.to(torch.complex64),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_kind_are_named(tmp_path: Path, kind: str) -> None:
    state = nn.Linear(4, 3).state_dict()
    checkpoint = read(tmp_path / "m.pt", {**state, "weight": KINDS[kind](state["weight"])})
    with pytest.raises(InputError, match=rf"weight \(checkpoint {kind} \(3, 4\)"):
        checkpoints.load_into(nn.Linear(4, 3), checkpoint)


def test_weights_without_values_are_named(tmp_path: Path) -> None:
    state = {name: t.to("meta") for name, t in nn.Linear(4, 3).state_dict().items()}
    with pytest.raises(InputError, match=r"weight \(checkpoint empty \(3, 4\)"):
        checkpoints.load_into(nn.Linear(4, 3), read(tmp_path / "m.pt", state))


def test_layers_without_a_shape_are_named(tmp_path: Path) -> None:
    checkpoint = read(tmp_path / "m.pt", nn.Linear(4, 3).state_dict())
    with pytest.raises(InputError, match="layers without a shape"):
        checkpoints.load_into(nn.LazyLinear(3), checkpoint)


def test_a_network_is_recognised_under_any_prefix(tmp_path: Path) -> None:
    model = nn.ModuleDict({"layers": nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))})
    for change in (lambda state: state, prefixed("net."), prefixed("module._orig_mod.")):
        spec = checkpoints.recognise(change(model.state_dict()))
        assert spec is not None
        assert (spec.name, spec.num_classes) == ("mlp-5", 3)
    assert checkpoints.recognise({f"layers.{'9' * 5000}.weight": torch.ones(2, 2)}) is None
