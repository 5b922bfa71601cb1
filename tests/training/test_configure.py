"""A run's configuration: the recipe, then a file, then options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hessdiag.errors import InputError
from hessdiag.training import methods
from hessdiag.training.configure import configure
from hessdiag.training.folder import Config
from hessdiag.training.recipes import find

RECIPE = "digits-wrn10-1"


def made(recipe: str = RECIPE, **options: Any) -> Config:
    return configure(recipe, **{"changes": {}, "strengths": {}, **options})


def refusal(**options: Any) -> str:
    with pytest.raises(InputError) as caught:
        made(**options)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text('model = "mlp-8"\nlr = 0.02\nepochs = 4\nregulariser = "sam"\nrho = 0.3\n')
    return str(path)


def test_a_recipe_is_complete_by_itself() -> None:
    assert made() == Config(find(RECIPE))
    assert made("finetune-resnet34") == Config(find("finetune-resnet34"))
    assert made("finetune-resnet34").method == methods.NSO(sigma2=1e-4, num_pairs=1)


def test_a_file_wins_over_the_recipe(file: str) -> None:
    changes = {"model": "mlp-8", "lr": 0.02, "epochs": 4, "method": methods.SAM(0.3)}
    assert made(file=file) == Config(replace(find(RECIPE), **changes))


def test_options_win_over_the_file(file: str) -> None:
    found = made(
        file=file, changes={"lr": 0.5, "model": None}, strengths={"rho": 0.1, "kappa": None}
    )
    assert (found.recipe.lr, found.recipe.model, found.recipe.epochs) == (0.5, "mlp-8", 4)
    assert found.method == methods.SAM(0.1)
    other = made(file=file, changes={"regulariser": "asam"})
    assert other.method == methods.ASAM(0.3)


def test_what_is_not_given_keeps_its_default() -> None:
    assert made(seed=0, save_every=None, log_every=None, num_samples=None) == made()
    own = {"seed": 4, "save_every": 2, "log_every": 3, "num_samples": 50, "track_every": 5}
    own |= {"on_nonfinite": "skip", "track": ("nme.trace",), "pac_bayes": True}
    found = made(**own)
    assert {name: getattr(found, name) for name in own} == own
    assert Config.from_toml(found.to_toml()) == found


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("field", ["num_samples", "save_every", "log_every", "track_every"])
def test_counts_below_one_are_refused(field: str, value: int) -> None:
    message = refusal(**{field: value})
    assert message == f"`{field}` is out of range\n  got: {value}\n  wanted: at least 1"
    assert getattr(made(**{field: 1}), field) == 1


def test_on_nonfinite_is_to_stop_or_to_skip() -> None:
    assert made().on_nonfinite == "stop"
    assert "unknown choice in `on_nonfinite`" in (message := refusal(on_nonfinite="skpi"))
    assert "did you mean skip" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epohcs = 3", "did you mean epochs"),
        ("surprise = 3", "mine.toml\n  got: 'surprise'"),
        ('track = ["nme.trace"]', "mine.toml\n  got: 'track'"),
        ('regulariser = "none"\nrho = 0.1', "none does not take `rho`"),
        ('lr = "fast"', "wrong type"),
    ],
)
def test_a_file_of_other_things_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    assert words in refusal(file=str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "digits"}, "unknown recipe"),
        ({"changes": {"regulariser": "smm"}}, "unknown regulariser"),
        ({"changes": {"lr": -1.0}}, "`lr` is out of range"),
        ({"strengths": {"rho": 0.1}}, "none does not take `rho`"),
        ({"changes": {"regulariser": "gn-trace", "precision": "bf16"}}, "second derivatives"),
        ({"changes": {"regulariser": "gn-trace"}, "compile": True}, "gn-trace, which needs one"),
    ],
    ids=str,
)
def test_choices_that_do_not_go_together_are_refused(options: dict[str, Any], words: str) -> None:
    assert words in refusal(**options)


@pytest.mark.parametrize("method", methods.METHODS)
def test_methods_of_first_order_may_be_compiled(method: str) -> None:
    options: dict[str, Any] = {"changes": {"regulariser": method}, "compile": True}
    if methods.find(method).second_derivative:
        assert "leave --compile out" in refusal(**options)
    else:
        assert made(**options).compile


def test_a_recipe_that_starts_from_weights_may_start_afresh() -> None:
    assert made("finetune-resnet34").recipe.init == "torchvision"
    assert made("finetune-resnet34", changes={"init": "fresh"}).recipe.init is None
    assert made("finetune-resnet34", changes={"init": "a.pt"}).recipe.init == "a.pt"


def test_a_compiled_network_is_for_first_derivatives_alone() -> None:
    assert made(compile=True, changes={"regulariser": "sam"}).compile
    message = refusal(compile=True, changes={"regulariser": "gn-trace"})
    assert "a compiled network has no second derivative" in message
    assert "leave --compile out" in message
