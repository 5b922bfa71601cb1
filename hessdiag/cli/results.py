"""Where a command's result goes: plot, JSON, terminal; one place for all commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hessdiag.errors import InputError

if TYPE_CHECKING:
    from hessdiag.cli.options import OutputOptions
    from hessdiag.results import Result
    from hessdiag.spectra.spectrum_settings import EstimatorSettings


def check_targets(output: OutputOptions, *texts: str | None) -> None:
    """Refuse output paths early, before any long computation.

    Args:
        output: where the result goes.
        *texts: further files to be written.

    Raises:
        InputError: one cannot be written, or the plot's suffix is unknown.
    """
    from hessdiag import files

    for path in (*texts, None if output.json == "-" else output.json):
        if path is not None:
            files.check_writable(path)
    if output.plot is not None:
        from hessdiag.show.plotting import figure

        figure.check_path(output.plot)
        files.check_writable(output.plot)


def check_densities(output: OutputOptions, settings: EstimatorSettings) -> None:
    """Refuse a plot of densities that are not wanted.

    Raises:
        InputError: so it is.
    """
    if output.plot is not None and not settings.density:
        raise InputError("--plot draws the densities", got="--no-density")


def show(result: Result, output: OutputOptions) -> None:
    """Write the plot and the JSON that are asked for; print the report unless JSON has stdout.

    Of several processes only the first one does.
    """
    from hessdiag import files
    from hessdiag.cli import console
    from hessdiag.linalg import processes
    from hessdiag.show import terminal

    if not processes.is_first():
        return
    if output.plot is not None:
        from hessdiag.show.plotting import figure

        figure.save(result.document(), output.plot)
    if output.json == "-":
        sys.stdout.write(result.to_json().replace("##", "#\\u0023"))  # which CI may obey
        return
    if output.json is not None:
        files.write_text(output.json, result.to_json())
    if not output.quiet:
        console.out().print(terminal.render(result.document()))
