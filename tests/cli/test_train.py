"""``hessdiag train`` and ``train recipes``."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessdiag.nets import checkpoints
from hessdiag.training import folder, loop, methods
from hessdiag.training.recipes import RECIPES
from tests.cli.conftest import FAST, Run, images
from tests.cli.test_bad_input import refused

FILES = [
    "best.safetensors",
    "config.toml",
    "curves.png",
    "metrics.jsonl",
    "model.safetensors",
    "report.json",
    "state.pt",
]
TINY = ("--model", "mlp-8", "--epochs", 1, "--num-samples", 64)


def test_the_path_goes_to_stdout_and_talk_to_stderr(run: Run, here: Path):
    outcome = run("train", *TINY, "--out", "a/b")
    assert outcome.code == 0
    assert outcome.out == "a/b/model.safetensors\n"
    progress, headline, size, epoch, cost = filter(None, outcome.err.splitlines())
    assert re.match(r"epoch 1/1: loss \d\.\d+, train accuracy .*, test accuracy", progress)
    assert headline == "mlp-8 gelu on digits (train), none"
    assert size == "610 parameters"
    assert re.match(r"epoch 1: loss \d\.\d+, train accuracy .*, test accuracy", epoch)
    assert re.match(r"[\d.]+ s, \d+ images/s, peak memory [\d.]+ GiB, float32 on cpu$", cost)
    assert sorted(path.name for path in (here / "a/b").iterdir()) == FILES


def test_quiet_prints_nothing(run: Run, here: Path):
    outcome = run("train", *TINY, "--out", "run", "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert (here / "run/model.safetensors").exists()


@pytest.mark.parametrize("name", [":smile:", "[red]", "[/]", "a b", "ü"])
def test_the_path_is_printed_as_it_is(run: Run, here: Path, name: str):
    outcome = run("train", *TINY, "--out", name)
    assert outcome.out == f"{name}/model.safetensors\n"
    assert (here / name / "model.safetensors").exists()


def test_the_default_folder_names_recipe_regulariser_and_time(run: Run, here: Path):
    assert run("train", *TINY).code == 0
    (place,) = (here / "runs").iterdir()
    assert re.fullmatch(r"digits-wrn10-1-none-\d{8}-\d{6}-[0-9a-f]{6}", place.name)


def test_a_run_is_not_replaced_without_force(run: Run, here: Path):
    assert run("train", *TINY, "--out", "run", "--seed", 1).code == 0
    first = (here / "run/model.safetensors").read_bytes()
    refused(run("train", *TINY, "--out", "run"), "holds a run already.*--force")
    assert (here / "run/model.safetensors").read_bytes() == first
    assert run("train", *TINY, "--out", "run", "--force").code == 0
    assert (here / "run/model.safetensors").read_bytes() != first


def test_options_override_the_recipe_and_reach_the_metadata(run: Run, here: Path):
    options = ("--activation", "beta_gelu", "--beta", 2, "--lr", 0.01, "--batch-size", 16)
    assert run("train", *TINY, *options, "--out", "run").code == 0
    meta = checkpoints.read(here / "run/model.safetensors").metadata
    assert meta is not None
    assert meta.model.activation == "beta_gelu"
    assert meta.model.beta == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--recipe", "digits-wrn"), "unknown recipe.*did you mean digits-wrn10-1"),
        (("--reg", "nnoe"), "unknown regulariser.*did you mean none"),
        (("--activation", "rleu"), "unknown activation.*did you mean relu"),
        (("--model", "wrn11-1"), "wrn11-1|depth"),
        (("--data", "digist"), "unknown data.*did you mean digits"),
        (("--data", "none.npz"), "data file does not exist"),
        (("--epochs", 0), "epochs is out of range"),
        (("--batch-size", 1), "--batch-size is out of range"),
        (("--lr", -1), "lr is out of range"),
        (("--lr", "nan"), "lr is out of range"),
        (("--beta", 2), "takes no β"),
        (("--num-samples", 5000), "samples is out of range"),
        (("--lr", 1e30, "--batch-size", 16), "diverged.*step 2 of 4.*smaller --lr"),
        (("--lr", 1e39), "diverged|lr is out of range"),  # beyond float32
        (("--recipe", ""), "unknown recipe"),
        (("--reg", "hessian_trace"), "unknown regulariser.*did you mean hessian-trace"),
        (("--reg", ""), "unknown regulariser"),
        (("--optimizer", "sdg"), "unknown optimizer.*did you mean sgd"),
        (("--precision", "bf61"), "unknown precision.*did you mean bf16"),
        (("--on-nonfinite", "skpi"), "unknown choice in --on-nonfinite.*did you mean skip"),
        (("--save-every", 0), "--save-every is out of range"),
        (("--num-samples", 0), "--num-samples is out of range"),
        (("--num-samples", 1), "at least two examples"),
        (("--reg", "sam", "--rho", -1), "--rho is out of range"),
        (("--reg", "sam", "--rho", "nan"), "--rho is out of range"),
        (("--reg", "grad-penalty", "--power", 3), "--power is out of range.*at most 2"),
        (("--reg", "nso", "--num-pairs", 0), "--num-pairs is out of range"),
        (("--reg", "hessian-trace", "--probe", "gausian"), "unknown.*did you mean gaussian"),
        (("--reg", "gn-trace", "--sigma2", 1, "--kappa", 1), "say the same thing"),
        (("--reg", "nme-trace", "--activation", "augmented_relu"), "third derivative"),
        (("--reg", "gn-trace", "--precision", "bf16"), "second derivatives.*float32"),
    ],
    ids=str,
)
def test_bad_input_leaves_no_checkpoint(run: Run, here: Path, args: tuple[Any, ...], words: str):
    refused(run("train", *TINY, "--out", "run", *args), words)
    assert not [path for path in here.rglob("*") if path.is_file()]


def test_a_refused_run_leaves_no_folder(run: Run, here: Path):
    refused(run("train", "--data", "none.npz"), "does not exist")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_an_out_that_cannot_be_made(run: Run, here: Path, out: str):
    (here / "file").write_text("")
    refused(run("train", *TINY, "--out", out), "cannot make the folder")


def test_a_last_batch_of_one_example(run: Run, here: Path):
    """BatchNorm over 1x1 maps cannot train on a single example."""
    args = ("--model", "resnet18", "--epochs", 1, "--num-samples", 5, "--batch-size", 4)
    outcome = run("train", *args, "--out", "run")
    assert "Traceback" not in outcome.err


def test_a_network_from_a_factory(run: Run, here: Path):
    (here / "trainable_nets.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    args = ("--model", "trainable_nets:net", "--epochs", 1, "--num-samples", 20)
    outcome = run("train", *args, "--out", "run")
    assert outcome.code == 0, outcome.err
    spectrum = ("spectrum", "run/model.safetensors", *FAST)
    refused(run(*spectrum), "--model trainable_nets:net")  # a file does not choose code to run
    assert run(*spectrum, "--model", "trainable_nets:net").code == 0


def test_without_a_test_split_there_is_no_test_accuracy(run: Run, here: Path):
    """A file that holds one split is no test of what was trained on it."""
    data = images(here / "own.npz")
    args = ("--data", data, "--model", "mlp-8", "--epochs", 1, "--out", "run")
    outcome = run("train", *args)
    assert outcome.code == 0
    assert "test accuracy" not in outcome.err
    meta = checkpoints.read(here / "run/model.safetensors").metadata
    assert meta is not None
    assert "test_accuracy" not in meta.metrics


def test_the_recipe_itself_trains_a_wrn(run: Run, here: Path):
    """The default network: a spectrum of it needs nothing but the file."""
    assert run("train", "--epochs", 1, "--num-samples", 64, "--out", "run").code == 0
    args = ("--num-samples", 8, "--num-probes", 2, "--top-k", 0, "--no-density", "--json", "-")
    found = json.loads(run("spectrum", "run/model.safetensors", *args).out)
    assert found["model"]["name"] == "wrn10-1"
    assert found["model"]["activation"] == "gelu"


# --- methods -----------------------------------------------------------------------------------

VALUES: dict[str, tuple[Any, ...]] = {
    "rho": (0.2,),
    "power": (2,),
    "ablate_nme": (),
    "sigma2": (0.01,),
    "kappa": (0.02,),
    "samples": (2,),
    "probe": ("rademacher",),
    "labels": ("detached",),
    "num_pairs": (2,),
}


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_trains(run: Run, here: Path, method: str):
    outcome = run("train", *TINY, "--batch-size", 32, "--reg", method, "--out", "run")
    assert outcome.code == 0, outcome.err
    config = folder.read_config(here / "run")
    assert config.method == methods.settle(method)
    meta = checkpoints.read(here / "run/model.safetensors").metadata
    assert meta is not None
    assert meta.regulariser == method


@pytest.mark.parametrize("method", methods.METHODS)
def test_options_reach_the_method(run: Run, here: Path, method: str, monkeypatch):
    monkeypatch.setattr(loop, "load_data", lambda config, **_: pytest.fail(config.to_toml()))
    given = {key: (*values, True)[0] for key, values in VALUES.items()}
    given = {key: given[key] for key in methods.find(method).options() if key != "kappa"}
    args = [arg for key in given for arg in (methods.OPTIONS[key].flag, *VALUES[key])]
    with pytest.raises(pytest.fail.Exception) as caught:
        run("train", "--reg", method, *args)
    config = folder.Config.from_toml(str(caught.value))
    assert config.method == methods.settle(method, **given)


@pytest.mark.parametrize("method", methods.METHODS)
def test_options_that_a_method_does_not_take_are_refused(run: Run, here: Path, method: str):
    for key, option in methods.OPTIONS.items():
        if key not in methods.find(method).options():
            outcome = run("train", *TINY, "--reg", method, option.flag, *VALUES[key])
            refused(outcome, f"the regulariser {method} does not take {option.flag}")
            assert outcome.err.count("error:") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "method", "strengths"),
    [
        ((), "nso", {"sigma2": 1e-4, "num_pairs": 1}),
        (("--num-pairs", 3), "nso", {"sigma2": 1e-4, "num_pairs": 3}),
        (("--reg", "nso", "--sigma2", 0.5), "nso", {"sigma2": 0.5, "num_pairs": 1}),
        (("--reg", "weight-noise"), "weight-noise", {}),
        (("--reg", "none"), "none", {}),
    ],
    ids=str,
)
def test_a_recipe_may_bring_its_method(
    run: Run, monkeypatch, args: tuple[Any, ...], method: str, strengths: dict[str, Any]
):
    monkeypatch.setattr(loop, "load_data", lambda config, **_: pytest.fail(config.to_toml()))
    with pytest.raises(pytest.fail.Exception) as caught:
        run("train", "--recipe", "finetune-resnet34", *args)
    config = folder.Config.from_toml(str(caught.value))
    assert config.method == methods.settle(method, **strengths)


def test_straight_through_is_a_choice_of_labels(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "load_data", lambda config, **_: pytest.fail(config.to_toml()))
    with pytest.raises(pytest.fail.Exception) as caught:
        run("train", "--reg", "gn-trace", "--straight-through")
    config = folder.Config.from_toml(str(caught.value))
    assert config.method == methods.GNTrace(labels="straight-through")


def test_precision_bf16(run: Run, here: Path):
    args = ("--reg", "sam", "--precision", "bf16", "--out", "run")
    assert run("train", *TINY, *args).code == 0
    assert folder.read_config(here / "run").recipe.precision == "bf16"
    tensors = checkpoints.read(here / "run/model.safetensors").tensors
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float32"}


# --- configuration files -----------------------------------------------------------------------


def test_a_configuration_file_is_overridden_by_options(run: Run, here: Path):
    (here / "mine.toml").write_text(
        'model = "mlp-8"\nepochs = 1\nlr = 0.02\nbatch_size = 16\naugmentation = ["flip"]\n'
        'regulariser = "sam"\nrho = 0.3\n'
    )
    args = ("train", "--config", "mine.toml", "--num-samples", 32)
    assert run(*args, "--out", "a").code == 0
    config = folder.read_config(here / "a")
    assert (config.recipe.model, config.recipe.epochs, config.recipe.lr) == ("mlp-8", 1, 0.02)
    assert (config.recipe.batch_size, config.recipe.augmentation) == (16, ("flip",))
    assert config.method == methods.SAM(0.3)
    assert run(*args, "--lr", 0.05, "--rho", 0.1, "--model", "mlp-9", "--out", "b").code == 0
    config = folder.read_config(here / "b")
    assert (config.recipe.model, config.recipe.lr) == ("mlp-9", 0.05)
    assert config.method == methods.SAM(0.1)
    assert config.recipe.batch_size == 16
    assert run(*args, "--reg", "asam", "--out", "c").code == 0
    config = folder.read_config(here / "c")
    assert config.method == methods.ASAM(0.3)


def test_a_table_of_strengths_counts(run: Run, here: Path):
    (here / "mine.toml").write_text('regulariser = "sam"\n[strengths]\nrho = 0.3\n')
    args = ("train", *TINY, "--config", "mine.toml")
    assert run(*args, "--out", "a").code == 0
    assert folder.read_config(here / "a").method == methods.SAM(0.3)
    assert run(*args, "--rho", 0.2, "--out", "b").code == 0
    assert folder.read_config(here / "b").method == methods.SAM(0.2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr = ", "cannot be read as TOML"),
        ("learning_rate = 0.1", "unknown key in mine.toml"),
        ("epohcs = 3", "did you mean epochs"),
        ('lr = "fast"', "lr in mine.toml has the wrong type"),
        ("lr = -1", "lr is out of range"),
        ('regulariser = "smm"', "unknown regulariser"),
        ('regulariser = "none"\nrho = 0.1', "none does not take --rho"),
        ('regulariser = "sam"\nrho = -1', "--rho is out of range"),
        ('augmentation = ["flop"]', "unknown augmentation.*did you mean flip"),
        ("[strengths]\nrhoo = 1", "did you mean rho"),
        ("[strengths]\nrho = 1", "does not take --rho"),
    ],
    ids=str,
)
def test_a_bad_configuration_file(run: Run, here: Path, text: str, words: str):
    (here / "mine.toml").write_text(text)
    refused(run("train", *TINY, "--config", "mine.toml", "--out", "run"), words)
    assert [path.name for path in here.iterdir()] == ["mine.toml"]


def test_a_missing_configuration_file(run: Run, here: Path):
    refused(run("train", *TINY, "--config", "none.toml"), "the file none.toml cannot be read")


def test_recipes_lists_them_all(run: Run):
    outcome = run("train", "recipes")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.partition(":")[0] for line in outcome.out.splitlines()] == [*RECIPES]


def test_holding_out_all_examples_is_refused(run: Run, here: Path):
    (here / "mine.toml").write_text("validation = 0.9\n")
    args = ("--config", "mine.toml", "--num-samples", 3, "--out", "run")
    refused(run("train", *TINY, *args), "example")


def test_a_mistyped_command_is_told_as_one(run: Run):
    outcome = run("train", "resme", "run")
    assert outcome.code == 2
    assert "resume" in outcome.err


def test_skipped_steps_are_counted(run: Run, here: Path):
    inputs = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    inputs[5] = 3e38
    np.savez(here / "own.npz", inputs=inputs, labels=np.arange(32) % 4)
    args = ("train", "--model", "mlp-8", "--data", "own.npz", "--epochs", 2, "--batch-size", 8)
    outcome = run(*args, "--out", "run")  # which notes that there is no test split before
    assert outcome.code == 2
    words = r"error: training diverged.*not finite in step . of 8.*--on-nonfinite skip"
    assert re.search(words, outcome.err, re.DOTALL)
    outcome = run(*args, "--on-nonfinite", "skip", "--out", "run")
    assert outcome.code == 0, outcome.err
    assert [row["num_skipped"] for row in folder.read_metrics(here / "run")] == [1, 1]


def test_label_noise_subset_and_validation_are_known_to_the_checkpoint(run: Run, here: Path):
    options = ("--label-noise", 0.5, "--num-samples", 200, "--validation", 0.2, "--seed", 3)
    small = ("--model", "mlp-8", "--epochs", 1, "--out", "noisy")
    assert run("train", *small, *options).code == 0
    data = checkpoints.read(here / "noisy" / "model.safetensors").metadata.data
    assert (data.num_samples, data.validation, data.label_noise, data.seed) == (200, 0.2, 0.5, 3)
    text = (here / "noisy" / "config.toml").read_text()
    assert "label_noise = 0.5" in text
    assert "validation = 0.2" in text
    assert "validation_accuracy" in (here / "noisy" / "metrics.jsonl").read_text()
    fast = ("--num-samples", 300, "--part", "gn", "--num-probes", 1, "--top-k", 0, "--no-density")

    def loss(*more: Any) -> tuple[float, float]:
        outcome = run("spectrum", here / "noisy" / "model.safetensors", *fast, *more, "--json", "-")
        return tuple(json.loads(outcome.out)["loss"][key] for key in ("value", "accuracy"))

    noisy, clean = loss(), loss("--label-noise", 0)
    assert noisy == loss("--label-noise", 0.5)  # by the run's seed, not the command's
    assert noisy[0] > clean[0]
    assert noisy[1] < clean[1]
