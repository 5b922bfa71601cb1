"""The report of a run, into its folder."""

from __future__ import annotations

from hessdiag import files
from hessdiag.reports import figures, payload
from hessdiag.reports.training.plot import curves_figure
from hessdiag.reports.training.schema import train_payload
from hessdiag.training import folder
from hessdiag.training.history import Finished


def write_report(found: Finished) -> None:
    """Write ``report.json`` and ``curves.png`` beside the checkpoint.

    Raises:
        InputError: they cannot be written.
    """
    place = found.checkpoint.parent
    files.write_text(place / folder.REPORT, payload.dumps(train_payload(found)))
    figures.save(curves_figure(found.epochs), place / folder.CURVES)
