"""Passes, products, waves, bad settings and the budget of sampling."""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import hessdiag
from hessdiag import Decomposition, Report, results
from hessdiag.curvature import direct as direct_of_loss
from hessdiag.errors import InputError
from hessdiag.linalg.driver import Answer, Request
from hessdiag.metrics import metric_table
from hessdiag.parts import PARTS
from hessdiag.spectra import spectrum_plan as plan
from hessdiag.spectra.spectrum_plan import make_plan
from hessdiag.spectra.spectrum_settings import Settings
from tests.cases import BY_NAME, Batch, labels, normal, seeded
from tests.oracles import truth_of

CASE = "mlp-gelu"


def run(batches: Any = None, **settings: Any) -> Report:
    model, own, loss = BY_NAME[CASE]
    return hessdiag.spectrum(model, own if batches is None else batches, loss=loss, **settings)


def refusal(**settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        run(**settings)
    return str(caught.value)


class Counted:
    """Batches that count how often they are read."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        return iter(self.batches)


# --- cost --------------------------------------------------------------------------------------


def test_all_parts_and_samplers_go_in_lockstep():
    batches = Counted(list(BY_NAME[CASE].batches))
    report = run(batches, num_probes=16, top_k=5)
    passes = report.cost.passes
    algorithms = {f"{part}.{kind}" for part in PARTS for kind in ("trace", "rayleigh", "lanczos")}
    assert passes.keys() == {"total", *algorithms}
    assert passes["total"] == max(passes[name] for name in algorithms)
    alone = [
        run(parts=(part,), num_probes=1, top_k=5).cost.passes[f"{part}.lanczos"] for part in PARTS
    ]
    assert passes["total"] == max(alone)
    assert batches.passes <= passes["total"] + 2  # the memory check, and the check of H = G + N


def test_products_are_counted_as_they_are_made(monkeypatch):
    made = dict.fromkeys(PARTS, 0)
    answer = Decomposition.answer

    def counting(self: Decomposition, requests: list[Request]) -> list[Answer]:
        for request in requests:
            for part in request.parts:
                made[part] += len(request.vectors)
        return answer(self, requests)

    monkeypatch.setattr(Decomposition, "answer", counting)
    report = run(num_probes=16, top_k=5)
    assert report.cost.products == made
    # 5 probes are Lanczos's start, 11 are asked for beside it, one product is the gradient's
    assert all(made[part] > 5 * report.cost.passes[f"{part}.lanczos"] for part in PARTS)
    assert report.parts["gn"].trace.num_probes == 16
    assert report.cost.seconds > 0
    assert report.cost.peak_memory_bytes > 1 << 20


def test_sampling_alone_needs_no_lanczos():
    report = run(num_probes=8, top_k=0, density=False)
    assert report.cost.products == dict.fromkeys(PARTS, 9)  # and one along the gradient
    assert report.cost.passes["total"] == 2
    for part in report.parts.values():
        assert part.top == part.bottom == ()
        assert part.density is None
        assert part.layers is None
        assert part.trace.num_probes == 8


def test_few_parameters_have_few_eigenvalues():
    data = [(torch.ones(4, 1), torch.arange(4.0)[:, None])]
    report = hessdiag.spectrum(torch.nn.Linear(1, 1), data, loss="mse")
    assert report.settings.top_k == 2
    assert all(len(part.top) == len(part.bottom) == 2 for part in report.parts.values())
    with pytest.raises(InputError, match="more eigenvalues"):
        hessdiag.spectrum(torch.nn.Linear(1, 1), data, loss="mse", top_k=3)


@pytest.mark.parametrize("steps", [5, 9], ids=["fewer", "as many"])
def test_inputs_may_count_time_first(steps: int):
    class Last(torch.nn.GRU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)[0][-1]

    model = seeded(lambda: Last(2, 3)).float()
    x, y = normal(steps, 9, 2).float(), labels(9)
    report = hessdiag.spectrum(
        model, [(x, y)], num_probes=2, top_k=0, density=False, rel_error=0.9, max_probes=16
    )
    assert report.loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)
    assert report.checks.truth is not None
    assert report.checks.truth.reason is None


@pytest.mark.parametrize("parts", [("nme",), ("gn", "hessian")])
def test_only_the_parts_asked_for_are_computed(parts: tuple[str, ...]):
    report = run(parts=parts, num_probes=4, top_k=2)
    assert tuple(report.parts) == tuple(report.rayleigh) == parts
    assert set(report.cost.products) == set(parts)
    for part in parts:
        whole = run(num_probes=4, top_k=2).parts[part]
        assert report.parts[part].trace.value == pytest.approx(whole.trace.value, rel=1e-12)
        assert report.parts[part].trace.num_probes == whole.trace.num_probes


def test_density_without_eigenvalues_and_eigenvalues_without_density():
    only_density, only_top = run(num_probes=4, top_k=0), run(num_probes=4, top_k=1, density=False)
    assert only_density.parts["gn"].density is not None
    assert only_density.parts["gn"].top == ()
    assert only_top.parts["gn"].density is None
    assert len(only_top.parts["gn"].top) == 1


def test_progress_grows_to_its_end():
    seen: list[tuple[float, float]] = []
    report = run(num_probes=4, top_k=2, on_progress=lambda p: seen.append((p.passes, p.expected)))
    done = [passes for passes, _ in seen]
    assert done == sorted(done)
    assert done[-1] >= report.cost.passes["total"]
    assert all(passes < expected for passes, expected in seen)


# --- waves -------------------------------------------------------------------------------------


def test_parts_go_one_after_another_where_their_bases_do_not_fit(monkeypatch):
    together = run(num_probes=8, top_k=3, basis_size=24)
    monkeypatch.setattr(plan, "BASIS_BUDGET", 1)
    dec = Decomposition(*BY_NAME[CASE])
    assert len(make_plan(dec, Settings()).waves) == len(PARTS)
    apart = run(num_probes=8, top_k=3, basis_size=24)
    passes = apart.cost.passes
    assert passes["total"] == sum(passes[f"{part}.lanczos"] for part in PARTS)
    assert passes["total"] > together.cost.passes["total"]
    for part in PARTS:
        a, b = together.parts[part], apart.parts[part]
        assert b.trace.num_probes == a.trace.num_probes == 8
        assert b.trace.value == pytest.approx(a.trace.value, rel=1e-12)
        for end in ("top", "bottom"):
            values = [[ritz.value for ritz in getattr(found, end)] for found in (a, b)]
            np.testing.assert_allclose(values[1], values[0], rtol=0, atol=1e-9)


def test_a_small_budget_shrinks_the_basis_and_the_depth(monkeypatch):
    dec = Decomposition(*BY_NAME[CASE])
    vector = dec.num_parameters * 8
    monkeypatch.setattr(plan, "BASIS_BUDGET", 30 * vector)
    made = make_plan(dec, Settings(top_k=2))
    assert made.basis_size == 26  # and a block of 4 beside it
    assert made.settings.depth == 26 // 4
    assert made.waves == tuple((part,) for part in PARTS)


# --- sampling until enough ---------------------------------------------------------------------


@pytest.mark.usefixtures("no_exact")
def test_rel_error_goes_on_until_it_is_reached():
    report = run(parts=("gn",), num_probes=4, top_k=0, density=False, rel_error=0.3)
    trace = report.parts["gn"].trace
    assert report.parts["gn"].target_reached is True
    assert trace.rel_error <= 0.3
    assert 4 < trace.num_probes < 1024
    assert trace.rel_error == pytest.approx(
        (trace.ci95[1] - trace.ci95[0]) / 2 / abs(trace.value), rel=1e-12
    )
    assert f"was reached with {trace.num_probes} probes" in report.notes[0]
    true = float(truth_of(CASE).gn.trace())
    assert abs(trace.value - true) < 4 * trace.stderr


@pytest.mark.usefixtures("no_exact")
@pytest.mark.parametrize("lanczos", [True, False])
def test_rel_error_spends_its_budget_and_says_so(lanczos: bool):
    report = run(
        parts=("gn", "nme"),
        num_probes=4,
        top_k=1 if lanczos else 0,
        density=lanczos,
        rel_error=1e-4,
        max_probes=40,
    )
    for part in report.parts.values():
        assert part.target_reached is False
        assert part.trace.num_probes == 40
        assert part.frobenius_norm.num_probes == 4
    missed = report.notes[:2]
    assert all("all 40 probes spent" in note and "0.0001 was asked for" in note for note in missed)


def test_rel_error_asks_for_no_more_than_the_first_probes_if_they_suffice():
    options = {"parts": ("gn",), "top_k": 0, "density": False}
    report = run(num_probes=16, rel_error=0.99, **options)
    assert run(num_probes=16, **options).parts["gn"].trace.rel_error <= 0.99
    assert report.parts["gn"].trace.num_probes == 16


def test_a_rule_of_ones_own_is_asked_of_each_part_until_all_have_enough():
    """It sees the samples of all parts from the first probes on; all go on together."""
    asked: list[tuple[str, int]] = []

    def enough(part: str, samples: Any) -> bool:
        assert {len(taken) for taken in samples.values()} == {len(samples["gn"])}
        asked.append((part, len(samples[part])))
        return part == "gn" or len(samples["nme"]) >= 36

    options = {"parts": ("gn", "nme"), "top_k": 0, "density": False}
    report = run(num_probes=4, max_probes=50, enough=enough, **options)
    assert {part.trace.num_probes for part in report.parts.values()} == {36}
    assert asked == [(part, count) for count in (4, 20, 36) for part in ("gn", "nme")]
    spent = run(num_probes=4, max_probes=10, enough=lambda *_: False, **options)
    assert spent.parts["gn"].trace.num_probes == spent.parts["nme"].trace.num_probes == 10


@pytest.mark.usefixtures("no_exact")
def test_traces_add_up_however_many_probes_each_part_would_need():
    report = run(num_probes=4, top_k=0, density=False, rel_error=0.2, max_probes=200)
    parts = report.parts
    assert len({part.trace.num_probes for part in parts.values()}) == 1
    total = parts["gn"].trace.value + parts["nme"].trace.value
    assert parts["hessian"].trace.value == pytest.approx(total, rel=1e-10)


# --- bad settings ------------------------------------------------------------------------------


def test_more_eigenvalues_than_parameters_are_refused():
    size = Decomposition(*BY_NAME[CASE]).num_parameters
    message = refusal(top_k=size + 1)
    assert f"top-k {size + 1}" in message
    assert f"at most {size}, the number of parameters" in message
    part = run(parts=("gn",), top_k=size, num_probes=1, density=False).parts["gn"]
    assert len(part.top) == len(part.bottom) == size


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"parts": ("gnn",)}, "unknown part.*did you mean gn"),
        ({"parts": ()}, "no part is asked for"),
        ({"num_probes": 0}, "`num_probes` is out of range"),
        ({"top_k": -1}, "`top_k` is out of range"),
        ({"max_probes": 0}, "`max_probes` is out of range"),
        ({"depth": 0}, "`depth` is out of range"),
        ({"max_passes": 0}, "`max_passes` is out of range"),
        ({"basis_size": 1}, "`basis_size` is out of range"),
        ({"block_size": 0}, "`block_size` is out of range"),
        ({"rel_error": 0.0}, "`rel_error` is out of range"),
        ({"rel_error": float("nan")}, "`rel_error` is out of range"),
        ({"tolerance": 1.0}, "`tolerance` is out of range"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str):
    assert re.search(words, refusal(**settings), re.DOTALL)


def test_all_stands_for_every_part_and_a_part_given_twice_counts_once():
    assert Settings(parts=("nme", "all")).parts == PARTS
    assert Settings(parts=("nme", "nme")).parts == ("nme",)


@pytest.mark.parametrize(("ends", "absent"), [("top", "bottom"), ("bottom", "top")])
def test_one_end_costs_no_more_than_is_asked(ends: str, absent: str) -> None:
    model, batches, loss = BY_NAME["mlp-gelu"]
    options: dict[str, Any] = {"loss": loss, "density": False, "num_probes": 1, "top_k": 3}
    both = hessdiag.spectrum(model, batches, **options)
    one = hessdiag.spectrum(model, batches, ends=ends, **options)
    for name, part in one.parts.items():
        assert getattr(part, absent) == ()
        values, wanted = ([r.value for r in getattr(of, ends)] for of in (part, both.parts[name]))
        assert values == pytest.approx(wanted, rel=1e-3, abs=1e-6)
        assert one.cost.products[name] <= both.cost.products[name]
    assert results.taken(json.loads(one.to_json()), Report).settings.ends == ends


def test_metrics_of_one_end_ask_for_no_other() -> None:
    def ends(*names: str) -> str:
        return metric_table.settings(map(metric_table.parse, names))["ends"]

    assert ends("hessian.lambda_max", "gn.top.2", "loss") == "top"
    assert ends("nme.lambda_min") == "bottom"
    assert ends("nme.lambda_min", "nme.lambda_max") == "both"
    assert ends("nme.lambda_min", "gn.lambda_max", "hessian.trace") == (
        "hessian=none,gn=top,nme=bottom"
    )
    assert ends("loss") == "none"


def test_parts_may_want_other_ends() -> None:
    report = run(ends="top, nme=both, gn=none", top_k=2, num_probes=2, density=False)
    counts = {name: (len(p.top or ()), len(p.bottom or ())) for name, p in report.parts.items()}
    assert counts == {"hessian": (2, 0), "gn": (0, 0), "nme": (2, 2)}
    assert "gn.lanczos" not in report.cost.passes
    assert refusal(ends="left").splitlines()[0].startswith("unknown end in `ends`")
    assert "unknown part in `ends`" in refusal(ends="top,jac=both")


def test_a_network_of_one_parameter_has_a_spectrum():
    model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(4, 1)
    report = hessdiag.spectrum(model, [(x, x)], loss="mse", top_k=1, num_probes=13)
    gn = report.parts["gn"]
    assert gn.top[0].value == gn.bottom[0].value == pytest.approx(2.0)
    assert gn.trace.ci95 == pytest.approx((2.0, 2.0))
    assert gn.density is not None
    assert np.trapezoid(gn.density.values, gn.density.grid) == pytest.approx(1.0, abs=1e-3)


def test_eigenvalues_that_are_not_refined_cost_less_and_their_intervals_hold() -> None:
    settings = {"dtype": torch.float32, "density": False, "num_probes": 2, "top_k": 3}
    refined, plain = run(**settings), run(**settings, refine=False)
    truth = np.linalg.eigvalsh(truth_of(CASE).hessian)[::-1]
    ours, theirs = plain.parts["hessian"].top, refined.parts["hessian"].top
    assert ours is not None
    assert theirs is not None
    for value, exact in zip(ours, truth, strict=False):
        assert value.interval is not None
        assert value.interval[0] <= exact <= value.interval[1]
    assert plain.cost.products["hessian"] < refined.cost.products["hessian"]
    assert max(v.error for v in theirs) < max(v.error for v in ours)


@pytest.mark.parametrize(("size", "checked"), [(9, 9), (40, 32)])
def test_the_residual_takes_few_examples(
    monkeypatch: pytest.MonkeyPatch, size: int, checked: int
) -> None:
    model, batches, loss = BY_NAME[CASE]
    x, y = batches[0]
    more = x.repeat(20, 1)[:size], y.repeat(20)[:size]
    dec = Decomposition(model, [more], loss)
    seen: list[int] = []
    direct = direct_of_loss.direct_product
    monkeypatch.setattr(
        direct_of_loss,
        "direct_product",
        lambda risk, x, *rest: seen.append(len(x)) or direct(risk, x, *rest),
    )
    assert dec.residual() < 1e-12
    assert seen == [checked]
