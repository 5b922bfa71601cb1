"""The section of matrix sensing: where each method goes."""

from __future__ import annotations

from typing import Any

from hessdiag.reports.html import charts
from hessdiag.reports.html.charts import Curve
from hessdiag.reports.html.section import Section
from hessdiag.reports.sensing import TITLES
from hessdiag.show.markup import block, number, table

_QUANTITIES = {
    "relative_error": "relative error ‖X − UUᵀ‖ / ‖X‖",
    "loss": "training loss",
    "trace": "trace of H",
}
_STYLES = {"gd": "a", "weight-noise": "b", "nso": "c"}


def sensing(payload: dict[str, Any]) -> Section:
    """Lay out ``hessdiag.sensing/1``."""
    settings, methods = payload["settings"], payload["methods"]
    steps = charts.values(payload["steps"])
    names = {method["name"]: str(TITLES.get(method["name"], method["name"])) for method in methods}
    x, plots = charts.linear("step", steps, whole=True), []
    for key, label in _QUANTITIES.items():
        curves = [
            Curve(
                names[method["name"]],
                _STYLES.get(method["name"], "d"),
                steps,
                charts.values(method[key]),
            )
            for method in methods
        ]
        y = charts.suitable(label, *(curve.y for curve in curves))
        plots.append(charts.chart(x, y, curves))
    last = [
        [names[method["name"]], *(number(method[key][-1]) for key in _QUANTITIES)]
        for method in methods
    ]
    size = settings["dimension"]
    return Section(
        "Matrix sensing",
        f"rank {settings['rank']} of {size} × {size}",
        [(row[0], f"error {row[1]}") for row in last],
        [
            block("Where each method ends", table("Last step", ["", *_QUANTITIES.values()], last)),
            block("Curves", charts.grid(plots)),
        ],
    )
