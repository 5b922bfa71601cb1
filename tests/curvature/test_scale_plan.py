"""Networks on the meta device over processes that are not there: what a product holds."""

import pytest
import torch

from benchmarks.scale_plan import Size, Transformer, planned, shares

SIZE = Size(layers=12, width=256, heads=4, shared=2, inner=700, vocabulary=300)


def test_the_shares_of_all_processes_add_up_to_the_network():
    with torch.device("meta"):
        model = Transformer(SIZE)
    assert sum(shares(model, 24)) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("count", [8, 64])
def test_a_product_holds_a_few_whole_parameters_and_never_the_network(count: int):
    plan = planned(SIZE, count, tokens=4)
    assert plan.graph < 2 * plan.own + 6 * plan.largest + 0.1 * 4 * plan.parameters
    assert plan.own < 4 * plan.parameters / count * 1.05
    assert plan.logits == 4 * 4 * 300
