"""What the sections draw, where it could go wrong."""

import base64
import copy
import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hessdiag.errors import InputError
from hessdiag.reports.html.page import page
from hessdiag.reports.html.sources import Source


def pictures(text: str) -> list[Image.Image]:
    found = re.findall(r"data:image/png;base64,([^\"]+)", text)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def heights(text: str, style: str) -> list[float]:
    """Read the heights of a curve back from its drawing."""
    (path,) = re.findall(rf'd="([^"]*)" class="curve {style}', text.split("<figure>", 1)[1])
    return [float(point.split()[1]) for point in re.split("[ML]", path)[1:]]


def test_a_map_has_a_pixel_for_each_point_and_grey_for_what_is_not_finite(
    payloads: dict[str, Any],
):
    payload = copy.deepcopy(payloads["landscape"])
    payload["surfaces"][0]["loss"] = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, None]]
    picture, bar = pictures(page([Source("l", payload)]))[:2]
    assert (picture.size, bar.size) == ((3, 3), (128, 1))
    assert picture.getpixel((2, 0))[:3] == (153, 153, 153)  # the last of both, up and to the right
    assert picture.getpixel((0, 2)) == bar.getpixel((0, 0))  # the least of all
    assert picture.getpixel((2, 1)) == bar.getpixel((127, 0))  # the largest


def test_a_large_map_is_thinned(payloads: dict[str, Any]):
    payload = copy.deepcopy(payloads["landscape"])
    side = np.linspace(-1, 1, 1001).tolist()
    payload["axes"] = {"a": side, "b": side}
    table = np.ones((1001, 1001)).tolist()
    payload["surfaces"] = [{**payload["surfaces"][0], "loss": table, "gn_norm": table}]
    payload["surfaces"][0]["nme_norm"] = table
    for name in ("gn_full", "nme_full"):
        payload["surfaces"][0].pop(name)
    assert pictures(page([Source("l", payload)]))[0].size == (334, 334)


def test_a_map_of_another_shape_than_its_axes_is_refused(payloads: dict[str, Any]):
    payload = copy.deepcopy(payloads["landscape"])
    payload["surfaces"][0]["gn_norm"] = [[1.0, 2.0]]
    with pytest.raises(InputError, match="gn_norm has shape"):
        page([Source("l", payload)])


@pytest.mark.parametrize("side", [[0.0, 0.0, 0.0], [1.0, 0.0, -1.0], [None, 0.0, 1.0]])
def test_an_axis_that_does_not_increase_is_refused(payloads: dict[str, Any], side: list[Any]):
    payload = copy.deepcopy(payloads["landscape"])
    payload["axes"]["a"] = side
    with pytest.raises(InputError, match="does not increase"):
        page([Source("l", payload)])
