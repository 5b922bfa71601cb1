"""Naming the user's own objects."""

import sys
from pathlib import Path

import pytest

from hessdiag import factories
from hessdiag.errors import InputError

SOURCE = """
import sys
NUMBER = 5
def make(): return [1]
def fail(): raise RuntimeError("out of luck")
def leave(): sys.exit(3)
def needy(size): return size
class Box:
    @staticmethod
    def make(): return "boxed"
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_factories.py").write_text(SOURCE)
    (tmp_path / "own_broken.py").write_text("import no_such_package_anywhere")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)


def test_a_module_in_the_working_directory_is_found() -> None:
    assert factories.call("own_factories:make", "model") == [1]
    assert factories.call("own_factories:Box.make", "model") == "boxed"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_factories", "package.module:factory"),
        ("own_factories:make()", "package.module:factory"),
        ("own_broken:make", "no_such_package_anywhere"),
        ("own_missing:make", "No module named 'own_missing'"),
        ("own_factories:absent", "absent"),
        ("own_factories:NUMBER", "cannot be called"),
        ("own_factories:fail", "RuntimeError: out of luck"),
        ("own_factories:leave", "SystemExit: 3"),
        ("own_factories:needy", "without arguments"),
    ],
)
def test_faults_are_named(spec: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        factories.call(spec, "model")
    assert message in str(caught.value)
    assert spec in str(caught.value)


def test_what_is_installed_goes_before_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("raise SystemExit('it ran')")
    sys.modules.pop("colorsys", None)
    with pytest.raises(InputError, match="absent"):
        factories.call("colorsys:absent", "model")
    assert sys.path[-1] == str(tmp_path)


def test_without_a_factory_nothing_is_importable(tmp_path: Path) -> None:
    from hessdiag.metadata import ModelSpec
    from hessdiag.nets import models

    models.build(ModelSpec("mlp-4", input_shape=(3,)))
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "peft:x", "a", "a:b-c"])
def test_names_of_libraries_are_no_factories(name: str) -> None:
    assert not factories.is_factory(name)


def test_arguments_are_literals_or_text() -> None:
    texts = ("a=3", "b=0.5", "c=true", "d=None", "e=(1, 2)", "f=gelu", "g='3'", "h=", "i=x=y")
    values = (3, 0.5, True, None, (1, 2), "gelu", "3", "", "x=y")
    assert factories.arguments(texts) == tuple(zip("abcdefghi", values, strict=True))
    assert factories.arguments(["a=" + "(" * 5000]) == (("a", "(" * 5000),)


@pytest.mark.parametrize("texts", [["a"], ["=3"], ["a b=3"], ["a=1", "a=2"], [""]])
def test_arguments_of_another_form_are_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match="name=value"):
        factories.arguments(texts)


def test_arguments_are_passed_and_offers_only_where_they_are_wanted() -> None:
    assert factories.call("own_factories:needy", "model", {"size": 3}) == 3
    assert factories.call("own_factories:needy", "model", {}, {"size": 4, "other": 5}) == 4
    assert factories.call("own_factories:needy", "model", {"size": 3}, {"size": 4}) == 3
    assert factories.call("own_factories:make", "model", {}, {"size": 4}) == [1]
    with pytest.raises(InputError, match="called with other"):
        factories.call("own_factories:needy", "model", {"other": 3})
