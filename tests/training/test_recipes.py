"""Recipes, what may be changed of them, and files that change them."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hessdiag import settings
from hessdiag.data import vision
from hessdiag.errors import InputError
from hessdiag.metadata import ModelSpec
from hessdiag.nets import activations, models
from hessdiag.training import methods, recipes
from hessdiag.training.recipes import Recipe, override, read_config

RECIPE = recipes.find("digits-wrn10-1")
NAMES = (
    "digits-wrn10-1",
    "cifar10-wrn28-10",
    "cifar10-wrn16-4",
    "cifar100-wrn28-10",
    "fashion-mnist-wrn28-10",
    "fashion-mnist-wrn16-4",
    "imagenet-resnet50",
    "finetune-resnet34",
)


def facts(name: str, **wanted: Any) -> None:
    recipe = recipes.find(name)
    assert {key: getattr(recipe, key) for key in wanted} == wanted


def test_every_recipe_goes_by_its_name():
    assert tuple(recipes.RECIPES) == NAMES
    assert all(recipes.find(name).name == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_in_order(name: str):
    recipe = recipes.find(name)
    assert override(recipe, epochs=recipe.epochs) == recipe
    assert recipe.source
    assert "\n" not in recipe.source
    assert recipe.activation in activations.NAMES
    assert recipe.activation == models.default_activation(recipe.model)


def test_the_digits_recipe_stays_what_it_was():
    facts("digits-wrn10-1", model="wrn10-1", activation="gelu", beta=None, data="digits")
    facts("digits-wrn10-1", epochs=15, batch_size=64, lr=0.1, momentum=0.9, nesterov=True)
    facts("digits-wrn10-1", weight_decay=5e-4, decay_norm_and_bias=True, loss="cross-entropy")
    facts("digits-wrn10-1", optimizer="SGD", schedule="cosine", warmup_epochs=0, augmentation=())
    facts("digits-wrn10-1", label_smoothing=0, validation=0, method=methods.Plain())


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("cifar", "fashion"))])
def test_small_images_as_zagoruyko_and_komodakis(name: str):
    data, _, model = name.rpartition("-wrn")
    facts(name, data=data, model=f"wrn{model}", loss="cross-entropy", label_smoothing=0)
    facts(name, optimizer="SGD", momentum=0.9, nesterov=True, lr=0.1, schedule="cosine")
    facts(name, weight_decay=5e-4, decay_norm_and_bias=True, batch_size=128, epochs=200)
    facts(name, augmentation=("flip", "crop4"), warmup_epochs=0, validation=0)
    facts(name, zero_gamma=False, head_std=None, method=methods.Plain())
    facts(name, mean=None, std=None)  # the data's own


def test_cifar10_has_the_means_of_the_source():
    mean, std = vision.ARRAYS["cifar10"][1]
    assert tuple(255 * value for value in mean) == pytest.approx((125.3, 123.0, 113.9), rel=1e-12)
    assert tuple(255 * value for value in std) == pytest.approx((63.0, 62.1, 66.7), rel=1e-12)


def test_imagenet_as_goyal():
    name = "imagenet-resnet50"
    recipe = recipes.find(name)
    facts(name, data="imagenet", model="resnet50", epochs=300, schedule="cosine")
    facts(name, optimizer="SGD", momentum=0.9, nesterov=True)
    facts(name, weight_decay=1e-4, decay_norm_and_bias=False, label_smoothing=0)
    facts(name, warmup_epochs=5, zero_gamma=True, head_std=0.01, method=methods.Plain())
    facts(name, augmentation=("resized-crop", "flip"), validation=0)
    assert recipe.lr == pytest.approx(0.1 * recipe.batch_size / 256, rel=1e-12)
    assert recipe.lr * recipe.warmup_factor == pytest.approx(0.1, rel=1e-12)


def test_the_resnet50_has_its_stride_on_the_3x3_convolution():
    block = models.skeleton(ModelSpec("resnet50")).get_submodule("layer2.0")
    assert block.get_submodule("conv1").stride == (1, 1)
    assert block.get_submodule("conv2").stride == (2, 2)


def test_fine_tuning_as_zhang():
    name = "finetune-resnet34"
    facts(name, model="resnet34", optimizer="Adam", amsgrad=True, lr=1e-4, weight_decay=0)
    facts(name, schedule="step", step_epochs=10, step_factor=0.1, epochs=30, batch_size=32)
    facts(name, validation=0.1, method=methods.NSO(sigma2=1e-4, num_pairs=1), warmup_epochs=0)


def test_unknown_recipes_suggest_the_nearest():
    with pytest.raises(InputError, match="did you mean digits-wrn10-1"):
        recipes.find("digit-wrn-10-1")


def test_a_recipe_in_a_line():
    text = recipes.summary(recipes.find("finetune-resnet34"))
    for part in ("finetune-resnet34:", "resnet34 (relu)", "30 epochs", "batches of 32", "Adam"):
        assert part in text
    assert "nso sigma2=0.0001 num_pairs=1" in text
    assert "β = 4" in recipes.summary(override(RECIPE, activation="beta_gelu", beta=4.0))
    lines = [recipes.summary(recipe) for recipe in recipes.RECIPES.values()]
    assert not any("\n" in line or "None" in line for line in lines)
    assert len(set(lines)) == len(lines)


def test_nothing_given_changes_nothing():
    assert override(RECIPE, epochs=None, lr=None, beta=None) == RECIPE


def test_what_is_given_replaces():
    changed = override(RECIPE, epochs=3, lr=0.5, data="x.npz", model="mlp-4", batch_size=8)
    assert (changed.epochs, changed.lr, changed.data) == (3, 0.5, "x.npz")
    assert (changed.model, changed.batch_size, changed.name) == ("mlp-4", 8, RECIPE.name)
    assert changed.activation == RECIPE.activation
    assert override(RECIPE, nesterov=False).nesterov is False
    assert RECIPE.epochs == 15


def test_a_new_activation_drops_the_old_beta():
    sharp = override(RECIPE, activation="beta_gelu", beta=4.0)
    assert (sharp.activation, sharp.beta) == ("beta_gelu", 4.0)
    assert override(sharp, activation="relu").beta is None
    assert override(sharp, beta=2.0).beta == 2.0
    assert override(sharp, epochs=2).beta == 4.0


def test_a_factory_chooses_its_own_activation():
    assert override(RECIPE, model="nets:net").activation is None
    assert override(RECIPE, model="nets:net", activation="relu").activation == "relu"


def test_new_data_drops_the_old_mean():
    scaled = override(RECIPE, mean=[0.5], std=[2])
    assert (scaled.mean, scaled.std) == ((0.5,), (2.0,))
    assert override(scaled, data="digits").mean == (0.5,)
    other = override(scaled, data="mnist")
    assert (other.mean, other.std) == (None, None)
    assert override(scaled, data="mnist", mean=(0.1,), std=(0.2,)).mean == (0.1,)


def test_a_new_method_drops_the_old_options():
    recipe = recipes.find("finetune-resnet34")
    assert override(recipe, regulariser="sam").method == methods.SAM()
    assert override(recipe, regulariser="nso").method == recipe.method
    assert override(recipe, regulariser="sam", strengths={"rho": 1}).method == methods.SAM(1.0)
    assert override(recipe, strengths={"num_pairs": 3}).method == methods.NSO(1e-4, num_pairs=3)


def test_whole_numbers_and_lists_become_what_the_field_says():
    changed = override(RECIPE, lr=1, augmentation=["flip"])
    assert type(changed.lr) is float
    assert changed.augmentation == ("flip",)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": -0.1},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -1e-4},
        {"weight_decay": float("nan")},
        {"warmup_epochs": -1.0},
        {"warmup_factor": 1.5},
        {"step_epochs": 0},
        {"step_factor": -0.1},
        {"step_factor": 1.1},
        {"label_smoothing": 1.0},
        {"head_std": -0.01},
        {"validation": 1.0},
        {"validation": -0.1},
        {"beta": -1.0},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any]):
    (name,) = change
    with pytest.raises(InputError, match=f"`{name}` is out of range"):
        override(RECIPE, **change)


def test_every_number_has_a_range():
    """A field that is added without one would be found here."""
    numbers = [f.name for f in settings.fields(Recipe) if f.type in (int, float, float | None)]
    assert {"lr", "epochs", "beta"} < set(numbers)
    for name in numbers:
        with pytest.raises(InputError, match=f"`{name}` is out of range"):
            override(RECIPE, **{name: -1})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 3}, "unknown field of a recipe.*did you mean epochs"),
        ({"loss": "mes"}, "unknown loss.*did you mean mse"),
        ({"schedule": "cosin"}, "unknown schedule.*did you mean cosine"),
        ({"precision": "bf61"}, "unknown precision.*did you mean bf16"),
        ({"regulariser": "nos"}, "unknown regulariser.*did you mean nso"),
        ({"augmentation": ("flop",)}, "unknown augmentation.*did you mean flip"),
        ({"optimizer": "Adm"}, "unknown optimizer.*did you mean adam"),
        ({"optimizer": "LBFGS"}, "cannot be used.*closure"),
        ({"strengths": {"ro": 0.1}}, "unknown option of a regulariser.*did you mean rho"),
        ({"strengths": {"rho": 0.1}}, "none does not take `rho`"),
        ({"regulariser": "sam", "strengths": {"rho": -1.0}}, "`rho` is out of range"),
        ({"epochs": 2.5}, "`epochs` has the wrong type.*2.5.*a whole number"),
        ({"epochs": True}, "`epochs` has the wrong type"),
        ({"lr": 10**400}, "`lr` has the wrong type"),
        ({"augmentation": "flip"}, "`augmentation` has the wrong type.*a list"),
        ({"mean": (0.1,)}, "mean or std is out of range"),
        ({"mean": (0.1,), "std": (0.0,)}, "mean or std is out of range"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "mean or std is out of range"),
        ({"mean": (0.1,), "std": (1.0, 1.0)}, "mean or std is out of range"),
        ({"loss": "mse", "label_smoothing": 0.1}, "label smoothing belongs to cross-entropy"),
    ],
    ids=str,
)
def test_what_makes_no_recipe_is_refused(change: dict[str, Any], words: str):
    with pytest.raises(InputError, match=f"(?s){words}"):
        override(RECIPE, **change)


def config(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_file_changes_a_recipe(tmp_path: Path):
    found = read_config(
        config(
            tmp_path,
            """
            optimizer = "AdamW"
            epochs = 3  # of fifteen
            lr = 1
            beta = 2
            activation = "beta_gelu"
            augmentation = ["flip", "crop4"]
            mean = [0, 0.5]
            nesterov = false
            sigma2 = 1e-3
            num_pairs = 2
            probe = "rademacher"
            """,
        )
    )
    assert found == {
        "optimizer": "AdamW",
        "epochs": 3,
        "lr": 1.0,
        "beta": 2.0,
        "activation": "beta_gelu",
        "augmentation": ("flip", "crop4"),
        "mean": (0.0, 0.5),
        "nesterov": False,
        "strengths": {"sigma2": 1e-3, "num_pairs": 2, "probe": "rademacher"},
    }
    assert type(found["lr"]) is type(found["beta"]) is type(found["mean"][0]) is float


def test_an_empty_file_changes_nothing(tmp_path: Path):
    assert read_config(str(config(tmp_path, ""))) == {}


def test_strengths_may_be_a_table(tmp_path: Path):
    found = read_config(config(tmp_path, 'regulariser = "sam"\n[strengths]\nrho = 1\n'))
    assert found == {"regulariser": "sam", "strengths": {"rho": 1.0}}
    assert override(RECIPE, **found).method == methods.SAM(1.0)


def test_fields_and_options_do_not_share_names():
    assert not {f.name for f in fields(Recipe)} & set(methods.OPTIONS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("leraning_rate = 1\nlr = 2", "unknown key in .*config.toml"),
        ("epoch = 3", "unknown key in .*did you mean epochs"),
        ("[strengths]\nro = 3", "unknown option in strengths in .*did you mean rho"),
        ("[recipe]\nlr = 3", "unknown key"),
        ('epochs = "3"', "`epochs` in .*wrong type.*got: '3'.*a whole number"),
        ("epochs = 3.0", "`epochs` in .*wrong type"),
        ("lr = true", "`lr` in .*wrong type.*a number"),
        ("lr = [0.1]", "`lr` in .*wrong type"),
        ("lr = 2020-01-01", "`lr` in .*wrong type"),
        ("model = 3", "`model` in .*wrong type.*text"),
        ("nesterov = 1", "`nesterov` in .*wrong type.*true or false"),
        ('augmentation = "flip"', "`augmentation` in .*wrong type.*a list, each text"),
        ("augmentation = [1]", "`augmentation` in .*wrong type"),
        ('std = ["a"]', "`std` in .*wrong type"),
        ('rho = "big"', "`rho` in .*wrong type"),
        ("strengths = 3", "strengths in .*wrong type"),
        ("lr 0.1", "cannot be read as TOML"),
        ("lr = 1\nlr = 2", "cannot be read as TOML"),
    ],
    ids=str,
)
def test_files_that_make_no_sense_are_refused(tmp_path: Path, text: str, words: str):
    with pytest.raises(InputError, match=f"(?s){words}"):
        read_config(config(tmp_path, text))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"(?s)the file .*none.toml cannot be read.*No such file"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"the file .* cannot be read"):
        read_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"lr = \xff")
    with pytest.raises(InputError, match="cannot be read as TOML"):
        read_config(tmp_path / "binary.toml")
