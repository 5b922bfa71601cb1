"""The table of networks: ``python -m tests.networks > docs/networks.md``."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from hessdiag import Decomposition, InputError
from tests.networks.differences import errors
from tests.networks.table import ROWS, batch, network

HEAD = """# Networks of other people

H v, G v and N v of small networks of each family, in float64, for a random v: the largest error
relative to central differences of the network's own first-order gradients, which share no code with
the package; or the words in which a network is refused. Made by `python -m tests.networks`; the
tests hold each row below 1e-6, by library and by command line.

| network | library | H | G | N |
|---|---|---|---|---|"""


def row(name: str) -> str:
    """Measure one network."""
    of, model, data = ROWS[name], network(name), batch(name)
    options: dict[str, Any] = {"output": of.output, "dtype": torch.float64}
    head = f"| {name.replace('_', ' ')} | {of.library} |"
    try:
        decomposition = Decomposition(model, [data], of.loss, **options)
        generator = torch.Generator().manual_seed(2)
        v = torch.randn(decomposition.num_parameters, generator=generator, dtype=torch.float64)
        found = decomposition.products(v)
    except InputError as error:
        return f"{head} refused: {error.what} | | |"
    off = errors(found, model, of, data, v)
    return " ".join([head, *(f"{off[part]:.0e} |" for part in ("hessian", "gn", "nme"))])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(HEAD)
    for name in ROWS:
        print(row(name), flush=True)
