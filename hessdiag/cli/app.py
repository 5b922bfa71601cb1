"""The command line's table of commands. Nothing here or in a command's signature imports torch."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag import __version__
from hessdiag.cli import demo, doctor, spectrum, train

app = typer.Typer(
    name="hessdiag",
    help="Hessian-decomposition diagnostics of neural networks: the Hessian H = G + N of a loss, "
    "its Gauss-Newton part G and its Nonlinear Modeling Error N, with error bars.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes around the help would double the time it takes to appear
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
app.command("demo")(demo.demo)
app.command("spectrum")(spectrum.spectrum)
app.command("train")(train.train)
app.command("doctor")(doctor.doctor)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"hessdiag {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the table of commands' own options."""
