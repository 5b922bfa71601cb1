"""The matrix-sensing report as text, JSON and plot."""

TITLES = {"gd": "gradient descent", "weight-noise": "weight noise", "nso": "NSO"}
"""Names of the methods, as people read them."""
