"""Maps as pictures of a page: every pixel is a point."""

import base64
import io
import re

import numpy as np
from PIL import Image

from hessdiag.show.document import Axis, Map
from hessdiag.show.plotting.map_pictures import picture


def shown(values: np.ndarray) -> Map:
    side = np.linspace(-1, 1, len(values))
    axis = Axis("u", "linear")
    return Map("loss", axis, axis, side, side, values, [values], "loss")


def pictures(values: np.ndarray) -> list[Image.Image]:
    data = re.findall(r"data:image/png;base64,([^\"]+)", picture(shown(values)))
    return [Image.open(io.BytesIO(base64.b64decode(found))) for found in data]


def test_a_map_has_a_pixel_for_each_point_and_grey_for_what_is_not_finite():
    drawn, bar = pictures(np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, np.nan]]))
    assert (drawn.size, bar.size) == ((3, 3), (128, 1))
    assert drawn.getpixel((2, 0))[:3] == (153, 153, 153)  # the last of both, up and to the right
    assert drawn.getpixel((0, 2)) == bar.getpixel((0, 0))  # the least of all
    assert drawn.getpixel((2, 1)) == bar.getpixel((127, 0))  # the largest


def test_a_large_map_is_thinned():
    assert pictures(np.ones((1001, 1001)))[0].size == (334, 334)
