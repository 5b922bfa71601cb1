"""The choice of a scale, and the shades it gives."""

import numpy as np
import pytest

from hessdiag.show.shading import Shading

RAMP = np.linspace(1.0, 2.0, 50)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RAMP, "linear"),
        (RAMP - 1.5, "linear"),
        (10 ** (3 * RAMP), "log"),
        (np.r_[0.0, 10 ** (3 * np.linspace(1, 2, 500))], "log"),
        (np.r_[np.zeros(80), RAMP], "root"),
        (np.r_[np.zeros(10), RAMP], "linear"),
        (np.zeros(5), "linear"),
        (np.full(5, 3.0), "linear"),
        (np.full(5, np.nan), "linear"),
        (np.r_[RAMP, np.nan], "linear"),
        (np.array([]), "linear"),
    ],
)
def test_the_scale_suits_the_values(values: np.ndarray, kind: str):
    scale = Shading.of(values)
    assert scale.kind == kind
    shades = scale.shade(values)
    assert np.isfinite(shades).all()
    assert ((shades >= 0) & (shades <= 1)).all()


def test_shades_grow_with_the_values():
    for values in (RAMP, 10 ** (3 * RAMP), np.r_[np.zeros(80), RAMP]):
        scale = Shading.of(values)
        shades = scale.shade(np.sort(values))
        assert (np.diff(shades) >= 0).all()
        assert shades[-1] == pytest.approx(1)
    assert Shading.of(RAMP).shade(RAMP)[0] == 0


def test_constants_are_dark_and_zeros_are_not():
    assert Shading.of(np.full(3, 2.0)).shade(np.full(3, 2.0)).tolist() == [1, 1, 1]
    assert Shading.of(np.zeros(3)).shade(np.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_no_size_is_too_small_or_too_large(size: float):
    values = np.array([-1.0, 0.0, 1.0]) * size
    assert Shading.of(values).shade(values).tolist() == [0, 0.5, 1]


def test_several_tables_share_one_scale():
    scale = Shading.of(RAMP, 3 * RAMP)
    assert (scale.low, scale.high) == (1, 6)
