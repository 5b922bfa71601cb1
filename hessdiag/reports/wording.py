"""How legacy reports name what they speak of."""

from __future__ import annotations

from hessdiag.metadata import Provenance
from hessdiag.nets import activations
from hessdiag.show.wording import BARS, between, ordinal, plus_minus

__all__ = ["BARS", "between", "ordinal", "plus_minus", "title", "trained_with"]


def title(provenance: Provenance) -> str:
    """Name the network, its activation and its data in one line."""
    model = provenance.model
    activation = f" {activations.label(model.activation, model.beta)}" if model.activation else ""
    text = f"{model.name}{activation} on {provenance.data} ({provenance.split})"
    return text + trained_with(provenance)


def trained_with(provenance: Provenance) -> str:
    """Say which activation the weights were trained with, if it was another."""
    before = provenance.trained_with
    if before is None or before.activation is None:
        return ""
    return f", what if: trained with {activations.label(before.activation, before.beta)}"
