"""Reports as JSON: plain dictionaries of fixed shape, without NaN or Infinity."""

from __future__ import annotations

import dataclasses
from typing import Any

from hessdiag.linalg.density import Density
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import Provenance
from hessdiag.reports.payload import finite, origin
from hessdiag.spectra.spectrum_result import Part, Report

SPECTRUM = "hessdiag.spectrum/1"


def spectrum_json(report: Report, provenance: Provenance | None = None) -> dict[str, Any]:
    """Lay a spectrum report out as ``hessdiag.spectrum/1``; numbers that are not finite are None.

    ``notes`` gives the reason for every None and whatever else qualifies a number.
    """
    return finite(
        {
            **origin(
                SPECTRUM,
                provenance,
                num_parameters=report.num_parameters,
                num_samples=report.num_samples,
            ),
            "loss": {"name": report.loss_name, "value": report.loss, "accuracy": report.accuracy},
            "settings": settings_json(report, provenance),
            "parts": {name: _part(part) for name, part in report.parts.items()},
            "finite_radius": (
                dataclasses.asdict(report.finite_radius) if report.finite_radius else None
            ),
            "gradient": {"norm": report.gradient_norm, "rayleigh": report.rayleigh},
            "checks": {
                "decomposition_residual": report.decomposition_residual,
                "symmetry_residual": report.symmetry_residual,
            },
            "cost": dataclasses.asdict(report.cost),
            "notes": notes(report),
        }
    )


def settings_json(report: Report, provenance: Provenance | None) -> dict[str, Any]:
    """Lay out how a spectrum was computed."""
    return {
        **dataclasses.asdict(report.settings),
        "dtype": report.dtype,
        "device": report.device,
        "bn": report.bn,
        "batch_size": provenance.batch_size if provenance else None,
        "params": report.params,
    }


def notes(report: Report) -> list[str]:
    """List what qualifies the numbers of a report: targets missed, eigenvalues not converged."""
    found: list[str] = []
    settings = report.settings
    for name, part in report.parts.items():
        if part.target_reached is False:
            found.append(
                f"{name}: all {part.trace.num_probes} probes spent; the trace's relative error "
                f"is {part.trace.rel_error:.2g}, and {settings.rel_error:g} was asked for"
            )
        elif part.target_reached:
            found.append(
                f"{name}: the trace's relative error {part.trace.rel_error:.2g} was reached with "
                f"{part.trace.num_probes} probes"
            )
        for end in ("top", "bottom"):
            missing = sum(not ritz.converged for ritz in getattr(part, end))
            if missing:
                found.append(
                    f"{name}: {missing} of {settings.top_k} {end} eigenvalues not converged within "
                    f"{report.cost.passes[f'{name}.lanczos']} passes; see their residuals"
                )
    finite_radius = report.finite_radius
    if finite_radius is not None:
        stderr = finite_radius.excess.stderr or 0.0
        if finite_radius.rounding > max(stderr, 0.01 * abs(finite_radius.trace.value)):
            found.append(
                f"rounding of about {finite_radius.rounding:.2g} drowns the curvature at radius "
                f"{finite_radius.radius:g}; take a larger radius, or float64"
            )
    if settings.num_probes == 1:
        found.append("one probe gives no standard error and no interval: null")
    if report.accuracy is None:
        found.append("the targets are not classes, so there is no accuracy: null")
    if any(value is None for value in report.rayleigh.values()):
        found.append("the gradient is exactly zero and has no direction: rayleigh is null")
    return found


def _part(part: Part) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "trace": _estimate(part.trace),
        "frobenius_norm": _estimate(part.frobenius_norm),
        "top": [_ritz(ritz) for ritz in part.top],
        "bottom": [_ritz(ritz) for ritz in part.bottom],
    }
    if part.target_reached is not None:
        payload["trace"]["rel_error"] = part.trace.rel_error
        payload["trace"]["target_reached"] = part.target_reached
    if part.density is not None:
        payload["density"] = density_json(part.density)
    if part.layers is not None:
        payload["layers"] = {
            name: {"trace": _estimate(trace)} for name, trace in part.layers.items()
        }
    return payload


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return dataclasses.asdict(estimate)


def _ritz(ritz: RitzValue) -> dict[str, Any]:
    return dataclasses.asdict(ritz)


def density_json(density: Density) -> dict[str, Any]:
    """Lay a density out."""
    fields = dataclasses.asdict(density)
    return {name: getattr(value, "tolist", lambda v=value: v)() for name, value in fields.items()}
