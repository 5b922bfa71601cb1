"""Which options a regulariser takes, what they are by default, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from itertools import product
from typing import Any

import pytest

from hessdiag.errors import InputError
from hessdiag.nets import activations
from hessdiag.training.methods import OPTIONS, REGULARISERS, SURROGATES, find, settle
from hessdiag.training.task import Strengths

DEFAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "grad-penalty": {"rho": 0.1, "power": 1, "ablate_nme": False},
    "sam": {"rho": 0.05},
    "usam": {"rho": 0.05},
    "asam": {"rho": 0.5},
    "weight-noise": {"sigma2": 1e-4, "samples": 1},
    "nso": {"sigma2": 1e-4, "num_pairs": 1},
    "hessian-trace": {"sigma2": 1e-4, "kappa": 5e-5, "samples": 1, "probe": "gaussian"},
    "gn-trace": {"sigma2": 2e-3, "kappa": 1e-3, "samples": 1, "straight_through": False},
    "nme-trace": {
        "sigma2": 2e-3,
        "kappa": 1e-3,
        "samples": 1,
        "probe": "gaussian",
        "straight_through": False,
    },
}
COSTS = {  # theory, section 4
    "none": 1,
    "grad-penalty": 3,
    "sam": 2,
    "usam": 2,
    "asam": 2,
    "weight-noise": 1,
    "nso": 2,
    "hessian-trace": 13 / 3,  # 5 convolutions forward and 8 back, for 1 and 2
    "gn-trace": 11 / 3,
    "nme-trace": 13 / 3 + 11 / 3 - 1,
}
VALUES: dict[str, Any] = {
    "rho": 0.3,
    "power": 2,
    "ablate_nme": True,
    "sigma2": 0.01,
    "kappa": 0.02,
    "samples": 3,
    "probe": "rademacher",
    "straight_through": True,
    "num_pairs": 4,
}
TAKEN = [(name, option) for name, options in DEFAULTS.items() for option in options]
REFUSED = sorted(set(product(DEFAULTS, VALUES)) - set(TAKEN))

each_method = pytest.mark.parametrize("method", DEFAULTS)


def refusal(*args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        settle(*args, **options)
    return str(caught.value)


def test_the_tables_are_complete() -> None:
    fields = {field.name for field in dataclasses.fields(Strengths)}
    assert REGULARISERS.keys() == DEFAULTS.keys()
    assert OPTIONS.keys() == VALUES.keys() == fields
    assert len(set(OPTIONS.values())) == len(OPTIONS)


@each_method
def test_defaults(method: str) -> None:
    assert settle(method) == Strengths(**DEFAULTS[method])
    assert settle(method, **dict.fromkeys(OPTIONS)) == settle(method)  # None is not given
    assert find(method).defaults.keys() == DEFAULTS[method].keys()
    assert find(method).cost == pytest.approx(COSTS[method])


@pytest.mark.parametrize(("method", "option"), TAKEN)
def test_an_option_that_is_given_counts(method: str, option: str) -> None:
    wanted = {**DEFAULTS[method], option: VALUES[option]}
    if option == "sigma2" and "kappa" in wanted:
        wanted["kappa"] = VALUES["sigma2"] / 2
    assert settle(method, **{option: VALUES[option]}) == Strengths(**wanted)


@pytest.mark.parametrize(("method", "option"), REFUSED)
def test_an_option_that_is_not_taken_is_refused(method: str, option: str) -> None:
    message = refusal(method, **{option: VALUES[option]})
    assert f"the regulariser {method} does not take {OPTIONS[option]}" in message
    assert f"got: {OPTIONS[option]} {VALUES[option]}" in message
    wanted = message.partition("wanted: ")[2]
    assert wanted == (", ".join(OPTIONS[own] for own in DEFAULTS[method]) or "no options")


@pytest.mark.parametrize("value", [-1e-9, -1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("method", "option"),
    [pair for pair in TAKEN if pair[1] in ("rho", "sigma2", "kappa")],
)
def test_strengths_are_finite_and_not_negative(method: str, option: str, value: float) -> None:
    assert f"{OPTIONS[option]} is out of range" in refusal(method, **{option: value})
    assert getattr(settle(method, **{option: 0.0}), option) == 0


@pytest.mark.parametrize("value", [0, -3])
@pytest.mark.parametrize(
    ("method", "option"), [pair for pair in TAKEN if pair[1] in ("samples", "num_pairs")]
)
def test_counts_are_at_least_one(method: str, option: str, value: int) -> None:
    message = refusal(method, **{option: value})
    assert f"{OPTIONS[option]} is too small" in message
    assert f"got: {value}" in message
    assert getattr(settle(method, **{option: 1}), option) == 1


@pytest.mark.parametrize("power", [0, 3, -1, 1.5])
def test_the_power_is_one_or_two(power: float) -> None:
    assert "wanted: 1 or 2" in refusal("grad-penalty", power=power)
    assert [settle("grad-penalty", power=p).power for p in (1, 2)] == [1, 2]


@pytest.mark.parametrize("method", ["hessian-trace", "nme-trace"])
def test_an_unknown_probe_suggests_the_nearest(method: str) -> None:
    message = refusal(method, probe="radermacher")
    assert "unknown kind of probe" in message
    assert "did you mean rademacher?" in message


TRACES = ["hessian-trace", "gn-trace", "nme-trace"]


@pytest.mark.parametrize("method", TRACES)
def test_kappa_is_half_of_sigma2_or_given_itself(method: str) -> None:
    assert settle(method, sigma2=0.3).kappa == 0.15
    assert settle(method, kappa=0.3).kappa == 0.3
    assert settle(method, kappa=0.0).kappa == 0.0  # which is not "not given"
    assert settle(method, sigma2=0.0).kappa == 0.0
    message = refusal(method, sigma2=0.3, kappa=0.15)
    assert "got: --sigma2 0.3 and --kappa 0.15" in message
    assert "κ = σ²/2" in message


def test_one_variance_weighs_noise_and_penalties_alike() -> None:
    noise = settle("weight-noise", sigma2=0.04).sigma2
    assert all(settle(method, sigma2=noise).kappa == noise / 2 for method in TRACES)


@pytest.mark.parametrize("activation", SURROGATES)
@each_method
def test_surrogates_are_refused_where_phi_is_differentiated_thrice(
    method: str, activation: str
) -> None:
    if method in ("hessian-trace", "nme-trace"):
        message = refusal(method, activation=activation)
        assert "needs the third derivative of the activation" in message
        assert f"got: {activation}" in message
    else:
        assert settle(method, activation=activation) == settle(method)


@each_method
def test_every_other_activation_is_welcome(method: str) -> None:
    assert set(SURROGATES) < set(activations.NAMES)
    for activation in {None, *activations.NAMES} - set(SURROGATES):
        assert settle(method, activation=activation) == settle(method)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("hesian-trace", "hessian-trace"),
        ("grad_penalty", "grad-penalty"),
        ("SAM", "sam"),
        ("weight_noise", "weight-noise"),
        ("gntrace", "gn-trace"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(typed: str, meant: str) -> None:
    for act in (find, settle):
        with pytest.raises(InputError) as caught:
            act(typed)
        message = str(caught.value)
        assert f"got: '{typed}'" in message
        assert f"did you mean {meant}" in message
        assert ", ".join(DEFAULTS) in message


def test_a_name_near_to_nothing_lists_them_all() -> None:
    with pytest.raises(InputError) as caught:
        find("qqq")
    assert "did you mean" not in str(caught.value)
    assert ", ".join(DEFAULTS) in str(caught.value)
