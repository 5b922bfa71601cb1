"""The report of a run, into its folder."""

from __future__ import annotations

from hessdiag import files
from hessdiag.show.plotting import figure
from hessdiag.training import folder, train_document
from hessdiag.training.history import Finished
from hessdiag.training.train_result import report

OUTPUTS = (folder.CURVES, folder.REPORT)


def write_report(finished: Finished) -> None:
    """Write ``curves.png`` and then ``report.json``, the last file of a run.

    Raises:
        InputError: they cannot be written.
    """
    place = finished.checkpoint.parent
    if finished.epochs:
        figure.save(train_document.curves(finished.epochs), place / folder.CURVES)
    files.write_text(place / folder.REPORT, report(finished).to_json())
