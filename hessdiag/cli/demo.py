"""``hessdiag demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options


def demo(
    out: Annotated[str, typer.Option(help="Folder for what the demo writes.")] = "runs/demo",
    quiet: options.Quiet = False,
) -> None:
    """Run the tool in a minute, offline: train a small network, take its spectrum."""
    import shlex
    from pathlib import Path

    from hessdiag.cli import console
    from hessdiag.cli.spectrum import spectrum
    from hessdiag.cli.train import train

    folder = Path(out)
    screen = console.out()
    checkpoint = folder / "model.safetensors"
    name, plot, json = (shlex.quote(str(folder / file)) for file in _FILES)
    steps = (
        f"hessdiag train --recipe digits-wrn10-1 --out {shlex.quote(out)} --force",
        f"hessdiag spectrum {name} --num-samples 256 --top-k 3 --plot {plot} --json {json}",
    )
    screen.print(f"[bold]$ {steps[0]}[/bold]")
    train(recipe="digits-wrn10-1", out=out, force=True, quiet=quiet)
    screen.print(f"\n[bold]$ {steps[1]}[/bold]")
    spectrum(
        str(checkpoint),
        num_samples=256,
        top_k=3,
        plot=str(folder / _FILES[1]),
        json=str(folder / _FILES[2]),
        quiet=quiet,
    )
    screen.print(
        "\nThe Nonlinear Modeling Error N is what the Gauss-Newton approximation leaves out: it "
        "holds the negative\ncurvature of H, and its Frobenius norm beside G's says how much is "
        f"left out.\n\nThe plot is {plot}. Next, try:\n  hessdiag spectrum {name} --part nme --per-layer"
    )


_FILES = ("model.safetensors", "spectrum.png", "spectrum.json")
