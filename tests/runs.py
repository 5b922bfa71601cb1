"""A finished run made by hand, complete and with all that can be absent left out."""

from dataclasses import replace
from pathlib import Path

from hessdiag.curvature.pac_bayes import PacBayes
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import ModelSpec, Provenance
from hessdiag.metrics.metric_reading import Reading
from hessdiag.training import methods
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch, Finished
from hessdiag.training.recipes import find

CURVATURE = {
    "hessian.trace": Reading(30.0, 2.0, (26.0, 34.0)),
    "gn.trace": Reading(32.0, None),
    "perturbation.trace": Reading(29.0, 3.0, (23.0, 35.0)),
    "nme.lambda_max": Reading(4.0, 1e-3),
    "sparsity.nonzero": Reading(0.75),
}
EPOCHS = (
    Epoch(1, 10, 0.1, 2.0, 0.25, 0.3, 0.35, 0),
    Epoch(2, 20, 0.05, 1.0, 0.5, 0.6, 0.65, 1, CURVATURE),
    Epoch(3, 30, 0.01, 0.5, 0.75, 0.5, 0.55, 0),
    Epoch(4, 40, 0.0, 0.25, 0.8, 0.5, 0.5, 0, CURVATURE | {"nme.lambda_max": Reading(5.0, 1e-3)}),
)


def finished() -> Finished:
    """Complete: tracked, held out, tested, with the terms of the bound."""
    return Finished(
        config=Config(
            replace(find("digits-wrn10-1"), method=methods.NSO()),
            track=tuple(CURVATURE),
            log_every=5,
        ),
        checkpoint=Path("run/model.safetensors"),
        epochs=EPOCHS,
        provenance=Provenance(
            "run/model.safetensors",
            None,
            ModelSpec("mlp-16", "beta_gelu", 2.0, 10, (1, 8, 8)),
            "digits",
            "train",
            "d" * 64,
            32,
        ),
        num_parameters=1210,
        num_samples=300,
        pac_bayes=PacBayes(0.5, Estimate(30.0, 2.0, (26.0, 34.0), 8), 2.0, 4.0, 270, 0.1),
        seconds=12.34,
        images_per_second=567.8,
        peak_memory_bytes=3 << 29,
        num_processes=2,
        device="cuda:0",
    )


def bare() -> Finished:
    """Nothing held out, tested, tracked or bounded; no method; one process."""
    epochs = tuple(
        replace(epoch, validation_accuracy=None, test_accuracy=None, curvature={})
        for epoch in EPOCHS
    )
    config = Config(find("digits-wrn10-1"))
    return replace(
        finished(), config=config, epochs=epochs, pac_bayes=None, num_processes=1, device="cpu"
    )
