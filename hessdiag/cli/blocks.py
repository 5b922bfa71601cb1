"""``hessdiag blocks``."""

from __future__ import annotations

from hessdiag.block_maps.blocks_settings import Settings
from hessdiag.cli import options, results
from hessdiag.subject_options import SubjectOptions


def blocks(
    checkpoint: options.Checkpoint,
    settings: Settings,
    which: options.ParameterOptions,
    subject: SubjectOptions,
    output: options.OutputOptions,
) -> None:
    """Norms of the blocks of H, G and N over pairs of layers, and shares within layers.

    The blocks of the NME within a layer hold the activation's second derivative in every term: of a
    ReLU network they vanish. Those between layers do not.
    """
    from hessdiag import blocks as compute
    from hessdiag.cli import console
    from hessdiag.subjects.subject import load

    results.check_targets(output)
    with console.progress("blocks", quiet=output.quiet) as bar:
        found = load(checkpoint, subject)
        report = compute(
            found.model,
            found.batches(),
            loss=found.loss,
            output=found.output,
            params=which.params,
            unchecked=which.unchecked,
            bn=subject.bn,
            dtype=found.dtype,
            on_progress=bar.show,
            settings=settings,
        )
    results.show(report.of(found.provenance()), output)
