"""The report of a sweep as text, JSON and plot."""

SYMBOLS = {
    "rho": "ρ",
    "sigma2": "σ²",
    "kappa": "κ",
    "beta": "β",
    "num_pairs": "pairs",
    "samples": "samples",
    "power": "p",
}
"""What a sweep varies, as people read it; the first ones make the better axis of a plot."""
