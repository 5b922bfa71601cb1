"""Documents and the media that show them: each medium is one file that knows no kind of report.

``document`` is what a report is made of; ``terminal``, ``page`` (with ``svg``), ``figure`` and
``markdown`` draw any document.
"""

from hessdiag import drawing

drawing.settle()
