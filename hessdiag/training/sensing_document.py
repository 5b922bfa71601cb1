"""The matrix-sensing report for people: where each method ends, and its way there."""

from __future__ import annotations

from hessdiag.show.document import Axis, Block, Chart, Curve, Document, Quantity, Row, Table
from hessdiag.show.origin import origin
from hessdiag.training.sensing_result import TITLES, Curves, Sensing

_STYLES = {"gd": "a", "weight-noise": "b", "nso": "c"}
_FIELDS = {"relative_error": "relative error", "loss": "training loss", "trace": "tr H"}


def document(sensing: Sensing) -> Document:
    """Lay the descents out."""
    settings = sensing.settings
    pairs = f"{settings.num_pairs} pair{'s' if settings.num_pairs > 1 else ''}"
    rows = [
        Row([TITLES.get(curves.name, curves.name), *(_last(curves, field) for field in _FIELDS)])
        for curves in sensing.methods
    ]
    charts = [
        Chart(
            label,
            Axis("step", "linear"),
            Axis(label, "log" if field == "relative_error" else "suitable"),
            [
                Curve(
                    TITLES.get(curves.name, curves.name),
                    sensing.steps,
                    getattr(curves, field),
                    _STYLES.get(curves.name, "d"),
                )
                for curves in sensing.methods
            ],
        )
        for field, label in _FIELDS.items()
    ]
    return Document(
        kind="Matrix sensing",
        title=f"matrix sensing: rank {settings.rank} of {settings.dimension} × "
        f"{settings.dimension}, {settings.num_measurements:,} measurements",
        headline=[
            f"after {settings.steps:,} steps of size {settings.lr:g}; σ = {settings.sigma:g}, "
            f"NSO with {pairs}",
            "",
        ],
        facts=[
            (f"{TITLES.get(curves.name, curves.name)}, relative error", _last(curves))
            for curves in sensing.methods
        ],
        blocks=[
            Block("Where they end", [Table(["", *_FIELDS.values()], rows)]),
            Block("The way there", charts, media=("page", "figure")),
        ],
        footer=[f"{sensing.cost.seconds:.1f} s, {settings.dtype} on {settings.device}"],
        notes=sensing.notes,
        origin=origin(sensing),
    )


def _last(curves: Curves, field: str = "relative_error") -> Quantity:
    values = getattr(curves, field)
    return Quantity(float(values[-1]) if len(values) else None)
