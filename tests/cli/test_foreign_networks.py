"""The command line on networks of other people: what the library says of them, which is checked."""

import json

import pytest

import hessdiag
from tests.cli.conftest import Run
from tests.networks.table import ROWS, batch, network

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = [
    pytest.param(name, marks=[] if row.in_suite else [pytest.mark.slow])
    for name, row in ROWS.items()
    if row.refused is None
]


@pytest.mark.parametrize("name", NAMES)
def test_a_spectrum_is_that_of_the_library(run: Run, name: str) -> None:
    loss, output = ROWS[name].loss, ROWS[name].output
    outcome = run(
        *("spectrum", "--model", f"tests.networks.table:{name}"),
        *("--data", f"tests.networks.table:{name}__data", *(("--loss", loss) if loss else ())),
        *(() if output is None else ("--output", output)),
        *("--dtype", "float64", "--num-probes", 1, "--top-k", 0, "--no-density", "--json", "-"),
    )
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    report = hessdiag.spectrum(
        network(name), [batch(name)], loss=loss, output=output, num_probes=1, top_k=0, density=False
    )
    assert told["loss"]["value"] == pytest.approx(report.loss, rel=1e-9)
    for part, of in report.parts.items():
        assert told["parts"][part]["trace"]["value"] == pytest.approx(
            of.trace.value, rel=1e-9, abs=1e-12
        )
