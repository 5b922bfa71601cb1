"""The landscape report as text, JSON and plot."""

from hessdiag.reports import TITLES

NORMS = {"gn_norm": f"{TITLES['gn'].rsplit(' ', 1)[0]} norm", "nme_norm": "NME norm"}
"""Norms of the parts restricted to the plane, as people read them."""
