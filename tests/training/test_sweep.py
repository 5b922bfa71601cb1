"""Sweeps: the grid, what is skipped, what goes on, what fails."""

import pickle
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hessdiag.errors import InputError
from hessdiag.jobs.task import Task
from hessdiag.progress import Progress
from hessdiag.training import folder, loop, methods, state, sweep, sweep_result
from hessdiag.training.trials import Sweep
from tests import sweeps

TINY = {"model": "mlp-8", "epochs": 2, "batch_size": 32}
DIVERGES = 1e32  # a radius from which no loss is finite


def plan(
    *regularisers: str,
    seeds: tuple[int, ...] = (0,),
    changes: dict[str, Any] | None = None,
    num_samples: int | None = 64,
    betas: tuple[float, ...] = (),
    activation_names: tuple[str, ...] = (),
    file: str | None = None,
    **strengths: Any,
) -> Sweep:
    return sweep.plan(
        "digits-wrn10-1",
        seeds=seeds,
        regularisers=regularisers,
        activation_names=activation_names,
        betas=betas,
        strengths=strengths,
        changes=TINY | (changes or {}),
        file=file,
        num_samples=num_samples,
    )


def finish(planned: Sweep, out: Path, **options: Any) -> Sweep:
    *_, found = sweep.run(planned, out, **options)
    return found


def names(found: Sweep) -> list[str]:
    return [cell.name for cell in found.cells]


def content(place: Path) -> dict[str, bytes]:
    return {name: (place / name).read_bytes() for name in (folder.LAST, folder.METRICS)}


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


# --- the grid ----------------------------------------------------------------------------------


def test_a_method_takes_its_own_strengths_only():
    found = plan("none", "sam", "gn-trace", "weight-noise", rho=[0, 0.1], sigma2=[1e-4, 1e-3])
    assert names(found) == [
        "none-gelu",
        "sam-rho=0-gelu",
        "sam-rho=0.1-gelu",
        "gn-trace-sigma2=0.0001-gelu",
        "gn-trace-sigma2=0.001-gelu",
        "weight-noise-sigma2=0.0001-gelu",
        "weight-noise-sigma2=0.001-gelu",
    ]
    settled = {cell.name: cell.trials[0].config.method for cell in found.cells}
    assert settled["sam-rho=0.1-gelu"] == methods.SAM(0.1)
    assert settled["gn-trace-sigma2=0.001-gelu"] == methods.GNTrace(kappa=5e-4)
    assert settled["none-gelu"] == methods.Plain()


def test_an_activation_takes_a_beta_only_if_it_has_one():
    found = plan("none", activation_names=("relu", "beta_gelu"), betas=(1.0, 2.5))
    assert names(found) == ["none-relu", "none-beta_gelu-beta=1", "none-beta_gelu-beta=2.5"]
    assert [cell.beta for cell in found.cells] == [None, 1.0, 2.5]
    assert [cell.trials[0].config.recipe.beta for cell in found.cells] == [None, 1.0, 2.5]


def test_two_strengths_of_one_method_are_crossed():
    found = plan("grad-penalty", rho=[0.1, 0.2], power=[1, 2])
    pairs = [(cell.strengths["rho"], cell.strengths["power"]) for cell in found.cells]
    assert pairs == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]


def test_every_cell_has_every_seed_and_the_runs_go_seed_by_seed():
    found = plan("none", "sam", seeds=(3, 5))
    assert [[trial.config.seed for trial in cell.trials] for cell in found.cells] == [[3, 5]] * 2
    assert [trial.name for trial in found.trials] == [
        "none-gelu-seed=3",
        "sam-gelu-seed=3",
        "none-gelu-seed=5",
        "sam-gelu-seed=5",
    ]


def test_what_is_said_twice_is_run_once():
    found = plan("sam", "sam", seeds=(0, 0), rho=[0.1, 0.1])
    assert [trial.name for trial in found.trials] == ["sam-rho=0.1-gelu-seed=0"]


def test_without_choices_there_is_the_recipes_own():
    assert names(plan()) == ["none-gelu"]


def test_a_file_gives_what_all_runs_share(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text('rho = 0.3\nregulariser = "sam"\nactivation = "relu"\nlr = 0.02\n')
    found = plan(file=str(path))
    assert names(found) == ["sam-relu"]
    config = found.trials[0].config
    assert (config.method, config.recipe.lr) == (methods.SAM(0.3), 0.02)
    assert names(plan("grad-penalty", file=str(path))) == ["grad-penalty-relu"]
    path.write_text('rho = 0.3\nactivation = "beta_gelu"\n')
    found = plan("usam", betas=(1.0, 2.0), file=str(path))
    assert names(found) == ["usam-beta_gelu-beta=1", "usam-beta_gelu-beta=2"]
    assert found.trials[0].config.method == methods.USAM(0.3)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: plan("none", "gn-trace", rho=[0.1]), "no method of the sweep takes `rho`"),
        (lambda: plan("none", betas=(2.0,)), "no activation of the sweep takes a β"),
        (lambda: plan("sam", rho=[0.1, -1.0]), "`rho` is out of range"),
        (lambda: plan("none", "smoothing"), "unknown regulariser"),
        (lambda: plan("none", activation_names=("gelu", "rleu")), "unknown activation"),
        (lambda: plan("none", activation_names=("relu", "beta_gelu")), "needs a β"),
        (lambda: plan("none", activation_names=("beta_gelu",), betas=(1.0, -2.0)), "`beta` is out"),
        (lambda: plan("gn-trace", sigma2=[0.1], kappa=[0.2]), "σ² and κ say the same"),
        (
            lambda: plan("none", "hessian-trace", activation_names=("gelu", "augmented_relu")),
            "third derivative",
        ),
        (lambda: plan("none", changes={"model": "wrn11-1"}), "wrn11-1|depth"),
    ],
)
def test_a_mistake_in_any_cell_is_refused_before_the_first_run(act: Any, words: str):
    with pytest.raises(InputError, match=words):
        act()


def test_a_factory_is_not_called_by_the_plan():
    model = "tests.training.nowhere:network"
    (cell,) = plan("none", changes={"model": model}).cells
    assert (cell.name, cell.activation) == ("none", None)
    with pytest.raises(InputError, match="chooses its own activation"):
        plan("none", changes={"model": model}, activation_names=("relu",))


# --- the runs ----------------------------------------------------------------------------------


def test_each_run_is_that_of_train_alone(tmp_path: Path):
    planned = plan("none", "sam", seeds=(0, 1), rho=[0.1])
    found = finish(planned, tmp_path / "sweep")
    for trial in found.trials:
        alone = tmp_path / trial.name
        alone.mkdir()
        loop.train(trial.config, *loop.load_data(trial.config), out=alone)
        assert content(alone) == content(tmp_path / "sweep" / trial.name), trial.name
        last = folder.read_metrics(alone)[-1]
        assert trial.accuracy == last["test_accuracy"]
        assert trial.train_loss == last["train_loss"]


def test_the_data_are_loaded_once_for_runs_that_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded: list[int] = []
    load = loop.load_data

    def count(config: folder.Config, **options: Any) -> Any:
        loaded.append(config.seed)
        return load(config, **options)

    monkeypatch.setattr(loop, "load_data", count)
    finish(plan("none", "sam", seeds=(0, 1)), tmp_path / "samples")
    assert loaded == [0, 1]
    loaded.clear()
    epoch = {"epochs": 1, "batch_size": 2000}
    finish(plan("none", "sam", seeds=(0, 1), num_samples=None, changes=epoch), tmp_path / "all")
    assert loaded == [0]


def test_the_sweep_is_known_after_each_run(tmp_path: Path):
    planned = plan("none", "sam")
    counts = [
        [bool(trial.epochs) for trial in found.trials] for found in sweep.run(planned, tmp_path)
    ]
    assert counts == [[True, False], [True, True]]


def test_progress_counts_runs(tmp_path: Path):
    states: list[Progress] = []
    finish(plan("none", "sam"), tmp_path, on_step=states.append)
    seen = [(now.done, now.expected, now.doing) for now in states]
    assert [done for done, _, _ in seen] == [k / 4 for k in range(1, 9)]  # two batches, two epochs
    assert {(total, name) for _, total, name in seen[:4]} == {(2, "none-gelu-seed=0")}


def test_finished_runs_are_left_alone_and_new_ones_are_added(tmp_path: Path):
    first = finish(plan("none"), tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    grown = finish(plan("none", "sam"), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert grown.trials[0] == first.trials[0]
    assert grown.trials[1].epochs
    (again,) = sweep.run(plan("none", "sam"), tmp_path)
    assert again == grown


class Stopped(BaseException):
    """Raised in the middle of a run."""


@pytest.mark.parametrize("step", [1, 3], ids=["before its first state", "in its second epoch"])
def test_a_run_that_was_begun_goes_on_to_the_same_bytes(tmp_path: Path, step: int):
    planned = plan("sam")

    def stop(now: Progress) -> None:
        if now.done == step / 4:
            raise Stopped

    with pytest.raises(Stopped):
        finish(planned, tmp_path / "stopped", on_step=stop)
    place = tmp_path / "stopped" / planned.trials[0].name
    assert (place / state.CURRENT).exists() == (step == 3)
    seen: list[float] = []
    finish(planned, tmp_path / "stopped", on_step=lambda now: seen.append(now.done))
    assert seen[0] == (1 if step == 1 else 3) / 4
    finish(planned, tmp_path / "whole")
    assert content(place) == content(tmp_path / "whole" / place.name)


def test_a_run_that_diverges_is_recorded_and_the_others_follow(tmp_path: Path):
    found = finish(plan("sam", rho=[DIVERGES, 0.1]), tmp_path)
    bad, good = found.trials
    assert bad.failure is not None
    assert bad.failure.startswith("training diverged: a loss or gradient that is not finite")
    assert (bad.accuracy, good.failure) == (None, None)
    assert good.accuracy is not None
    assert found.cells[0].accuracy is None


def test_another_run_in_the_place_of_one_is_refused_before_anything_is_trained(tmp_path: Path):
    finish(plan("sam"), tmp_path)
    before = content(tmp_path / "sam-gelu-seed=0")
    other = plan("none", "sam", changes={"lr": 0.01})
    words = refusal(lambda: finish(other, tmp_path))
    assert "another configuration" in words
    assert f"got: {tmp_path / 'sam-gelu-seed=0'}" in words
    assert "choose another --out" in words
    assert not (tmp_path / "none-gelu-seed=0").exists()
    assert content(tmp_path / "sam-gelu-seed=0") == before


def test_a_folder_with_a_run_of_no_known_configuration_is_refused(tmp_path: Path):
    planned = plan("none")
    place = tmp_path / planned.trials[0].name
    place.mkdir()
    (place / folder.METRICS).write_text("{}\n{}\n")
    assert "another configuration" in refusal(lambda: finish(planned, tmp_path))


def test_data_that_cannot_be_loaded_stop_the_sweep_and_leave_nothing(tmp_path: Path):
    planned = plan("none", "sam", changes={"data": "missing.npz"})
    assert "missing.npz" in refusal(lambda: finish(planned, tmp_path / "sweep"))
    assert not (tmp_path / "sweep").exists()


def test_cells_are_compared_with_no_regulariser_seed_by_seed():
    found = sweep_result.report(sweeps.complete())
    for cell in found.cells:
        own = {run.seed: run.accuracy for run in cell.runs}
        if cell.method == "none" or cell is found.cells[0]:
            assert cell.difference is None
            continue
        other = next(c for c in found.cells if c.name == cell.against)
        gains = [own[run.seed] - run.accuracy for run in other.runs]
        assert cell.difference.mean == pytest.approx(sum(gains) / len(gains))
        assert cell.difference.count == len(gains)


# --- many at once ------------------------------------------------------------------------------


def pickled(
    tasks: Mapping[str, Task], on_wait: Callable[[], None]
) -> Generator[tuple[str, str | None]]:
    """Run tasks as other processes would get them, the last one first."""
    for name, task in reversed([*tasks.items()]):
        failure = pickle.loads(pickle.dumps(task))()
        on_wait()
        yield name, failure


def test_an_engine_leaves_the_table_and_the_bytes_of_one_process(tmp_path: Path):
    planned = plan("none", "sam", seeds=(0, 1), rho=[DIVERGES, 0.1])
    states: list[Progress] = []
    found = finish(planned, tmp_path / "many", engine=pickled, on_step=states.append)
    assert found == finish(planned, tmp_path / "one")
    for trial in found.trials:
        places = [tmp_path / which / trial.name for which in ("many", "one")]
        assert trial.failure or content(places[0]) == content(places[1])
    assert [now.done for now in states] == [1, 1, 2, 3, 3, 4]  # two of them diverge
    assert {now.expected for now in states} == {6}


def test_a_lost_run_is_a_failure_and_the_same_command_goes_on(tmp_path: Path):
    def loses(
        tasks: Mapping[str, Task], on_wait: Callable[[], None]
    ) -> Generator[tuple[str, str | None]]:
        yield next(iter(tasks)), "its process was lost"
        yield from pickled(dict([*tasks.items()][1:]), on_wait)

    planned = plan("none", "sam")
    found = finish(planned, tmp_path, engine=loses)
    assert [trial.failure for trial in found.trials] == ["its process was lost", None]
    assert finish(planned, tmp_path, engine=pickled).trials[1] == found.trials[1]
    assert len([*sweep.run(planned, tmp_path)]) == 1  # nothing is left to do
