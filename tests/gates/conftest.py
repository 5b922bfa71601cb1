"""Gates to be written in every form."""

import pytest

from hessdiag import GateReport
from tests.gates import verdict_cases


@pytest.fixture
def gate() -> GateReport:
    return verdict_cases.gate()


@pytest.fixture
def hostile() -> GateReport:
    return verdict_cases.hostile()
