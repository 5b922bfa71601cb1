"""Two networks side by side against dense float64 truth, and two reports on them."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor, nn

import hessdiag
from hessdiag import Comparison, InputError, Report
from hessdiag.comparisons.compare_run import check_same_data, compare_reports
from hessdiag.linalg.trace import Probes
from hessdiag.parts import PARTS
from hessdiag.progress import Progress
from hessdiag.spectra.spectrum_plan import make_plan
from hessdiag.spectra.spectrum_settings import Settings
from tests.cases import BY_NAME, labels, mlp, normal, seeded, split
from tests.oracles import Dense, dense

each_part = pytest.mark.parametrize("part", PARTS)
CASE = BY_NAME["mlp-gelu"]
NUM_PROBES, TOP_K = 16, 3


def nearby() -> nn.Module:
    """The network of the case a little way along a random direction."""
    model = CASE.make_model()
    with torch.no_grad():
        for index, tensor in enumerate(model.parameters()):
            tensor += 0.03 * normal(*tensor.shape, seed=50 + index)
    return model


@cache
def truth() -> tuple[Dense, Dense]:
    a, b = (dense(model, CASE.batches, CASE.loss) for model in (CASE.make_model(), nearby()))
    return a, b


def compare(a: nn.Module, b: nn.Module, batches: Any = CASE.batches, **settings: Any) -> Comparison:
    chosen = {"num_probes": NUM_PROBES, "top_k": TOP_K, "density": False, **settings}
    return hessdiag.compare(a, b, batches, loss=CASE.loss, **chosen)


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(CASE.make_model(), nearby())


def matrices(part: str) -> tuple[Tensor, Tensor]:
    a, b = truth()
    return getattr(a, part), getattr(b, part)


@each_part
def test_differences_are_those_of_the_matrices_at_the_same_probes(found: Comparison, part: str):
    a, b = matrices(part)
    probes = Probes(len(a), seed=0, dtype=torch.float64, device=torch.device("cpu"))
    rows = probes.rows(0, NUM_PROBES)
    forms = torch.einsum("ki,ij,kj->k", rows, b - a, rows)
    squares = [(rows @ matrix).square().sum(1).mean() for matrix in (a, b)]
    change = found.parts[part]
    assert found.paired
    assert change.trace.value == pytest.approx(float(forms.mean()), abs=1e-10)
    assert change.trace.error == pytest.approx(float(forms.std()) / 4, rel=1e-8)
    difference = float(squares[1].sqrt() - squares[0].sqrt())
    assert change.frobenius_norm.value == pytest.approx(difference, abs=1e-10)


@each_part
def test_the_truth_lies_within_four_standard_errors(found: Comparison, part: str):
    a, b = matrices(part)
    for change, true in (
        (found.parts[part].trace, float((b - a).trace())),
        (found.parts[part].frobenius_norm, float(b.norm() - a.norm())),
    ):
        assert change.error is not None
        assert abs(change.value - true) <= 4 * change.error


def without_samples(report: Report) -> Report:
    """As hessdiag 0.1 wrote it."""
    parts = {name: structs.replace(part, samples=None) for name, part in report.parts.items()}
    return structs.replace(report, parts=parts)


@each_part
def test_paired_errors_are_smaller_than_unpaired_ones(found: Comparison, part: str):
    other_seed = structs.replace(found.b, settings=replace(found.b.settings, seed=5))
    unpaired = compare_reports(found.a, other_seed)
    summed = compare_reports(*map(without_samples, (found.a, found.b)))
    assert not unpaired.paired
    assert not summed.paired
    for name in ("trace", "frobenius_norm"):
        own, apart, sum_ = (getattr(of.parts[part], name) for of in (found, unpaired, summed))
        assert own.value == pytest.approx(apart.value, abs=1e-10)
        assert own.value == pytest.approx(sum_.value, abs=1e-10)
        assert own.error < apart.error / 2 < sum_.error / 2


@each_part
def test_eigenvalues_and_eigenspaces_are_those_of_the_matrices(found: Comparison, part: str):
    (lower, u), (upper, w) = map(torch.linalg.eigh, matrices(part))
    change = found.parts[part]
    differences = (upper - lower).numpy()
    tops, bottoms = ([one.value for one in end] for end in (change.top, change.bottom))
    np.testing.assert_allclose(tops, differences[::-1][:TOP_K], atol=1e-8)
    np.testing.assert_allclose(bottoms, differences[:TOP_K], atol=1e-8)
    cosines = torch.linalg.svdvals(u[:, -TOP_K:].T @ w[:, -TOP_K:])
    assert change.overlap is not None
    assert change.overlap.converged
    assert change.overlap.cosines == pytest.approx(cosines.tolist(), abs=1e-6)
    assert change.overlap.value == pytest.approx(float(cosines.square().mean()), abs=1e-6)
    assert change.overlap.value < 0.9999


def test_a_network_does_not_differ_from_itself():
    found = compare(CASE.make_model(), CASE.make_model())
    for part in found.parts.values():
        for change in (part.trace, part.frobenius_norm, *part.top, *part.bottom):
            assert change.value == 0
            assert change.significant is False
        assert part.overlap is not None
        assert part.overlap.value == pytest.approx(1, abs=1e-12)


def test_float32_finds_the_same(found: Comparison):
    single = compare(CASE.make_model(), nearby(), dtype=torch.float32)
    for name, part in single.parts.items():
        true = found.parts[name]
        assert part.trace.value == pytest.approx(true.trace.value, abs=1e-4)
        assert part.overlap is not None
        assert true.overlap is not None
        assert part.overlap.value == pytest.approx(true.overlap.value, abs=1e-2)


def test_networks_that_differ_in_shape_meet_independent_probes():
    wider = seeded(lambda: mlp(nn.GELU, 4, 6, 4, 3)).eval()
    found = compare(CASE.make_model(), wider, seed=7)
    assert not found.paired
    assert found.a.settings.seed == 7 != found.b.settings.seed
    assert "differ in names or shapes" in found.notes[0]
    for part in found.parts.values():
        assert part.overlap is None
        assert part.trace.error == pytest.approx(
            np.hypot(part.trace.a.stderr, part.trace.b.stderr)  # pyright: ignore
        )


def test_names_matter_as_much_as_shapes():
    renamed = nn.Sequential(*CASE.make_model().children())
    assert not compare(CASE.make_model(), renamed).paired


def test_only_the_chosen_parameters_need_to_agree():
    wider = seeded(lambda: mlp(nn.GELU, 4, 5, 6, 3)).eval()
    assert compare(CASE.make_model(), wider, params="fc1.*").paired


def test_an_iterator_serves_both_networks():
    found = compare(CASE.make_model(), nearby(), iter(CASE.batches))
    assert found.a.num_samples == found.b.num_samples == 9


def test_a_part_without_curvature_has_no_eigenspace():
    linear = [seeded(lambda: nn.Linear(4, 3), seed=seed) for seed in (0, 1)]
    found = compare(*linear, split(normal(9, 4), labels(9), 5, 4))
    assert found.parts["gn"].overlap is not None
    assert found.parts["nme"].overlap is None
    assert found.parts["nme"].frobenius_norm.value == 0


def test_progress_runs_through_both_networks():
    states: list[Progress] = []
    compare(CASE.make_model(), nearby(), on_progress=states.append)
    passes = [state.passes for state in states]
    assert passes == sorted(passes)
    assert passes[-1] >= 2 * 7
    assert all(state.passes <= state.expected for state in states)


@pytest.mark.parametrize(
    "setting", [{"per_layer": True}, {"rel_error": 0.1}, {"finite_radius": 0.1}]
)
def test_settings_without_a_part_in_a_comparison_are_refused(setting: dict[str, Any]):
    with pytest.raises(InputError, match="unknown setting"):
        compare(CASE.make_model(), nearby(), **setting)


def test_kept_eigenvectors_count_as_memory():
    model, batches, loss = CASE
    decomposition = hessdiag.Decomposition(model, batches, loss)
    plain, kept = (
        make_plan(decomposition, Settings(top_k=4, eigenvectors=keep)).num_vectors()
        for keep in (False, True)
    )
    assert kept - plain == 4 * len(PARTS)


# reports


def test_reports_of_one_seed_are_compared_probe_by_probe(found: Comparison):
    only = structs.replace(found.b, parts={"nme": found.b.parts["nme"]})
    compared = hessdiag.compare_reports(found.a, only)
    assert compared.paired
    own, part = found.parts["nme"], compared.parts["nme"]
    assert list(compared.parts) == ["nme"]
    assert (part.trace, part.frobenius_norm) == (own.trace, own.frobenius_norm)
    assert part.top == own.top
    assert part.overlap is None
    assert "no eigenvectors" in compared.notes[0]


def test_an_undefined_eigenspace_is_null_with_its_reason(found: Comparison):
    linear = [seeded(lambda: nn.Linear(4, 3), seed=seed) for seed in (0, 1)]
    compared = compare(*linear, split(normal(9, 4), labels(9), 5, 4))
    assert compared.parts["nme"].overlap is None
    (note,) = (note for note in compared.notes if note.startswith("nme: "))
    assert "can be told from zero" in note
    assert compared.first.settings.top_k == len(compared.parts["gn"].top)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda of: {"risk": structs.replace(of.risk, name="mse")}, "different losses"),
        (lambda of: {"settings": replace(of.settings, bn="batch")}, "different BatchNorm modes"),
        (lambda of: {"settings": replace(of.settings, params=("fc1.*",))}, "different parameters"),
        (lambda _: {"parts": {}}, "no part in common"),
    ],
)
def test_reports_on_different_things_are_refused(found: Comparison, changes, words: str):
    with pytest.raises(InputError, match=words):
        compare_reports(found.a, structs.replace(found.b, **changes(found.b)))


def test_different_or_unknown_data_are_refused():
    check_same_data("d" * 64, "d" * 64, hint="")
    for pair in (("d" * 64, None), (None, "d" * 64), (None, None), ("d" * 64, "e" * 64)):
        with pytest.raises(InputError, match="not known to have seen the same data"):
            check_same_data(*pair, hint="")
