"""A run's folder: its configuration as TOML, its metrics, and what goes when a run fails."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hessdiag import files, locks
from hessdiag.errors import InputError
from hessdiag.training import folder, methods, state
from hessdiag.training.folder import Config
from hessdiag.training.recipes import RECIPES, find

CONFIG = Config(replace(find("digits-wrn10-1"), method=methods.SAM()), seed=3)
ROW = {"number": 1, "train_loss": 0.5, "validation_accuracy": None}


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        Config.from_toml(text)
    return str(caught.value)


# --- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_recipe_and_regulariser_survives(recipe: Any, name: str):
    config = Config(replace(recipe, method=methods.settle(name)))
    assert Config.from_toml(config.to_toml()) == config
    assert Config.from_toml(config.to_toml()).to_toml() == config.to_toml()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_samples": 5, "data_root": "a/b", "save_every": 7, "on_nonfinite": "skip"},
        {"num_samples": None, "data_root": None, "save_every": None},
        {"seed": -(2**40)},
        {"data_root": ""},
    ],
    ids=str,
)
def test_own_fields_survive(changes: dict[str, Any]):
    config = replace(CONFIG, **changes)
    assert Config.from_toml(config.to_toml()) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (0.5,), "std": (0.25,)},
        {"mean": None, "std": None, "beta": None, "activation": None},
        {"augmentation": ()},
        {"augmentation": ("flip", "crop4"), "method": methods.GradientPenalty(0.2, 2, True)},
        {"method": methods.NMETrace(kappa=0.1 + 0.2, samples=3, labels="detached")},
        {"method": methods.NSO(sigma2=1e-30)},
        {"lr": 1e-9, "weight_decay": 5e-324, "head_std": 1e22},
        {"lr": 0.1 + 0.2, "beta": 1 / 3},
    ],
    ids=str,
)
def test_fields_of_the_recipe_survive(changes: dict[str, Any]):
    config = replace(CONFIG, recipe=replace(CONFIG.recipe, **changes))
    assert Config.from_toml(config.to_toml()) == config


@pytest.mark.parametrize(
    "text",
    [
        '"quoted"',
        "it's",
        '"""',
        "back\\slash\\n",
        "tab\tnew\nline\rreturn\0null\x1bescape",
        "délété",
        "β-GELU ∂²",
        "雪 🎿",
        "a = 1\n[recipe]\n",
        "#no comment",
        "\u2028\u0085\ufeff",
        "delete\x7f",
    ],
    ids=ascii,
)
def test_any_text_survives(text: str):
    recipe = replace(CONFIG.recipe, name=text, data=text, source=text)
    config = replace(CONFIG, recipe=recipe, data_root=text)
    assert Config.from_toml(config.to_toml()) == config


def test_the_configuration_survives_the_disk(tmp_path: Path):
    config = replace(CONFIG, data_root="ü 'x' \"y\"")
    folder.prepare(tmp_path, config)
    assert folder.read_config(tmp_path) == config


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[recipe]", "[recpie]"),
        ("[method]", "[mehtod]"),
        ("lr = 0.1", "lr = "),
        ("lr = 0.1", "learning_rate = 0.1"),
        ("epochs = 15", ""),
        ("rho = ", "roh = "),
        ("seed = 3", "seed = 3\nsurprise = 1"),
        ("[recipe]", "recipe = 3\n[other]"),
        ("[method]", "[method]\nsurprise = 1"),
        ('name = "', "name = "),
    ],
    ids=str,
)
def test_a_damaged_configuration_is_refused(old: str, new: str):
    text = CONFIG.to_toml()
    assert old in text
    assert "config.toml" in refusal(text.replace(old, new, 1))


@pytest.mark.parametrize("text", ["", "\0", "recipe = 3\nstrengths = 4\n", "[recipe]", "x" * 99])
def test_what_is_no_configuration_is_refused(text: str):
    assert "config.toml" in refusal(text)


def test_half_a_configuration_is_refused():
    text = CONFIG.to_toml()
    for length in range(0, text.index("[method]"), 7):
        refusal(text[:length])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr = 0.1", 'lr = "fast"'),
        ("epochs = 15", "epochs = 1.5"),
        ("batch_size = 64", "batch_size = [64]"),
        ("seed = 3", 'seed = "three"\nnum_samples = "many"'),
        ("rho = 0.05", 'rho = "much"'),
    ],
    ids=str,
)
def test_values_of_a_wrong_type_are_refused(old: str, new: str):
    text = CONFIG.to_toml()
    assert old in text
    refusal(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epochs = 15", "epochs = 1000000000001"),
        ("batch_size = 64", f"batch_size = {2**62}"),
        ("batch_size = 64", f"batch_size = {'9' * 400}"),
        ("seed = 3", f"seed = {2**63}"),
        ("seed = 3", "seed = 3\nlog_every = -1"),
        ("track_every = 1", "track_every = 0"),
        ("rho = 0.05", "rho = inf"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(old: str, new: str):
    text = CONFIG.to_toml()
    assert old in text
    assert "out of range" in refusal(text.replace(old, new, 1))


def test_a_folder_without_a_run_is_told(tmp_path: Path):
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / folder.CONFIG).write_bytes(b"\xff\xfe")
    (tmp_path / "file").write_text("")
    (tmp_path / "deep" / folder.CONFIG).mkdir(parents=True)
    for name in ("none", "bytes", "file", "deep"):
        with pytest.raises(InputError, match="there is no run to go on with"):
            folder.read_config(tmp_path / name)


# --- metrics -----------------------------------------------------------------------------------


def test_metrics_survive(tmp_path: Path):
    rows = [ROW, {**ROW, "number": 2, "train_loss": 0.1 + 0.2}]
    folder.write_metrics(tmp_path, rows)
    assert folder.read_metrics(tmp_path) == rows
    assert len((tmp_path / folder.METRICS).read_text().splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == [folder.METRICS]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(tmp_path: Path, value: float):
    folder.write_metrics(tmp_path, [{**ROW, "train_loss": value}])

    def constant(text: str) -> Any:
        raise AssertionError(f"{text} is no JSON")

    text = (tmp_path / folder.METRICS).read_text()
    assert json.loads(text, parse_constant=constant) == {**ROW, "train_loss": None}


def test_no_rows_make_an_empty_file(tmp_path: Path):
    folder.write_metrics(tmp_path, [])
    assert folder.read_metrics(tmp_path) == []


# --- the folder --------------------------------------------------------------------------------


def test_a_folder_that_holds_anything_of_a_run_is_not_free(tmp_path: Path):
    place = tmp_path / "a" / "b"
    folder.check_free(place, force=False)
    assert not place.parent.exists()  # to ask makes nothing
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    folder.check_free(place, force=False)
    for name in folder.FILES:
        (place / name).symlink_to("nowhere")
        with pytest.raises(InputError, match=r"(?s)holds a run already.*--force.*train resume"):
            folder.check_free(place, force=False)
        (place / name).unlink()


def test_only_what_a_run_of_ours_left_may_be_replaced(tmp_path: Path):
    (tmp_path / folder.LAST).write_text("somebody's weights")
    with pytest.raises(InputError, match=r"(?s)of no run.*model.safetensors"):
        folder.check_free(tmp_path, force=True)
    (tmp_path / folder.CONFIG).write_text("[somebody]\n")
    with pytest.raises(InputError, match=r"(?s)of no run.*config.toml, model.safetensors"):
        folder.check_free(tmp_path, force=True)
    (tmp_path / folder.CONFIG).write_text(CONFIG.to_toml())
    folder.check_free(tmp_path, force=True)
    assert (tmp_path / folder.LAST).read_text() == "somebody's weights"


def test_preparing_cleans_up_after_an_earlier_run(tmp_path: Path):
    for name in (*folder.FILES, "notes.txt"):
        (tmp_path / name).write_text("old")
    board = tmp_path / folder.BOARD
    board.mkdir()
    for name in ("events.out.tfevents.1.host.2.0", "events.out.tfevents.1.host.2.0.hessdiag"):
        (board / name).write_text("old")
    folder.prepare(tmp_path, CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        folder.CONFIG,
        "notes.txt",
        folder.BOARD,
    ]
    assert folder.read_config(tmp_path) == CONFIG
    assert [path.name for path in board.iterdir()] == ["events.out.tfevents.1.host.2.0"]


@pytest.mark.parametrize("name", [*folder.FILES[1:], folder.BOARD])
def test_at_every_instant_of_preparing_one_configuration_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """And where the disk is full, the earlier run stays as it was."""
    for old in folder.FILES:
        (tmp_path / old).write_text("old")
    real = Path.unlink

    def unlink(path: Path, **options: bool) -> None:
        if path.name == name:
            raise OSError(5, "Input/output error")
        real(path, **options)

    if name == folder.BOARD:
        monkeypatch.setattr(Path, "write_text", lambda *_, **__: os.truncate("/dev/full", 1))
    else:
        monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(InputError, match="cannot write"):
        folder.prepare(tmp_path, CONFIG)
    assert (tmp_path / folder.CONFIG).read_text() == "old"
    assert (tmp_path / folder.REPORT).read_text() == "old"


# --- who owns it -------------------------------------------------------------------------------


def fail(place: Path, error: BaseException, *names: str) -> None:
    """Start a run that writes these files and fails."""
    with folder.owned(place):
        folder.prepare(place, CONFIG)
        for name in names:
            (place / name).write_text("")
        raise error


@pytest.mark.parametrize("error", [InputError("diverged"), KeyboardInterrupt(), ValueError()])
def test_a_run_that_comes_to_nothing_leaves_no_folder(tmp_path: Path, error: BaseException):
    with pytest.raises(type(error)):
        fail(tmp_path / "a" / "b", error)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(tmp_path: Path):
    place = tmp_path / "kept"
    place.mkdir()
    with pytest.raises(ValueError, match="no"):
        fail(place, ValueError("no"))
    assert list(tmp_path.iterdir()) == [place]
    assert list(place.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no"):
        fail(tmp_path / "full", ValueError("no"))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "names", [[state.PREVIOUS], [folder.LAST, folder.METRICS], [folder.STEPS]], ids=str
)
def test_nothing_that_took_work_is_ever_cleaned_up(tmp_path: Path, names: list[str]):
    """Not even without a state: its writing may be what failed."""
    place = tmp_path / "a" / "b"
    with pytest.raises(KeyboardInterrupt):
        fail(place, KeyboardInterrupt(), *names)
    assert sorted(path.name for path in place.iterdir()) == sorted([folder.CONFIG, *names])


def test_a_run_that_ends_well_stays(tmp_path: Path):
    with folder.owned(tmp_path / "a"):
        folder.prepare(tmp_path / "a", CONFIG)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [folder.CONFIG]


def test_a_folder_has_one_owner(tmp_path: Path):
    with folder.owned(tmp_path):
        words = rf"(?s)another process works in.*process {os.getpid()} on .* since 20"
        with pytest.raises(InputError, match=words), folder.owned(tmp_path):
            pytest.fail("it went on")
        with folder.owned(tmp_path / "trial"):
            pass
    with folder.owned(tmp_path):
        pass


def test_a_new_folder_is_nobodys(tmp_path: Path):
    place = folder.unused(str(tmp_path / "run"))
    assert folder.unused(str(tmp_path / "run")) != place
    with folder.owned(place, new=True):
        pass
    with pytest.raises(InputError, match="cannot make the folder"), folder.owned(place, new=True):
        pytest.fail("it went on")


def test_what_killed_processes_left_half_written_goes(tmp_path: Path):
    for name in (
        ".hessdiag-0a1b2c3d",
        ".hessdiag-abcd_fg2",
        ".hessdiag-lock",
        ".hessdiag-mine.txt",
    ):
        (tmp_path / name).write_text("half")
    (tmp_path / ".hessdiag-deadbeef").mkdir()
    (tmp_path / ".hessdiag-11111111").symlink_to(tmp_path / "notes.txt")
    (tmp_path / "notes.txt").write_text("mine")
    with files.replacing(tmp_path / "r.json") as temporary:  # of a process that lives
        with folder.owned(tmp_path):
            assert temporary.exists()
        temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("notes.txt", "r.json", ".hessdiag-mine.txt", ".hessdiag-deadbeef", ".hessdiag-11111111")
    }


@pytest.mark.parametrize("name", [*folder.FILES, folder.SWEEP, folder.BOARD, locks.NAME])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine.txt")
    for target in ("nothing", "a file"):
        with pytest.raises(InputError), folder.owned(tmp_path / "run"):
            pytest.fail(f"it went on with a link to {target}")
        (tmp_path / "mine.txt").write_text("mine")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "run" / name).is_symlink()


@pytest.mark.parametrize("name", [*folder.FILES, folder.BOARD, locks.NAME])
def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path, name: str):
    if name == folder.BOARD:
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError), folder.owned(tmp_path):
        pytest.fail("it went on")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        with (
            pytest.raises(InputError, match="cannot make the folder"),
            folder.owned(tmp_path / name),
        ):
            pytest.fail("it went on")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- when it is finished -----------------------------------------------------------------------


def test_a_run_is_finished_with_its_last_file(tmp_path: Path):
    config = replace(CONFIG, recipe=replace(CONFIG.recipe, epochs=2))
    outputs = (folder.CURVES, folder.REPORT)
    assert not folder.is_finished(tmp_path, config)
    folder.prepare(tmp_path, config)
    (tmp_path / folder.LAST).write_text("weights")
    folder.write_metrics(tmp_path, [{"number": 1}])
    assert not folder.is_finished(tmp_path, config)
    folder.write_metrics(tmp_path, [{"number": 1}, {"number": 2}])
    assert folder.is_finished(tmp_path, config)
    assert not folder.is_finished(tmp_path, config, outputs)
    (tmp_path / folder.CURVES).write_text("curves")
    assert not folder.is_finished(tmp_path, config, outputs)
    sha = folder.digest(tmp_path / folder.LAST)
    (tmp_path / folder.REPORT).write_text(json.dumps({"checkpoint": {"sha256": sha}}))
    assert folder.is_finished(tmp_path, config, outputs)
    for damaged in ("", "weight"):
        (tmp_path / folder.LAST).write_text(damaged)
        assert not folder.is_finished(tmp_path, config, outputs)
    (tmp_path / folder.LAST).unlink()
    assert not folder.is_finished(tmp_path, config)
