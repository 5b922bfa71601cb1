"""A run that is stopped and goes on is, byte for byte, the run that was never stopped."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hessdiag.data.datasets import Dataset
from hessdiag.errors import InputError
from hessdiag.seeds import stream
from hessdiag.training import folder, loop, methods, recipes, state
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch, Standing

RESULTS = (folder.LAST, folder.BEST, folder.METRICS)
RECIPE = replace(recipes.find("digits-wrn10-1"), model="mlp-16", epochs=3, batch_size=16)
WRN = replace(RECIPE, model="wrn10-1", epochs=2, augmentation=("flip", "crop4"))
PER_EPOCH = 5  # 72 examples

each_method = pytest.mark.parametrize("method", methods.METHODS)


class Stopped(BaseException):
    """Raised in the middle of a run."""


def config(method: str = "none", *, recipe: recipes.Recipe = RECIPE, **fields: Any) -> Config:
    kind = methods.find(method)
    options = {name: fields.pop(name) for name in list(fields) if name in kind.options()}
    recipe = replace(recipe, method=kind(**options))
    return Config(recipe, **{"num_samples": 72, "save_every": 1, **fields})


@cache
def sets(num_samples: int | None) -> tuple[Dataset, Dataset]:
    data, test = loop.load_data(config(num_samples=num_samples))
    assert test is not None
    return data, replace(test, inputs=test.inputs[:50], targets=test.targets[:50])


def start(out: Path, given: Config, data: Dataset | None = None, **options: Any) -> Path:
    out.mkdir(exist_ok=True)
    own, test = sets(given.num_samples)
    loop.train(given, data or own, test, out=out, **options)
    return out


def go_on(out: Path, given: Config, data: Dataset | None = None, **options: Any) -> Path:
    payload, remark = state.load(out)
    assert payload is not None
    assert remark is None
    return start(out, given, data, payload=payload, **options)


def stop_at(step: int) -> Callable[[Standing], None]:
    def on_step(now: Standing) -> None:
        if now.step == step:
            raise Stopped

    return on_step


def stopped(out: Path, given: Config, step: int, data: Dataset | None = None) -> Path:
    with pytest.raises(Stopped):
        start(out, given, data, on_step=stop_at(step))
    return out


def results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in RESULTS}


def same_again(tmp_path: Path, given: Config, *stops: int, data: Dataset | None = None) -> None:
    """Compare the run with one that is stopped at these steps, each time going on."""
    whole = start(tmp_path / "whole", replace(given, save_every=None), data)
    parts = stopped(tmp_path / "parts", given, stops[0], data)
    for step in stops[1:]:
        with pytest.raises(Stopped):
            go_on(parts, given, data, on_step=stop_at(step))
    go_on(parts, given, data)
    assert results(parts) == results(whole)


def bad_data(where: int = 7, value: float = 3e38) -> Dataset:
    """Data of which one example overflows."""
    data, _ = sets(72)
    inputs = data.inputs.clone()
    inputs[where] = value
    return replace(data, inputs=inputs)


def orders(size: int, seed: int = 0, epochs: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(stream(seed, "order"))
    return [torch.randperm(size, generator=generator) for _ in range(epochs)]


def bad_steps(where: int = 7) -> list[int]:
    """The step of each epoch, from 1, whose batch holds the example ``where``."""
    positions = [order.tolist().index(where) for order in orders(72, epochs=3)]
    return [1 + PER_EPOCH * epoch + place // 16 for epoch, place in enumerate(positions)]


def dropping() -> nn.Module:
    """Make a network whose steps draw from the global random state."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 10)
    )


# --- the same run ------------------------------------------------------------------------------


@pytest.mark.parametrize(("save_every", "stop"), [(1, 8), (3, 9)], ids=str)
@each_method
def test_every_method_goes_on_as_if_never_stopped(
    tmp_path: Path, method: str, save_every: int, stop: int
):
    same_again(tmp_path, config(method, save_every=save_every), stop)


@pytest.mark.parametrize("stops", [(1 + PER_EPOCH,), (2,), (14,), (3, 4, 9, 15)], ids=str)
def test_any_step_may_be_the_last(tmp_path: Path, stops: tuple[int, ...]):
    same_again(tmp_path, config("weight-noise"), *stops)


@pytest.mark.parametrize("method", ["none", "nme-trace"])
def test_batchnorm_and_augmentation_go_on(tmp_path: Path, method: str):
    same_again(tmp_path, config(method, recipe=WRN, num_samples=24), 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "Adam", "amsgrad": True, "lr": 0.01, "schedule": "step", "step_epochs": 1},
        {"optimizer": "AdamW", "lr": 0.01, "warmup_epochs": 1.5},
        {"momentum": 0.0, "decay_norm_and_bias": False},
        {"validation": 0.2},
        {"loss": "mse"},
        {"precision": "bf16"},
        {"head_std": 0.01, "label_smoothing": 0.1},
        {"model": "tests.training.test_resume:dropping", "activation": None},
    ],
    ids=str,
)
def test_every_kind_of_recipe_goes_on(tmp_path: Path, changes: dict[str, Any]):
    same_again(tmp_path, config("sam", recipe=replace(RECIPE, **changes)), 8)


def test_a_state_only_at_the_end_of_an_epoch(tmp_path: Path):
    given = config("nso", save_every=None)
    parts = stopped(tmp_path / "parts", given, 8)
    payload, _ = state.load(parts)
    assert payload is not None
    assert payload["step"] == PER_EPOCH
    go_on(parts, given)
    assert results(parts) == results(start(tmp_path / "whole", given))


def test_stopped_between_the_checkpoint_and_the_state(tmp_path: Path):
    """The metrics and the best checkpoint are of an epoch that comes once more."""
    given = config("sam", save_every=None)

    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Stopped

    parts = tmp_path / "parts"
    with pytest.raises(Stopped):
        start(parts, given, on_epoch=on_epoch)
    assert len(folder.read_metrics(parts)) == 2
    go_on(parts, given)
    assert results(parts) == results(start(tmp_path / "whole", given))


def test_going_on_from_the_state_before(tmp_path: Path):
    given = config("gn-trace")
    parts = stopped(tmp_path / "parts", given, 9)
    current = parts / state.CURRENT
    current.write_bytes(current.read_bytes()[:-9])
    payload, remark = state.load(parts)
    assert payload is not None
    assert payload["step"] == 7
    assert remark is not None
    start(parts, given, payload=payload)
    assert results(parts) == results(start(tmp_path / "whole", given))


def test_a_finished_run_has_nothing_to_go_on_with(tmp_path: Path):
    whole = start(tmp_path / "whole", config())
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    go_on(whole, config(), on_step=lambda *_: pytest.fail("it took a step"))
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_the_global_random_state_is_of_no_account(tmp_path: Path):
    given = config("nso", recipe=replace(RECIPE, model="tests.training.test_resume:dropping"))
    given = replace(given, recipe=replace(given.recipe, activation=None))
    parts = stopped(tmp_path / "parts", given, 8)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    go_on(parts, given)
    assert torch.equal(torch.get_rng_state(), before)
    assert results(parts) == results(start(tmp_path / "whole", given))


# --- runs of 0.1 --------------------------------------------------------------------------------


def laid_out_as_before(text: str) -> str:
    """Write the configuration of a gn-trace run as 0.1 did, with the method in three places."""
    own, _, options = text.partition("\n[method]\n")
    values = dict(line.split(" = ") for line in options.splitlines())
    regulariser = f"regulariser = {values.pop('name')}\n"
    assert values.pop("labels") == '"detached"'
    values |= {"rho": "0.0", "power": "1", "ablate_nme": "false", "probe": '"gaussian"'}
    values |= {"straight_through": "false", "num_pairs": "1"}
    strengths = "".join(f"{name} = {value}\n" for name, value in values.items())
    own = own.replace("\nsource = ", f"\n{regulariser}strengths = []\nsource = ")
    return f"{regulariser}{own}\n[strengths]\n{strengths}"


def test_a_run_of_0_1_goes_on_with_its_own_labels(tmp_path: Path):
    given = config("gn-trace", labels="detached")
    parts = stopped(tmp_path / "parts", given, 8)
    text = laid_out_as_before((parts / folder.CONFIG).read_text("utf-8"))
    (parts / folder.CONFIG).write_text(text, "utf-8")
    payload, _ = state.load(parts)
    assert payload is not None
    state.save(parts, payload | {"config": hashlib.sha256(text.encode()).hexdigest()})
    assert folder.read_config(parts) == given
    assert folder.is_finished(parts, given) is False
    go_on(parts, folder.read_config(parts))
    assert results(parts) == results(start(tmp_path / "whole", given))


def test_what_0_1_left_beside_a_kappa_is_dropped():
    table = {"rho": 0.0, "sigma2": 0.002, "kappa": 0.3, "samples": 2, "straight_through": True}
    wanted = methods.GNTrace(kappa=0.3, samples=2, labels="straight-through")
    assert methods.remembered("gn-trace", table) == wanted
    assert methods.remembered("sam", {"rho": 0.3, "straight_through": False}) == methods.SAM(0.3)


# --- what is refused ---------------------------------------------------------------------------


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        config(seed=1),
        config(save_every=2),
        config("sam"),
        config(recipe=replace(RECIPE, lr=0.11)),
        config(recipe=replace(RECIPE, epochs=4)),
    ],
    ids=["seed", "save_every", "regulariser", "lr", "epochs"],
)
def test_another_configuration_is_refused(tmp_path: Path, changed: Config):
    parts = stopped(tmp_path / "parts", config(), 8)
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    message = refusal(lambda: go_on(parts, changed))
    assert "the run's configuration changed" in message
    assert "--force" in message
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before


@pytest.mark.parametrize("what", ["inputs", "targets"])
def test_other_data_is_refused(tmp_path: Path, what: str):
    data, _ = sets(72)
    parts = stopped(tmp_path / "parts", config(), 8)
    tensor = getattr(data, what).clone()
    tensor[-1] = 0 if tensor[-1].any() else 1
    changed = replace(data, **{what: tensor})
    message = refusal(lambda: go_on(parts, config(), changed))
    assert "the run's training data changed" in message


@each_method
def test_bf16_is_for_methods_of_first_order(tmp_path: Path, method: str):
    if methods.find(method).second_derivative:
        message = refusal(lambda: methods.settle(method, precision="bf16"))
        assert f"{method} needs second derivatives" in message
        assert "float32" in message
    else:
        epochs: list[Epoch] = []
        given = config(method, recipe=replace(RECIPE, precision="bf16"))
        start(tmp_path / "run", given, on_epoch=epochs.append)
        assert epochs[-1].train_loss < epochs[0].train_loss


# --- kill -9 -----------------------------------------------------------------------------------


def spawn(*args: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hessdiag", "train", *map(str, args), "--quiet"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def newest(out: Path) -> bytes | None:
    """The state's bytes; None while there is none, as between the two steps of its writing."""
    try:
        return (out / state.CURRENT).read_bytes()
    except FileNotFoundError:
        return None


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(tmp_path: Path):
    options: list[Any] = ["--model", "mlp-16", "--reg", "nso", "--device", "cpu"]
    options += ["--num-samples", 256, "--batch-size", 2, "--epochs", 3, "--save-every", 1]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with spawn(*options, "--out", whole) as process:
        assert process.wait(120) == 0
    draw = random.Random(0)
    args: list[Any] = [*options, "--out", parts]
    kills = 0
    for _ in range(4):
        before = newest(parts)
        with spawn(*args) as process:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if newest(parts) not in (None, before):
                    break
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.3))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait(60)
        args = ["resume", parts, "--device", "cpu"]
    with spawn(*args) as process:
        assert process.wait(120) == 0
    assert kills >= 3
    assert results(parts) == results(whole)
    assert [row["number"] for row in folder.read_metrics(parts)] == [1, 2, 3]
    leftover = [path.name for path in parts.iterdir() if path.name not in folder.FILES]
    assert all(name.startswith(".hessdiag-") for name in leftover)  # of writes that were cut short
