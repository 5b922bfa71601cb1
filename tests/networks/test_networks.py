"""Products on networks of other people's, against differences of their own gradients."""

import warnings
from typing import Any

import pytest
import torch

from hessdiag import Decomposition, InputError
from tests.networks.differences import errors
from tests.networks.table import ROWS, batch, network

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = [
    pytest.param(name, marks=[] if row.in_suite else [pytest.mark.slow])
    for name, row in ROWS.items()
]


@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_differences(name: str) -> None:
    row, model, data = ROWS[name], network(name), batch(name)
    options: dict[str, Any] = {"output": row.output, "dtype": torch.float64}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if row.refused is not None:
            with pytest.raises(InputError, match=row.refused):
                Decomposition(model, [data], row.loss, **options).gradient()
            return
        decomposition = Decomposition(model, [data], row.loss, **options)
        generator = torch.Generator().manual_seed(2)
        v = torch.randn(decomposition.num_parameters, generator=generator, dtype=torch.float64)
        found = decomposition.products(v)
    worst = errors(found, model, row, data, v)
    assert max(worst.values()) < 1e-6, worst
