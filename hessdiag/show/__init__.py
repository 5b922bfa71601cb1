"""Documents and the media that show them: each medium is one file that knows no kind of report.

``document`` is what a report is made of; ``terminal``, ``page`` (with ``svg``), ``markdown`` and
``plotting/figure`` draw any document.
"""
