"""What the tests of spectra share."""

import pytest

from hessdiag.curvature import exact_trace


@pytest.fixture
def no_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trace is computed without sampling."""
    monkeypatch.setattr(exact_trace, "MOST_OUTPUTS", 0)
