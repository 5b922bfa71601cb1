"""Studies: one activation, a sweep over β, a network before and after training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hessdiag.data import datasets
from hessdiag.errors import InputError
from hessdiag.metadata import DataSpec, Metadata, ModelSpec
from hessdiag.nets import checkpoints, models
from hessdiag.seeds import stream
from hessdiag.sparsities.sparsity_result import Study
from hessdiag.subjects import subject
from hessdiag.subjects.activation_studies import study
from hessdiag.training import loop
from hessdiag.training.folder import Config
from hessdiag.training.recipes import Recipe

SPEC = ModelSpec("mlp-8", "beta_gelu", 2.0, 10, (1, 8, 8))


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Write a network of which every weight differs from its start."""
    model = models.build(SPEC, seed=stream(5, "init"))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    metadata = Metadata(SPEC, DataSpec("digits", (0.25,), (0.5,)), seed=5)
    checkpoints.save(tmp_path / "own.safetensors", model, metadata)
    return str(tmp_path / "own.safetensors")


def fresh(activation: str | None = "beta_gelu", beta: float | None = 1.0, **options: Any) -> Any:
    options = {"model": "mlp-8", "num_samples": 20, **options}
    return subject.load(None, activation=activation, beta=beta, **options)


def look(*args: Any, **options: Any) -> tuple[Study, ...]:
    return study(*args, threshold=1e-3, **options).activations


def test_a_fresh_network_has_only_an_initial_state():
    (found,) = look(fresh("gelu", None), with_initial=False)
    assert (found.activation, found.beta, found.title) == ("gelu", None, "gelu")
    assert found.trained is None
    assert found.initial is not None
    assert study(fresh("gelu", None), threshold=1e-3).num_samples == 20
    assert found.profile is not None
    assert found.profile.activation == "gelu"


def test_a_sweep_keeps_its_order():
    betas = (10.0, 1.0, 0.5)
    found = look(fresh(beta=betas[0]), betas)
    assert [s.beta for s in found] == list(betas)
    assert [s.title for s in found] == ["beta_gelu(10)", "beta_gelu(1)", "beta_gelu(0.5)"]
    for one, beta in zip(found, betas, strict=True):
        assert one.profile is not None
        assert one.profile.beta == beta
        assert one.initial is not None
        assert {call.function for call in one.initial.calls} == {f"beta_gelu({beta:g})"}
    means = [s.initial.total.mean_abs for s in found if s.initial]
    alone = look(fresh(beta=0.5))[0].initial
    assert alone is not None
    assert means[2] == alone.total.mean_abs


@pytest.mark.parametrize("betas", [(5.0,), (5.0, 7.0)])
def test_every_beta_asked_for_is_put_in(betas: tuple[float, ...]):
    assert [s.beta for s in look(fresh(beta=1.0), betas)] == list(betas)


def test_a_default_beta_is_told():
    assert [s.title for s in look(fresh("augmented_relu", None))] == ["augmented_relu(1)"]


@pytest.mark.parametrize("with_initial", [True, False])
def test_a_checkpoint_is_seen_before_and_after(path: str, with_initial: bool):
    at = subject.load(path, num_samples=20)
    (found,) = look(at, with_initial=with_initial)
    assert found.trained is not None
    x = at.data.inputs.flatten(1)
    (call,) = found.trained.calls
    seen = torch.nn.functional.linear(x, *list(at.model.parameters())[:2]).detach()
    assert call.std == pytest.approx(float(seen.std(correction=0)), rel=1e-5)
    assert (found.initial is not None) == with_initial
    if found.initial:
        assert 3 * found.initial.calls[0].std == pytest.approx(call.std, rel=1e-5)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_initial_network_is_the_recipes_start(path: str, seed: int):
    """Whatever --seed says: the checkpoint tells that of its run."""
    start = subject.load(path, num_samples=20, seed=seed).initialised(seed).model
    wanted = models.build(SPEC, seed=stream(5, "init"))
    assert all(map(torch.equal, start.parameters(), wanted.parameters()))


def test_the_initial_network_is_where_training_began(tmp_path: Path):
    """With a learning rate of zero, training ends there."""
    data = datasets.load("digits", num_samples=64)
    recipe = Recipe(
        "mine", "mlp-8", "gelu", data="digits", epochs=1, batch_size=32, lr=1e-30, weight_decay=0.0
    )
    config = Config(recipe, seed=3)
    at = subject.load(str(loop.train(config, data, None, out=tmp_path).checkpoint), num_samples=20)
    start = at.initialised(0).model
    assert all(map(torch.equal, start.parameters(), at.model.parameters()))


def test_another_activation_keeps_the_weights(path: str):
    at = subject.load(path, activation="tanh", num_samples=20)
    found = look(at)[0]
    plain = look(subject.load(path, num_samples=20))[0]
    assert found.trained is not None
    assert plain.trained is not None
    assert [c.function for c in found.trained.calls] == ["tanh"]
    assert found.trained.calls[0].std == plain.trained.calls[0].std


def test_a_beta_for_a_network_that_chooses_is_refused():
    at = fresh(None, None, model="tests.subjects.test_activation_studies:chooses")
    assert [s.title for s in look(at)] == ["activations"]
    with pytest.raises(InputError, match="chooses its own activation"):
        look(at, (1.0, 2.0))


@pytest.mark.parametrize("betas", [(), (1.0, 2.0, 3.0)])
@pytest.mark.parametrize("with_nme", [True, False])
def test_progress_reaches_its_total(path: str, betas: tuple[float, ...], with_nme: bool):
    seen: list[tuple[float, float]] = []
    look(
        subject.load(path, num_samples=20),
        betas,
        with_nme=with_nme,
        num_probes=1,
        on_progress=lambda now: seen.append((now.done, now.expected)),
    )
    assert {total for _, total in seen} == {2 * max(len(betas), 1)}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]


def test_after_training_the_share_above_the_threshold_falls_with_beta(tmp_path: Path):
    """Dauphin, Agarwala and Mobahi (2024), their figure on sparsity, in small."""
    data = datasets.load("digits")
    above: dict[str, list[float]] = {"initial": [], "trained": []}
    for beta in (1.0, 5.0, 20.0, 100.0):
        recipe = Recipe(
            "mine", "mlp-32-32", "beta_gelu", "digits", epochs=3, batch_size=64, lr=0.05, beta=beta
        )
        out = tmp_path / f"{beta:g}"
        out.mkdir()
        path = loop.train(Config(recipe), data, None, out=out).checkpoint
        (found,) = look(subject.load(str(path)))
        for kind, shares in above.items():
            shares.append(getattr(found, kind).total.above)
    for shares in above.values():
        assert shares == sorted(shares, reverse=True)
        assert shares[0] > 0.9
        assert shares[-1] < 0.1


def chooses() -> torch.nn.Module:
    """Make a network as a user's factory does."""
    nn = torch.nn
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))
