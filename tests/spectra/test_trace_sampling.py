"""Traces go on without products where that is cheaper, and say so."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import hessdiag
from hessdiag import codec
from hessdiag.nets import activations
from hessdiag.spectra.spectrum_result import Report
from tests.cases import BY_NAME, Case, cnn, labels, mlp, normal, seeded, split

SURROGATE = Case(
    "surrogate",
    lambda: mlp(partial(activations.make, "augmented_relu"), 4, 5, 3),
    [(normal(9, 4), labels(9))],
)
IMAGES, CLASSES = normal(40, 1, 5, 5), labels(40)


def run(model: nn.Module, batches: Any, **options: Any) -> Report:
    return hessdiag.spectrum(
        model,
        batches,
        **{"num_probes": 3, "top_k": 0, "density": False, "rel_error": 0.1} | options,
    )


@pytest.mark.usefixtures("no_exact")
def test_each_example_has_its_own_probes_where_that_is_cheaper() -> None:
    model, x, y = seeded(lambda: cnn(nn.GELU)).eval(), IMAGES, CLASSES
    options = {"parts": ("hessian", "gn"), "max_probes": 512}
    report = run(model, [(x, y)], **options)
    assert report.sampling is not None
    assert report.sampling.method == "forms by example"
    assert report.sampling.gain is not None
    assert any("forms by example" in note for note in report.notes)
    decomposition = hessdiag.Decomposition(model, [(x, y)])
    truth = decomposition.products(torch.eye(decomposition.layout.size, dtype=x.dtype))
    for name, part in report.parts.items():
        wanted = float(getattr(truth, name).trace())
        assert part.target_reached is True
        assert part.trace.stderr is not None
        assert abs(part.trace.value - wanted) < 4 * part.trace.stderr
        assert part.frobenius_norm.num_probes == 3
        assert part.samples is not None
        assert part.samples.forms is not None
        assert len(part.samples.forms) == part.trace.num_probes
    assert codec.decode(Report, codec.encode(report)).sampling == report.sampling
    for other in (split(x, y, 7, 33), split(x, y, *[8] * 5)):
        found = run(model, other, **options)
        assert found.sampling is not None
        assert found.sampling.gain == pytest.approx(report.sampling.gain, rel=1e-9)
        for name, part in found.parts.items():
            assert part.samples is not None
            assert part.samples.forms == pytest.approx(report.parts[name].samples.forms, rel=1e-9)


@pytest.mark.usefixtures("no_exact")
def test_the_traces_of_the_parts_add_up_probe_by_probe() -> None:
    report = run(
        seeded(lambda: mlp(nn.GELU, 4, 5, 3)), [(normal(40, 4), labels(40))], max_probes=32
    )
    h, g, n = (report.parts[part].trace.value for part in ("hessian", "gn", "nme"))
    assert h == pytest.approx(g + n, rel=1e-12)


@pytest.mark.usefixtures("no_exact")
@pytest.mark.parametrize(
    ("case", "options", "method", "reason"),
    [
        (SURROGATE, {}, "products", "Taylor mode does not go through"),
        (BY_NAME["cnn-gelu-bn"], {"bn": "batch"}, "forms", "examples meet"),
        (BY_NAME["cnn-gelu-bn"], {"bn": "batch", "parts": ("gn",)}, "products", "examples meet"),
    ],
)
def test_what_is_chosen_otherwise(
    case: Case, options: dict[str, Any], method: str, reason: str
) -> None:
    model, batches, loss = case
    report = run(model, batches, loss=loss, rel_error=1e-3, max_probes=24, **options)
    assert report.sampling is not None
    assert report.sampling.method == method
    assert reason in report.sampling.reason
    for part in report.parts.values():
        assert part.trace.num_probes == 24
        assert part.frobenius_norm.num_probes == (24 if method == "products" else 3)
    plain = hessdiag.spectrum(
        model, batches, loss=loss, num_probes=24, top_k=0, density=False, **options
    )
    for name, part in report.parts.items():  # the same probes, with and without products
        assert part.trace.value == pytest.approx(plain.parts[name].trace.value, rel=1e-9)


@pytest.mark.usefixtures("no_exact")
def test_a_rule_of_ones_own_on_traces_alone() -> None:
    seen: list[int] = []

    def enough(part: str, samples: Any) -> bool:
        seen.append(len(samples[part]))
        return seen[-1] >= 20

    model, batches = seeded(lambda: mlp(nn.GELU, 4, 5, 3)), [(normal(40, 4), labels(40))]
    options: dict[str, Any] = {"enough": enough, "rel_error": None, "parts": ("gn",)}
    report = run(model, batches, traces_alone=True, **options)
    assert seen == [3, 16, 32]
    assert report.parts["gn"].trace.num_probes == 32
    assert report.parts["gn"].frobenius_norm.num_probes == 3
    assert run(model, batches, **options).parts["gn"].frobenius_norm.num_probes > 3
    options["parts"] = ("nme",)
    ways = [
        run(model, batches, traces_alone=True, certain=certain, **options).sampling
        for certain in (False, True)
    ]
    assert [way and way.method == "products" for way in ways] == [False, True]


@pytest.mark.usefixtures("no_exact")
def test_shared_probes_are_kept_where_examples_cancel() -> None:
    """Of pairs of examples with opposite targets N is zero, that of each is not."""
    x, signs = normal(24, 4).repeat_interleave(2, 0), torch.tensor([1.0, -1.0]).repeat(24)
    model = seeded(lambda: mlp(nn.Tanh, 4, 8, 1))
    with torch.no_grad():
        y = model(x) + 100 * signs.double()[:, None]
    report = run(model, [(x, y)], loss="mse", parts=("hessian",), rel_error=0.01, max_probes=16)
    assert report.sampling is not None
    assert report.sampling.method == "forms"
    assert report.sampling.gain is not None
    assert report.sampling.gain < 0.25


class Moody(nn.Module):
    """Does what Taylor mode has no rule for where an input is large."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.surrogate = nn.Linear(4, 3), activations.make("augmented_relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.fc(x))
        return self.surrogate(x) if x.abs().max() > 0.9999 else x


@pytest.mark.usefixtures("no_exact")
def test_a_batch_beyond_taylor_mode_leaves_the_traces_to_products() -> None:
    x, y = normal(40, 4), labels(40)
    x[39] = 50.0
    model = seeded(Moody)
    report = run(model, split(x, y, 20, 20), rel_error=1e-3, max_probes=20)
    plain = run(model, split(x, y, 20, 20), rel_error=None, num_probes=20)
    assert report.sampling is not None
    assert report.sampling.method == "products"
    for name, part in report.parts.items():
        assert part.samples is not None
        assert part.samples.forms is None
        assert part.trace.value == pytest.approx(plain.parts[name].trace.value, rel=1e-12)


@pytest.mark.usefixtures("no_exact")
def test_networks_are_compared_by_the_forms_of_both() -> None:
    batches = [(normal(40, 4), labels(40))]
    a, b = (
        run(seeded(lambda: mlp(nn.GELU, 4, 5, 3), seed), batches, max_probes=count)
        for seed, count in ((0, 32), (1, 48))
    )
    change = hessdiag.compare_reports(a, b).parts["gn"].trace
    one, other = a.parts["gn"].samples, b.parts["gn"].samples
    assert one is not None
    assert other is not None
    assert one.forms is not None
    assert other.forms is not None
    count = min(len(one.forms), len(other.forms))
    mean = sum(y - x for x, y in zip(one.forms, other.forms, strict=False)) / count
    assert change.difference.value == pytest.approx(mean)


def test_with_few_outputs_tr_g_is_exact_and_tr_h_has_the_samples_of_n() -> None:
    model, data = seeded(lambda: mlp(nn.GELU, 4, 5, 3)), [(normal(40, 4), labels(40))]
    report = run(model, data, rel_error=0.2)
    assert report.sampling is not None
    assert report.sampling.exact == ("gn",)
    truth = hessdiag.Decomposition(model, data).operator("gn").dense().trace()
    h, g, n = (report.parts[part] for part in ("hessian", "gn", "nme"))
    assert g.trace.value == pytest.approx(float(truth), rel=1e-9)
    assert g.trace.stderr == 0
    assert g.trace.ci95 == (g.trace.value, g.trace.value)
    assert h.trace.value == pytest.approx(g.trace.value + n.trace.value, rel=1e-12)
    assert h.trace.stderr == pytest.approx(n.trace.stderr, rel=1e-9)
    assert any("exact" in note for note in report.notes)
    assert codec.decode(Report, codec.encode(report)).parts["gn"].samples == g.samples


def test_tr_g_alone_takes_no_probes_and_is_compared_exactly() -> None:
    data = [(normal(40, 4), labels(40))]
    a, b = (
        run(seeded(lambda: mlp(nn.GELU, 4, 5, 3), seed), data, parts=("gn",)) for seed in (0, 1)
    )
    assert a.sampling is not None
    assert a.sampling.method == "none"
    assert a.cost.products == {"gn": 4}  # of the norm and of the gradient
    change = hessdiag.compare_reports(a, b).parts["gn"].trace
    rise = b.parts["gn"].trace.value - a.parts["gn"].trace.value
    assert change.difference.value == pytest.approx(rise)
    assert change.difference.interval == pytest.approx((rise, rise))


class Language(nn.Module):
    """Forty outputs a token, tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(40, 3), nn.LayerNorm(3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(ids))
        x = x + nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
        return x @ self.words.weight.T


def test_with_many_outputs_tr_g_is_sampled_at_them() -> None:
    ids, y = (labels(40, 5, num_classes=40, seed=seed) for seed in (1, 2))
    model, options = seeded(Language), {"parts": ("gn",), "rel_error": 0.03}
    report = run(model, [(ids, y)], **options)
    assert report.sampling is not None
    assert report.sampling.at_outputs == ("gn",)
    assert report.cost.products == {"gn": 4}
    assert any("signs at the outputs" in note for note in report.notes)
    part = report.parts["gn"]
    assert part.target_reached is True
    truth = float(hessdiag.Decomposition(model, [(ids, y)]).operator("gn").dense().trace())
    assert part.trace.stderr is not None
    assert abs(part.trace.value - truth) < 4 * part.trace.stderr
    assert codec.decode(Report, codec.encode(report)).sampling == report.sampling
    again = run(model, split(ids, y, 7, 33), **options).parts["gn"]
    assert again.samples is not None
    assert part.samples is not None
    assert again.samples.forms == pytest.approx(part.samples.forms, rel=1e-9)


def test_what_taylor_mode_lacks_has_signs_at_the_outputs() -> None:
    model = mlp(partial(activations.make, "augmented_relu"), 4, 5, 40)
    report = run(seeded(lambda: model), [(normal(9, 4), labels(9, num_classes=40))], parts=("gn",))
    assert report.sampling is not None
    assert report.sampling.at_outputs == ("gn",)
    assert "Taylor mode does not go through" in report.sampling.reason


def test_tr_h_is_the_sum_where_that_has_less_variance() -> None:
    """Of a linear network N vanishes, and signs at the outputs are all that varies."""
    model, data = nn.Linear(4, 40).double(), [(normal(30, 4), labels(30, num_classes=40))]
    report = run(model, data, parts=("hessian", "gn"), rel_error=0.02)
    assert report.sampling is not None
    h, g = (report.parts[part].trace for part in ("hessian", "gn"))
    truth = float(hessdiag.Decomposition(model, data).operator("gn").dense().trace())
    for trace in (h, g):
        assert trace.stderr is not None
        assert abs(trace.value - truth) < 4 * trace.stderr
    assert h.value == pytest.approx(g.value, rel=1e-9)
