"""Good files, to be damaged."""

from pathlib import Path

import pytest

from tests.cli.conftest import run
from tests.hardening import samples as good

__all__ = ["run"]


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of every format."""
    place = tmp_path_factory.mktemp("samples")
    good.write(place)
    return place
