"""Nothing that lies about decides how plots are drawn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRAW = """
from pathlib import Path
from hessdiag.show.plotting import figure
from hessdiag.show.document import Axis, Block, Chart, Curve, Document
chart = Chart("a_b", Axis("x"), Axis("y"), [Curve("c", [0, 1], [0, 1])])
figure.save(Document("k", "a_b", [], [Block("b", [chart])]), "p.svg")
assert Path("p.svg").read_text().count("<")
"""


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("module://matplotlib_inline.backend_inline", None),
        ("nonsense", None),
        ("", b"text.usetex: True\nbad line\n"),
        ("", b"backend: nonsense\n"),
        ("", b"\xff\xfe"),
        ("agg", "pipe"),
    ],
)
def test_settings_of_the_surroundings_are_of_no_account(
    tmp_path: Path, backend: str, settings: bytes | str | None
):
    if settings == "pipe":
        os.mkfifo(tmp_path / "matplotlibrc")
    elif isinstance(settings, bytes):
        (tmp_path / "matplotlibrc").write_bytes(settings)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env |= {"MPLBACKEND": backend} if backend else {}
    done = subprocess.run(
        [sys.executable, "-c", DRAW], cwd=tmp_path, env=env, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
