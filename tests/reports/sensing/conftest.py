"""Two small descents: one that goes well, one that diverges."""

import pytest

from hessdiag.training.sensing import Sensing, Settings, sensing

SMALL = Settings(6, 2, 12, lr=0.01, steps=40, num_pairs=2, seed=3, dtype="float64", device="cpu")
WILD = Settings(6, 2, 12, lr=1.0, steps=8, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def found() -> Sensing:
    return sensing(SMALL)


@pytest.fixture(scope="session")
def diverged() -> Sensing:
    return sensing(WILD)
