"""Curvature tracked during a run is that of the diagnostics, and leaves the run as it is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

import hessdiag
from hessdiag.curvature.perturbation import perturbation_gap
from hessdiag.curvature.tangent_kernel import kernel_change, kernel_matrix
from hessdiag.data.datasets import Dataset
from hessdiag.errors import InputError
from hessdiag.metrics.metric_reading import Reading
from hessdiag.nets import checkpoints, models
from hessdiag.seeds import stream
from hessdiag.training import folder, loop, state, tracking
from hessdiag.training.feeds import hold_out
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch
from hessdiag.training.optimisation import adaptive_scale
from hessdiag.training.tracking import Tracker, make_tracker
from tests.training.test_resume import RECIPE, WRN, config, go_on, results, sets, start, stopped

SPECTRAL = ("hessian.trace", "gn.lambda_max", "nme.frobenius_norm")
NAMES = (*SPECTRAL, "sparsity.nonzero", "sparsity.above", "perturbation.gap", "perturbation.trace")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SAMPLES", 20)
    monkeypatch.setattr(tracking, "PROBES", 13)


def tracked(*names: str, **fields: Any) -> Config:
    return config(**{"save_every": None, "track": names or NAMES, **fields})


def sample(given: Config, data: Dataset) -> tuple[Tensor, Tensor]:
    training, _ = hold_out(data.num_samples, given.recipe.validation, given.seed)
    generator = torch.Generator().manual_seed(stream(given.seed, "tracking"))
    chosen = training[torch.randperm(len(training), generator=generator)[:20]]
    return data.inputs[chosen], data.targets[chosen]


def tracker_of(given: Config, data: Dataset) -> Tracker:
    found = make_tracker(given, data, torch.arange(data.num_samples), 1000)
    assert found is not None
    return found


def trained(out: Path) -> nn.Module:
    """The network of the last epoch."""
    found = checkpoints.read(out / folder.LAST)
    assert found.metadata is not None
    model = models.build(found.metadata.model)
    checkpoints.load_into(model, found)
    return model


def by_hand(given: Config, model: nn.Module, sigma2: float = 1e-4) -> dict[str, float]:
    """Measure by the library's calls on the same sample with the same seed."""
    loss, seed = given.recipe.loss, given.seed
    batches = [sample(given, sets(72)[0])]
    parts = hessdiag.spectrum(
        model, batches, loss=loss, num_probes=13, top_k=1, density=False, seed=seed
    ).parts
    total = hessdiag.sparsity(model, batches, loss=loss).total
    risk = hessdiag.Decomposition(model, batches, loss).risk
    gap = perturbation_gap(risk, sigma2, num_pairs=13, seed=seed).value
    return {
        "hessian.trace": parts["hessian"].trace.value,
        "gn.lambda_max": parts["gn"].top[0].value,
        "nme.frobenius_norm": parts["nme"].frobenius_norm.value,
        "sparsity.nonzero": total.nonzero,
        "sparsity.above": total.above,
        "perturbation.gap": gap,
        "perturbation.trace": 2 / sigma2 * gap,
    }


@pytest.mark.parametrize(
    ("given", "sigma2"),
    [
        (tracked(seed=3), 1e-4),
        (tracked(recipe=replace(RECIPE, loss="mse", activation="relu")), 1e-4),
        (tracked(method="nso", sigma2=0.01), 0.01),
        (tracked(recipe=WRN, num_samples=72), 1e-4),
        (tracked(recipe=replace(RECIPE, validation=0.5)), 1e-4),
    ],
    ids=["cross-entropy", "mse", "nso", "batchnorm", "held out"],
)
def test_tracked_values_are_those_of_the_diagnostics(
    tmp_path: Path, given: Config, sigma2: float
) -> None:
    given = replace(given, recipe=replace(given.recipe, epochs=1))
    epochs: list[Epoch] = []
    start(tmp_path / "run", given, on_epoch=epochs.append)
    (epoch,) = epochs
    found = {name: reading.value for name, reading in epoch.curvature.items()}
    wanted = by_hand(given, trained(tmp_path / "run"), sigma2)
    assert tuple(found) == NAMES
    exact = {name: wanted.pop(name) for name in ("sparsity.nonzero", "sparsity.above")}
    assert {name: found.pop(name) for name in exact} == exact
    assert found == pytest.approx(wanted, rel=1e-3)


def test_sample_and_probes_stay_while_the_weights_move(tmp_path: Path) -> None:
    given = tracked("hessian.trace", "perturbation.gap")
    data, _ = sets(72)
    epochs: list[Epoch] = []
    seen: list[dict[str, Reading]] = []

    def measure_again(epoch: Epoch) -> None:
        epochs.append(epoch)
        seen.append(tracker_of(given, data).measure(trained(tmp_path / "run")))

    start(tmp_path / "run", given, on_epoch=measure_again)
    assert [epoch.curvature for epoch in epochs] == seen
    assert len({reading["hessian.trace"].value for reading in seen}) == 3


def test_measuring_touches_nothing(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(), nn.Linear(8, 10)
    ).train()
    model[5].requires_grad_(False)
    data, _ = sets(72)
    tracker = tracker_of(tracked(), data)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, state = tracker.x.clone(), torch.get_rng_state()
    tracker.measure(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False] * 2
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(tracker.x, x)


@pytest.mark.parametrize(
    "recipe",
    [
        replace(WRN, epochs=2),
        replace(RECIPE, model="tests.training.test_resume:dropping", activation=None),
    ],
    ids=["batchnorm", "dropout"],
)
def test_a_run_is_the_same_with_and_without_tracking(tmp_path: Path, recipe: Any) -> None:
    given = tracked(recipe=recipe, num_samples=24)
    whole, alone = tmp_path / "tracked", tmp_path / "alone"
    start(whole, given)
    start(alone, replace(given, track=()))
    for name in (folder.LAST, folder.BEST):
        assert (whole / name).read_bytes() == (alone / name).read_bytes()
    rows = folder.read_metrics(whole)
    assert all(tuple(row["curvature"]) == NAMES for row in rows)
    assert [row | {"curvature": {}} for row in rows] == folder.read_metrics(alone)


@pytest.mark.parametrize(
    ("every", "turns"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])]
)
def test_only_some_epochs_are_measured_and_the_last_always(
    tmp_path: Path, every: int, turns: list[int]
) -> None:
    given = tracked(
        "sparsity.nonzero", track_every=every, recipe=replace(RECIPE, epochs=5), num_samples=20
    )
    start(tmp_path, given)
    rows = folder.read_metrics(tmp_path)
    assert [row["number"] for row in rows if row["curvature"]] == turns


def test_rows_hold_values_errors_and_intervals(tmp_path: Path) -> None:
    epochs: list[Epoch] = []
    start(tmp_path, tracked(), on_epoch=epochs.append)
    for row, epoch in zip(folder.read_metrics(tmp_path), epochs, strict=True):
        for name, reading in epoch.curvature.items():
            assert row["curvature"][name] == json.loads(msgspec.json.encode(reading))
    last = epochs[-1].curvature
    assert last["hessian.trace"].ci95 is not None
    assert last["gn.lambda_max"].ci95 is None
    assert last["sparsity.nonzero"] == Reading(last["sparsity.nonzero"].value, 0.0, None)


@pytest.mark.parametrize("save_every", [None, 1])
@pytest.mark.parametrize("stop", [6, 8])
def test_a_run_that_goes_on_keeps_what_was_tracked(
    tmp_path: Path, stop: int, save_every: int | None
) -> None:
    given = tracked("hessian.trace", "sparsity.above", track_every=2, save_every=save_every)
    parts = stopped(tmp_path / "parts", given, stop)
    go_on(parts, given)
    assert results(parts) == results(start(tmp_path / "whole", given))
    rows = folder.read_metrics(parts)
    assert [bool(row["curvature"]) for row in rows] == [False, True, True]


def test_without_metrics_there_is_no_tracker() -> None:
    assert make_tracker(config(), sets(72)[0], torch.arange(72), 1000) is None


def test_what_is_held_out_is_not_measured_on() -> None:
    data, _ = sets(72)
    found = make_tracker(tracked("hessian.trace"), data, torch.tensor([5, 40, 7]), 1000)
    assert found is not None
    wanted = {row.numpy().tobytes() for row in data.inputs[[5, 7, 40]]}
    assert {row.numpy().tobytes() for row in found.x} == wanted


def test_the_sample_is_no_larger_than_the_data() -> None:
    data, _ = sets(5)
    tracker = tracker_of(tracked("hessian.trace"), data)
    assert sorted(tracker.y.tolist()) == sorted(data.targets.tolist())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sparsity", "sparsity.nonzero"),
        ("perturbation.gpa", r"did you mean.*perturbation\.gap"),
        ("hesian.trace", "<part>.top"),
        ("", "unknown metric to track"),
        ("hessian.trace ", "<part>.top"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, words: str
) -> None:
    tracking.check(NAMES)
    with pytest.raises(InputError, match="unknown metric to track"):
        tracking.check(("hessian.trace", name))
    data, test = sets(72)
    with pytest.raises(InputError, match=f"(?s){words}"):
        loop.train(tracked("hessian.trace", name), data, test, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_large_samples_are_cut_into_microbatches(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = sets(72)
    tracker = tracker_of(tracked(), data)
    model = models.build(models.ModelSpec("mlp-16", "gelu", None, 10, (1, 8, 8)), seed=1)
    whole = tracker.measure(model)
    monkeypatch.setattr(tracking, "fitting_microbatch", lambda *_: 7)
    parts = tracker.measure(model)
    for name in NAMES:
        assert parts[name].value == pytest.approx(whole[name].value, rel=1e-3), name


def test_curvature_that_is_not_finite_stops_no_run() -> None:
    data, _ = sets(72)
    model = models.build(models.ModelSpec("mlp-16", "gelu", None, 10, (1, 8, 8)), seed=1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor *= 1e25
    found = tracker_of(tracked(), data).measure(model)
    assert all(math.isnan(reading.value) for reading in found.values())


def test_an_eigenvalue_beyond_the_last_is_refused_at_once(tmp_path: Path) -> None:
    data, test = sets(72)
    with pytest.raises(InputError, match="fewer eigenvalues than are to be tracked"):
        loop.train(tracked("hessian.top.9000"), data, test, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_metrics_of_every_kind_are_tracked() -> None:
    names = ("nme_to_gn", "loss", "gn.layers.layers.0.weight.trace", "sparsity.nonzero", "gn.trace")
    data, _ = sets(72)
    model = models.build(models.ModelSpec("mlp-16", "gelu", None, 10, (1, 8, 8)), seed=1)
    found = tracker_of(tracked(*names), data).measure(model)
    assert list(found) == list(names)
    assert all(math.isfinite(reading.value) for reading in found.values())


def test_a_mistyped_metric_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean nme_to_gn"):
        tracking.check(["gn.trace", "nme_to_ng"])


def test_the_kernels_change_is_counted_from_the_start_of_the_run(tmp_path: Path) -> None:
    given = tracked("ntk.change", recipe=replace(RECIPE, epochs=4))
    start(tmp_path / "whole", given)
    initial = models.build(
        checkpoints.read(tmp_path / "whole" / folder.LAST).metadata.model,
        seed=stream(given.seed, "init"),
    )
    batches = [sample(given, sets(72)[0])]
    kernels = [
        kernel_matrix(hessdiag.Decomposition(model, batches, given.recipe.loss))
        for model in (initial, trained(tmp_path / "whole"))
    ]
    rows = folder.read_metrics(tmp_path / "whole")
    changes = [row["curvature"]["ntk.change"]["value"] for row in rows]
    assert changes[-1] == pytest.approx(kernel_change(kernels[1], kernels[0]), rel=1e-4)
    assert 0 < changes[0] < changes[-1] < 1
    parts = stopped(tmp_path / "parts", given, 6)
    go_on(parts, given)
    assert results(parts) == results(tmp_path / "whole")


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_scale_is_that_of_adams_next_step(amsgrad: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).double()
    model[0].bias.requires_grad_(False)
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(free, lr=0.1, betas=(0.0, 0.9), eps=1e-3, amsgrad=amsgrad)
    assert adaptive_scale(optimizer, model) is None
    assert adaptive_scale(torch.optim.SGD(free, lr=0.1), model) is None
    for factor in (3.0, 1.0, 2.0):
        gradient = factor * torch.linspace(-1, 1, sum(p.numel() for p in free)).double()
        nn.utils.vector_to_parameters(gradient, grads := [torch.empty_like(p) for p in free])
        for parameter, own in zip(free, grads, strict=True):
            parameter.grad = own
        before = nn.utils.parameters_to_vector(free).detach()
        optimizer.step()
    step = (before - nn.utils.parameters_to_vector(free).detach()) / 0.1  # g/(√v̂ + ε)
    assert gradient / adaptive_scale(optimizer, model) == pytest.approx(step, rel=1e-9)


def test_a_run_with_adam_tracks_the_curvature_under_its_own_scale(tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer="Adam", lr=0.01, epochs=1)
    epochs: list[Epoch] = []
    given = tracked("preconditioned.lambda_max", recipe=recipe)
    start(tmp_path / "run", given, on_epoch=epochs.append)
    found = epochs[0].curvature["preconditioned.lambda_max"].value
    tracker, model = tracker_of(given, sets(72)[0]), trained(tmp_path / "run")
    fallback = tracker.measure(model)["preconditioned.lambda_max"].value
    assert found != pytest.approx(fallback, rel=0.01)
    memory = state.load(tmp_path / "run")[0]["optimizer"]["state"]
    scales = [
        (of["exp_avg_sq"] / (1 - 0.999 ** float(of["step"]))).sqrt().flatten() + 1e-8
        for of in memory.values()
    ]
    again = tracker.measure(model, torch.cat(scales))["preconditioned.lambda_max"].value
    assert found == pytest.approx(again, rel=1e-3)
