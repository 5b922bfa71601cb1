"""What the documents say of commands and reports is what there is."""

import re
from pathlib import Path

import pytest

from hessdiag.cli.app import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("command", [info.name for info in app.registered_commands])
def test_the_readme_names_every_command(command: str):
    assert re.search(rf"^\| `hessdiag {command}[ `]", README, re.MULTILINE)
