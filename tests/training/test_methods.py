"""Which options a method takes, what they are by default, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import product
from typing import Any

import numpy as np
import pytest

from hessdiag.errors import InputError
from hessdiag.nets import activations
from hessdiag.training.methods import (
    METHODS,
    NSO,
    OPTIONS,
    SURROGATES,
    GNTrace,
    GradientPenalty,
    HessianTrace,
    Method,
    find,
    settle,
    strengths,
)

DEFAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "grad-penalty": {"rho": 0.1, "power": 1, "ablate_nme": False},
    "sam": {"rho": 0.05},
    "usam": {"rho": 0.05},
    "asam": {"rho": 0.5},
    "weight-noise": {"sigma2": 1e-4, "samples": 1},
    "nso": {"sigma2": 1e-4, "num_pairs": 1},
    "hessian-trace": {"sigma2": 1e-4, "kappa": 5e-5, "samples": 1, "probe": "gaussian"},
    "gn-trace": {"sigma2": 2e-3, "kappa": 1e-3, "samples": 1, "labels": "exact"},
    "nme-trace": {
        "sigma2": 2e-3,
        "kappa": 1e-3,
        "samples": 1,
        "probe": "gaussian",
        "labels": "exact",
    },
}
COSTS = [  # theory, section 4: 5 convolutions forward and 8 back for tr H, where 1 and 2 are one
    *[("none", {}, 1), ("grad-penalty", {}, 3), ("grad-penalty", {"ablate_nme": True}, 7 / 3)],
    *[("sam", {}, 2), ("usam", {}, 2), ("asam", {}, 2)],
    *[("weight-noise", {"samples": 4}, 4), ("nso", {}, 2), ("nso", {"num_pairs": 3}, 6)],
    *[("hessian-trace", {}, 13 / 3), ("hessian-trace", {"samples": 2}, 26 / 3)],
    *[("gn-trace", {}, 11 / 3), ("gn-trace", {"samples": 3, "labels": "detached"}, 9)],
    *[("nme-trace", {}, 13 / 3 + 11 / 3 - 1), ("nme-trace", {"samples": 2}, 14)],
]
VALUES: dict[str, Any] = {
    "rho": 0.3,
    "power": 2,
    "ablate_nme": True,
    "sigma2": 0.01,
    "kappa": 0.02,
    "samples": 3,
    "probe": "rademacher",
    "labels": "detached",
    "num_pairs": 4,
}
TAKEN = [(name, option) for name, options in DEFAULTS.items() for option in options]
REFUSED = sorted(set(product(DEFAULTS, VALUES)) - set(TAKEN))
TRACES = ["hessian-trace", "gn-trace", "nme-trace"]

each_method = pytest.mark.parametrize("method", DEFAULTS)


def refusal(*args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        settle(*args, **options)
    return str(caught.value)


def test_the_tables_are_complete() -> None:
    assert METHODS.keys() == DEFAULTS.keys()
    assert OPTIONS.keys() == VALUES.keys()
    assert len({option.flag for option in OPTIONS.values()}) == len(OPTIONS)
    assert all(option.meta.description for option in OPTIONS.values())
    assert all(method.descends for method in METHODS.values())


def test_an_option_means_one_thing_in_all_methods_that_take_it() -> None:
    for method in METHODS.values():
        for name, own in method.options().items():
            assert (own.flag, own.symbol) == (OPTIONS[name].flag, OPTIONS[name].symbol)


def test_the_methods_are_known_without_torch() -> None:
    code = "import sys, hessdiag; hessdiag.methods.SAM(0.1); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@each_method
def test_defaults(method: str) -> None:
    assert settle(method).values == DEFAULTS[method]
    assert settle(method, **dict.fromkeys(OPTIONS)) == find(method)()  # None is not given
    assert find(method).options().keys() == DEFAULTS[method].keys()


@pytest.mark.parametrize(("method", "options", "cost"), COSTS)
def test_costs_depend_on_the_options(method: str, options: dict[str, Any], cost: float) -> None:
    assert find(method)(**options).cost == pytest.approx(cost)


@pytest.mark.parametrize(("method", "option"), TAKEN)
def test_an_option_that_is_given_counts(method: str, option: str) -> None:
    wanted = {**DEFAULTS[method], option: VALUES[option]}
    if method in TRACES and option == "sigma2":
        wanted["kappa"] = VALUES["sigma2"] / 2
    if option == "kappa":
        wanted["sigma2"] = VALUES["kappa"] * 2
    assert settle(method, **{option: VALUES[option]}).values == wanted


def test_options_that_are_not_given_are_those_of_the_base() -> None:
    base = NSO(sigma2=0.3, num_pairs=2)
    assert settle("nso", base=base, num_pairs=3) == NSO(sigma2=0.3, num_pairs=3)
    assert settle("weight-noise", base=base) == settle("weight-noise")
    trace = HessianTrace(kappa=0.3, samples=2)
    assert settle("hessian-trace", base=trace, sigma2=0.1) == HessianTrace(0.1, samples=2)
    assert settle("hessian-trace", base=trace, samples=3) == HessianTrace(kappa=0.3, samples=3)


@pytest.mark.parametrize(("method", "option"), REFUSED)
def test_an_option_that_is_not_taken_is_refused(method: str, option: str) -> None:
    message = refusal(method, **{option: VALUES[option]})
    assert f"the regulariser {method} does not take `{option}`" in message
    assert f"got: `{option}` {VALUES[option]}" in message
    wanted = message.partition("wanted: ")[2]
    assert wanted == (", ".join(f"`{own}`" for own in DEFAULTS[method]) or "no options")


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
@pytest.mark.parametrize(
    ("method", "option"),
    [pair for pair in TAKEN if pair[1] in ("rho", "sigma2", "kappa")],
)
def test_strengths_are_finite_and_not_negative(method: str, option: str, value: float) -> None:
    for act in (settle, lambda name, **options: find(name)(**options)):
        with pytest.raises(InputError, match=f"`{option}` is out of range"):
            act(method, **{option: value})
    assert getattr(settle(method, **{option: 0}), option) == 0


@pytest.mark.parametrize("value", [0, -3])
@pytest.mark.parametrize(
    ("method", "option"), [pair for pair in TAKEN if pair[1] in ("samples", "num_pairs")]
)
def test_counts_are_at_least_one(method: str, option: str, value: int) -> None:
    message = refusal(method, **{option: value})
    assert message == f"`{option}` is out of range\n  got: {value}\n  wanted: at least 1"
    assert getattr(settle(method, **{option: 1}), option) == 1


def test_the_power_is_one_or_two() -> None:
    for power in (0, 3, -1):
        assert "`power` is out of range" in refusal("grad-penalty", power=power)
    assert "`power` has the wrong type" in refusal("grad-penalty", power=1.5)
    assert [GradientPenalty(power=p).power for p in (1, 2)] == [1, 2]


@pytest.mark.parametrize("value", ["0.1", None, [0.1], True, 1j])
def test_values_of_a_wrong_type_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"(?s)`rho` has the wrong type.*wanted: a number"):
        GradientPenalty(rho=value)


def test_whole_and_numpys_numbers_are_numbers() -> None:
    assert GradientPenalty(rho=1) == GradientPenalty(rho=np.float64(1.0), power=np.int64(1))  # pyright: ignore[reportArgumentType]
    assert type(GradientPenalty(rho=1).rho) is float


@pytest.mark.parametrize(
    ("method", "option", "typed", "meant"),
    [
        ("hessian-trace", "probe", "radermacher", "rademacher"),
        ("nme-trace", "probe", "gausian", "gaussian"),
        ("gn-trace", "labels", "straight_through", "straight-through"),
        ("nme-trace", "labels", "exat", "exact"),
    ],
)
def test_an_unknown_choice_suggests_the_nearest(
    method: str, option: str, typed: str, meant: str
) -> None:
    message = refusal(method, **{option: typed})
    assert f"unknown {option}" in message
    assert f"did you mean {meant}?" in message


@pytest.mark.parametrize("method", TRACES)
def test_kappa_is_half_of_sigma2_or_given_itself(method: str) -> None:
    for given in ({"sigma2": 0.3}, {"kappa": 0.15}, {"sigma2": 0.3, "kappa": 0.15}):
        values = settle(method, **given).values
        assert (values["sigma2"], values["kappa"]) == (0.3, 0.15)
    assert settle(method, kappa=0.0).values["kappa"] == 0.0  # which is not "not given"
    message = refusal(method, sigma2=0.3, kappa=0.3)
    assert "got: σ² = 0.3 and κ = 0.3" in message
    assert "κ = σ²/2" in message


def test_straight_through_is_the_older_name_of_a_choice_of_labels() -> None:
    assert settle("gn-trace", straight_through=True) == GNTrace(labels="straight-through")
    assert settle("gn-trace", straight_through=False) == GNTrace(labels="detached")
    assert settle("gn-trace", straight_through=None) == GNTrace()
    message = refusal("gn-trace", straight_through=True, labels="exact")
    assert "`labels` and `straight_through` disagree" in message


def test_reports_list_the_options_of_all_methods() -> None:
    nothing = {"rho": 0, "power": 1, "ablate_nme": False, "sigma2": 0, "kappa": 0, "samples": 1}
    nothing |= {"probe": "gaussian", "num_pairs": 1, "labels": "exact", "straight_through": False}
    for name, defaults in DEFAULTS.items():
        assert strengths(settle(name)) == nothing | defaults
    assert strengths(GNTrace(labels="straight-through"))["straight_through"]


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
    [("hesian-trace", "hessian-trace"), ("grad_penalty", "grad-penalty"), ("SAM", "sam")],
)
def test_an_unknown_name_suggests_the_nearest(typed: str, meant: str) -> None:
    for act in (find, settle):
        with pytest.raises(InputError) as caught:
            act(typed)
        message = str(caught.value)
        assert f"got: '{typed}'" in message
        assert f"did you mean {meant}" in message
        assert ", ".join(DEFAULTS) in message


def test_an_unknown_option_is_refused() -> None:
    assert "did you mean sigma2" in refusal("nso", sigma=0.1)


def test_a_method_cannot_be_changed_and_is_made_by_its_class_alone() -> None:
    with pytest.raises(AttributeError):
        GNTrace().kappa = 3.0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError, match="abstract"):
        Method()  # pyright: ignore[reportAbstractUsage]
