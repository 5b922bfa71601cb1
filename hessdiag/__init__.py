"""Hessian-decomposition diagnostics of neural networks.

The public names below are imported on first use, so that ``import hessdiag`` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hessdiag.block_maps.blocks_result import Blocks
    from hessdiag.block_maps.blocks_run import blocks
    from hessdiag.callbacks.monitor import Monitor
    from hessdiag.comparisons.compare_result import Comparison
    from hessdiag.comparisons.compare_run import compare, compare_reports
    from hessdiag.curvature.decomposition import Decomposition, Products
    from hessdiag.curvature.sampled_fisher import SampledFisher, sampled_fisher
    from hessdiag.curvature.scaled_curvature import class_traces, preconditioned_lambda_max
    from hessdiag.errors import InputError
    from hessdiag.gates.gate_result import GateReport
    from hessdiag.gates.gate_run import gate
    from hessdiag.landscapes.landscape_result import Landscape
    from hessdiag.landscapes.landscape_run import landscape
    from hessdiag.landscapes.planes import Plane
    from hessdiag.linalg.processes import joined
    from hessdiag.linalg.trace import Estimate
    from hessdiag.losses.named.cross_entropy import CrossEntropy
    from hessdiag.nets.profiles import Profile, profile
    from hessdiag.sparsities.sparsity_result import Sparsity
    from hessdiag.sparsities.sparsity_run import sparsity
    from hessdiag.spectra.spectrum_result import Report
    from hessdiag.spectra.spectrum_run import spectrum
    from hessdiag.training import methods

__version__ = "0.2.0"

_HOMES = {
    "SampledFisher": "hessdiag.curvature.sampled_fisher",
    "sampled_fisher": "hessdiag.curvature.sampled_fisher",
    "class_traces": "hessdiag.curvature.scaled_curvature",
    "preconditioned_lambda_max": "hessdiag.curvature.scaled_curvature",
    "Blocks": "hessdiag.block_maps.blocks_result",
    "blocks": "hessdiag.block_maps.blocks_run",
    "Comparison": "hessdiag.comparisons.compare_result",
    "compare": "hessdiag.comparisons.compare_run",
    "compare_reports": "hessdiag.comparisons.compare_run",
    "CrossEntropy": "hessdiag.losses.named.cross_entropy",
    "Decomposition": "hessdiag.curvature.decomposition",
    "Products": "hessdiag.curvature.decomposition",
    "Landscape": "hessdiag.landscapes.landscape_result",
    "landscape": "hessdiag.landscapes.landscape_run",
    "Plane": "hessdiag.landscapes.planes",
    "Sparsity": "hessdiag.sparsities.sparsity_result",
    "sparsity": "hessdiag.sparsities.sparsity_run",
    "Monitor": "hessdiag.callbacks.monitor",
    "InputError": "hessdiag.errors",
    "GateReport": "hessdiag.gates.gate_result",
    "gate": "hessdiag.gates.gate_run",
    "Estimate": "hessdiag.linalg.trace",
    "joined": "hessdiag.linalg.processes",
    "Profile": "hessdiag.nets.profiles",
    "profile": "hessdiag.nets.profiles",
    "Report": "hessdiag.spectra.spectrum_result",
    "spectrum": "hessdiag.spectra.spectrum_run",
}

__all__ = [
    "Blocks",
    "Comparison",
    "CrossEntropy",
    "Decomposition",
    "Estimate",
    "GateReport",
    "InputError",
    "Landscape",
    "Monitor",
    "Plane",
    "Products",
    "Profile",
    "Report",
    "SampledFisher",
    "Sparsity",
    "__version__",
    "blocks",
    "class_traces",
    "compare",
    "compare_reports",
    "gate",
    "joined",
    "landscape",
    "methods",
    "preconditioned_lambda_max",
    "profile",
    "sampled_fisher",
    "sparsity",
    "spectrum",
]


def __getattr__(name: str) -> Any:
    if name == "methods":  # a module, of the methods' classes
        return importlib.import_module("hessdiag.training.methods")
    if name not in _HOMES:
        raise AttributeError(f"module 'hessdiag' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
