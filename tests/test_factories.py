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
