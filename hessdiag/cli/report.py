"""``hessdiag report``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options


def report(
    source: Annotated[
        list[str],
        typer.Argument(help="JSON reports, and folders of runs or sweeps, in the order shown."),
    ],
    talk: options.QuietOption,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Where to write the page.")
    ] = "report.html",
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
) -> None:
    """Lay reports out as one HTML page that needs no network, to be read, printed or sent.

    Each source has a card in the summary and a section: parts side by side, densities, layers,
    sparsity, maps, training curves, verdicts, and where the numbers come from.
    """
    import dataclasses
    from pathlib import Path

    from hessdiag import files
    from hessdiag.cli import console
    from hessdiag.errors import InputError, printable
    from hessdiag.show.document import Code, Document
    from hessdiag.show.page import page
    from hessdiag.training import report_source

    if Path(output).suffix.lower() not in (".html", ".htm"):  # never a report that is a source
        raise InputError("the page is HTML", got=f"--output {output}", wanted="a name in .html")
    files.check_writable(output)

    def laid_out(path: str) -> Document:
        document = report_source.read(path).document()
        return dataclasses.replace(document, origin=[("source", Code(path)), *document.origin])

    files.write_text(output, page([laid_out(path) for path in source], title))
    if not talk.quiet:
        console.out().print(printable(output), markup=False, soft_wrap=True)
