"""Hessian-decomposition diagnostics of neural networks.

The public names below are imported on first use, so that ``import hessdiag`` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hessdiag.comparisons.run import Comparison, compare
    from hessdiag.curvature.decomposition import Decomposition, Products
    from hessdiag.curvature.landscape import landscape
    from hessdiag.curvature.planes import Plane
    from hessdiag.curvature.sparsity import Sparsity, sparsity
    from hessdiag.curvature.surfaces import Landscape
    from hessdiag.errors import InputError
    from hessdiag.gates.run import GateReport, gate
    from hessdiag.linalg.trace import Estimate
    from hessdiag.nets.profiles import Profile, profile
    from hessdiag.spectra.report import Report
    from hessdiag.spectra.run import spectrum

__version__ = "0.1.0"

_HOMES = {
    "Comparison": "hessdiag.comparisons.run",
    "compare": "hessdiag.comparisons.run",
    "Decomposition": "hessdiag.curvature.decomposition",
    "Products": "hessdiag.curvature.decomposition",
    "Landscape": "hessdiag.curvature.surfaces",
    "landscape": "hessdiag.curvature.landscape",
    "Plane": "hessdiag.curvature.planes",
    "Sparsity": "hessdiag.curvature.sparsity",
    "sparsity": "hessdiag.curvature.sparsity",
    "InputError": "hessdiag.errors",
    "GateReport": "hessdiag.gates.run",
    "gate": "hessdiag.gates.run",
    "Estimate": "hessdiag.linalg.trace",
    "Profile": "hessdiag.nets.profiles",
    "profile": "hessdiag.nets.profiles",
    "Report": "hessdiag.spectra.report",
    "spectrum": "hessdiag.spectra.run",
}

__all__ = [
    "Comparison",
    "Decomposition",
    "Estimate",
    "GateReport",
    "InputError",
    "Landscape",
    "Plane",
    "Products",
    "Profile",
    "Report",
    "Sparsity",
    "__version__",
    "compare",
    "gate",
    "landscape",
    "profile",
    "sparsity",
    "spectrum",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hessdiag' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
