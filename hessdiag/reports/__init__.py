"""Reports as text, JSON and plots: pure functions of results."""

from hessdiag import drawing

TITLES = {"hessian": "Hessian H", "gn": "Gauss-Newton G", "nme": "NME N"}
"""Names of the parts, as people read them."""

drawing.settle()
