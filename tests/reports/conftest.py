"""One small report, complete with layers, to be laid out in every form."""

import pytest

from hessdiag import Report
from hessdiag.metadata import Provenance
from tests import results


@pytest.fixture(scope="session")
def report() -> Report:
    return results.spectrum()


@pytest.fixture(scope="session")
def sparse_report() -> Report:
    return results.sparse_spectrum()


@pytest.fixture(scope="session")
def provenance() -> Provenance:
    return results.PROVENANCE
