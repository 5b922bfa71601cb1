"""Where φ'' is not zero: against sampling, autograd and what is known in closed form."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from hessdiag.errors import InputError
from hessdiag.nets import activations
from hessdiag.nets.profiles import DEFAULT_THRESHOLD, STANDARD_DEVIATIONS, Interval, profile

F32, F64 = torch.float32, torch.float64
each_dtype = pytest.mark.parametrize("dtype", [F32, F64])
each_name = pytest.mark.parametrize("name", activations.NAMES)


def beta_for(name: str, beta: float = 3.0) -> float | None:
    return beta if activations.ACTIVATIONS[name].takes_beta else None


def by_autograd(name: str, beta: float | None, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    first = torch.autograd.grad(activations.make(name, beta)(x).sum(), x, create_graph=True)[0]
    if not first.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(first.sum(), x, materialize_grads=True)[0]


def around(intervals: tuple[Interval, ...], width: float) -> tuple[Tensor, Tensor]:
    """Points just inside and just outside every finite end, by a float32's grain."""
    ends = [(i.low, 1) for i in intervals] + [(i.high, -1) for i in intervals]
    finite = torch.tensor([end for end in ends if math.isfinite(end[0])], dtype=F64)
    if not len(finite):
        return torch.zeros(0, dtype=F64), torch.zeros(0, dtype=F64)
    at, inward = finite.T
    gap = inward * (1e-6 * at.abs() + 1e-9 * width)
    return at + gap, at - gap


def shares(name: str, beta: float | None, threshold: float, dtype: torch.dtype, std: float):
    found = profile(name, beta, dtype=dtype, threshold=threshold, stds=[std])
    return found.gaussian[0].nonzero, found.gaussian[0].above


@pytest.mark.parametrize("threshold", [0.0, 1e-3, 0.2])
@each_dtype
@pytest.mark.parametrize(
    ("name", "beta", "std"),
    [
        ("beta_gelu", 1.0, 10.0),
        ("beta_gelu", 10.0, 1.0),
        ("beta_gelu", 50.0, 0.5),
        ("beta_gelu", 100.0, 5.0),
        ("swish", 7.0, 4.0),
        ("augmented_relu", 2.0, 8.0),
        ("softplus", 5.0, 2.0),
        ("tanh", None, 10.0),
        ("sigmoid", None, 30.0),
        ("selu", None, 5.0),
        ("squared_relu", None, 1.0),
        ("relu", None, 1.0),
    ],
)
def test_shares_are_those_of_samples(
    name: str, beta: float | None, std: float, dtype: torch.dtype, threshold: float
):
    nonzero, above = shares(name, beta, threshold, dtype, std)
    peak = profile(name, beta, stds=()).peak
    count = 200_000
    total = 5 * count
    hits = torch.zeros(2)
    for seed in range(5):
        draws = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=F64) * std
        hits[0] += (by_autograd(name, beta, draws.to(dtype)) != 0).sum()
        hits[1] += (by_autograd(name, beta, draws).abs() > threshold * peak).sum()
    for expected, seen in zip((nonzero, above), (hits / total).tolist(), strict=True):
        stderr = math.sqrt(max(expected * (1 - expected), 1 / total) / total)
        assert abs(seen - expected) < 4 * stderr


@pytest.mark.parametrize("threshold", [1e-3, 0.1, 0.5])
@each_name
def test_the_ends_of_above_part_large_from_small(name: str, threshold: float):
    beta = beta_for(name)
    found, curve = profile(name, beta, threshold=threshold, stds=()), activations.curve(name, beta)
    inside, outside = around(found.above, curve.width)
    level = threshold * found.peak
    assert (curve.second(inside).abs() > level).all()
    assert (curve.second(outside).abs() <= level).all()


@each_dtype
@each_name
def test_the_ends_of_nonzero_part_zero_from_nonzero(name: str, dtype: torch.dtype):
    beta = beta_for(name)
    found, curve = profile(name, beta, dtype=dtype, stds=()), activations.curve(name, beta)
    inside, outside = around(found.nonzero, curve.width)
    assert (curve.second(inside.to(dtype)) != 0).all()
    assert (curve.second(outside.to(dtype)) == 0).all()
    assert found.dtype == str(dtype).removeprefix("torch.")


@each_dtype
@each_name
def test_nonzero_is_where_autograds_second_derivative_is(name: str, dtype: torch.dtype):
    beta = beta_for(name)
    found, width = profile(name, beta, dtype=dtype, stds=()), activations.curve(name, beta).width
    x = width * torch.linspace(-120, 40, 16000, dtype=F64)  # without zero itself
    second = by_autograd(name, beta, x.to(dtype))
    sure = ~((second != 0) & (second.abs() < torch.finfo(dtype).tiny))  # where digits go missing
    x, wanted = x[sure], second[sure] != 0
    # in float32, torch's own φ'' of mish is NaN right of 88
    inside = torch.stack([(x > i.low) & (x < i.high) for i in [*found.nonzero, Interval(0, 0)]])
    differ = x[wanted != inside.any(0)] / width
    assert not len(differ), f"{len(differ)} points differ, from {differ[0]} to {differ[-1]}"


@each_name
def test_intervals_are_in_order_and_apart(name: str):
    found = profile(name, beta_for(name), stds=())
    for intervals in (found.nonzero, found.above):
        ends = [end for i in intervals for end in (i.low, i.high)]
        assert ends == sorted(set(ends))


@pytest.mark.parametrize(
    ("name", "beta", "peak"),
    [
        ("gelu", None, 2 / math.sqrt(2 * math.pi)),
        ("beta_gelu", 0.1, 0.2 / math.sqrt(2 * math.pi)),
        ("beta_gelu", 100.0, 200 / math.sqrt(2 * math.pi)),
        ("augmented_relu", 10.0, 10 / math.sqrt(2 * math.pi)),
        ("tanh", None, 4 / (3 * math.sqrt(3))),
        ("sigmoid", None, math.sqrt(3) / 18),
        ("silu", None, 0.5),
        ("swish", 8.0, 4.0),
        ("softplus", 8.0, 2.0),
        ("elu", None, 1.0),
        ("selu", None, 1.6732632423543772 * 1.0507009873554805),
        ("squared_relu", None, 2.0),
        ("relu", None, 0.0),
        ("diminished_gelu", None, 0.0),
    ],
)
def test_peaks(name: str, beta: float | None, peak: float):
    assert profile(name, beta, stds=()).peak == pytest.approx(peak, rel=1e-9)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "diminished_gelu"])
@pytest.mark.parametrize("threshold", [0.0, 1e-3])
def test_a_second_derivative_of_zero_is_nowhere(name: str, threshold: float):
    found = profile(name, threshold=threshold)
    assert found.nonzero == found.above == ()
    assert not any(share.nonzero or share.above for share in found.gaussian)
    assert not any(found.values)


def test_squared_relu_has_the_right_half_line():
    found = profile("squared_relu")
    for (interval,) in (found.nonzero, found.above):
        assert interval.low == pytest.approx(0, abs=1e-15)
        assert interval.high == math.inf
    for share in found.gaussian:
        assert (share.nonzero, share.above) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("threshold", [1e-6, 1e-3, 0.5])
@pytest.mark.parametrize("beta", [0.5, 1.0, 50.0])
def test_above_in_closed_form(beta: float, threshold: float):
    def ends(name: str, beta: float | None) -> list[float]:
        (interval,) = profile(name, beta, threshold=threshold, stds=()).above
        return [interval.low, interval.high]

    gaussian = math.sqrt(2 * math.log(1 / threshold)) / beta
    assert ends("augmented_relu", beta) == pytest.approx([-gaussian, gaussian], rel=1e-12)
    logistic = 2 * math.acosh(threshold**-0.5) / beta
    assert ends("softplus", beta) == pytest.approx([-logistic, logistic], rel=1e-8)
    assert ends("elu", None) == pytest.approx([math.log(threshold), 0], abs=1e-12)


@pytest.mark.parametrize("threshold", [1e-10, 1e-6, 1e-3])
@pytest.mark.parametrize("beta", [1.0, 30.0])
def test_a_zero_parts_two_intervals_however_low_the_threshold(beta: float, threshold: float):
    left, middle, right = profile("beta_gelu", beta, threshold=threshold, stds=()).above
    for gap in ((left.high, middle.low), (middle.high, right.low)):
        assert gap[0] < gap[1]
        assert abs(sum(gap) / 2) == pytest.approx(math.sqrt(2) / beta, rel=2 * threshold + 1e-12)


@pytest.mark.parametrize("name", ["tanh", "gelu", "gelu_tanh", "augmented_relu", "sigmoid"])
def test_symmetrical_curves_have_symmetrical_intervals(name: str):
    intervals = profile(name, beta_for(name), stds=()).above
    mirrored = [-end for i in reversed(intervals) for end in (i.high, i.low)]
    ends = [end for i in intervals for end in (i.low, i.high)]
    assert ends == pytest.approx(mirrored, rel=1e-9)


@pytest.mark.parametrize("name", ["beta_gelu", "swish", "softplus", "augmented_relu"])
def test_a_sharper_curve_meets_fewer_inputs(name: str):
    found = [profile(name, beta) for beta in (0.5, 1.0, 10.0, 50.0, 100.0)]
    for wide, narrow in pairwise(found):
        for before, after in zip(wide.gaussian, narrow.gaussian, strict=True):
            assert 0 < after.nonzero <= before.nonzero <= 1
            assert 0 < after.above <= before.above <= 1
            assert after.above <= after.nonzero
            assert after.above < before.above or before.above > 1 - 1e-12


@pytest.mark.parametrize("name", ["beta_gelu", "swish", "softplus", "augmented_relu"])
@pytest.mark.parametrize("beta", [1e-3, 1e3, 1e6])
def test_only_beta_times_std_matters(name: str, beta: float):
    unit, other = profile(name, 1.0, stds=[2.0]), profile(name, beta, stds=[2.0 / beta])
    assert other.gaussian[0].above == pytest.approx(unit.gaussian[0].above, rel=1e-9)
    assert other.gaussian[0].nonzero == pytest.approx(unit.gaussian[0].nonzero, rel=1e-3)


def test_beta_gelu_underflows_beyond_fourteen_in_float32():
    (single,), (double,) = (profile("beta_gelu", 10.0, dtype=t).nonzero for t in (F32, F64))
    assert 1.3 < single.high < 1.45
    assert 3.8 < double.high < 3.9


def test_what_a_profile_says_beside_its_intervals():
    found = profile("swish", 7)
    assert (found.activation, found.beta, found.dtype) == ("swish", 7.0, "float32")
    assert found.threshold == DEFAULT_THRESHOLD
    assert tuple(share.std for share in found.gaussian) == STANDARD_DEVIATIONS
    curve = activations.curve("swish", 7.0)
    assert list(found.values) == curve.second(torch.tensor(found.points, dtype=F64)).tolist()
    assert max(map(abs, found.values)) == pytest.approx(found.peak, rel=1e-3)
    assert list(found.points) == sorted(found.points)
    assert profile("softplus", stds=()).beta == profile("augmented_relu", stds=()).beta == 1.0
    assert profile("gelu", stds=()).beta is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gelu", None, {"threshold": -0.1}), "threshold is out of range"),
        (("gelu", None, {"threshold": 1.0}), "threshold is out of range"),
        (("gelu", None, {"threshold": math.nan}), "threshold is out of range"),
        (("gelu", None, {"stds": [1.0, 0.0]}), "standard deviation is out of range"),
        (("gelu", None, {"stds": [-1.0]}), "standard deviation is out of range"),
        (("gelu", None, {"stds": [math.inf]}), "standard deviation is out of range"),
        (("gelu", None, {"stds": [math.nan]}), "standard deviation is out of range"),
        (("beta_gelu", None, {}), "needs a β"),
        (("gelu", 1.0, {}), "takes no β"),
        (("swish", -1.0, {}), "β is out of range"),
        (("swish", 0.0, {}), "β is out of range"),
        (("softplus", math.nan, {}), "β is out of range"),
        (("gellu", None, {}), "did you mean gelu"),
    ],
)
def test_bad_arguments(arguments: tuple[str, float | None, dict[str, Any]], words: str):
    name, beta, options = arguments
    with pytest.raises(InputError) as caught:
        profile(name, beta, **options)
    assert words in str(caught.value)
