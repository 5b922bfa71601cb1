"""The report of a sweep as text, JSON and plot."""

from hessdiag.training import methods

_AXES = {"rho": "ρ", "sigma2": "σ²", "kappa": "κ", "beta": "β"}
SYMBOLS = {**_AXES, **{name: option.symbol for name, option in methods.OPTIONS.items()}}
"""What a sweep varies, as people read it; the first ones make the better axis of a plot."""


def told(value: float | str) -> str:
    """Write a choice out."""
    return value if isinstance(value, str) else f"{value:g}"
