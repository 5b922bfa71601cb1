"""The report of a run, into its folder."""

from __future__ import annotations

from hessdiag import files
from hessdiag.reports import figures, payload
from hessdiag.reports.training.plot import curves_figure
from hessdiag.reports.training.schema import train_payload
from hessdiag.training import folder
from hessdiag.training.history import Finished

OUTPUTS = (folder.CURVES, folder.REPORT)


def write_report(found: Finished) -> None:
    """Write ``curves.png`` and then ``report.json``, the last file of a run.

    Raises:
        InputError: they cannot be written.
    """
    place = found.checkpoint.parent
    figures.save(curves_figure(found.epochs), place / folder.CURVES)
    files.write_text(place / folder.REPORT, payload.dumps(train_payload(found)))
