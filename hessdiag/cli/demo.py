"""``hessdiag demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options


def demo(
    out: Annotated[str, typer.Option(help="Folder for what the demo writes.")] = "runs/demo",
    quiet: options.Quiet = False,
) -> None:
    """Run the tool in a minute, offline: train a small network, look at its curvature."""
    import shlex
    from pathlib import Path

    from rich.text import Text

    from hessdiag.cli import console
    from hessdiag.cli.sparsity import sparsity
    from hessdiag.cli.spectrum import spectrum
    from hessdiag.cli.train import train
    from hessdiag.errors import printable

    folder = Path(out)
    checkpoint, plot, json = (str(folder / name) for name in _FILES)

    def say(text: str, style: str | None = None) -> None:
        if not quiet:
            console.out().print(Text(printable(text), style=style or ""))

    say(f"$ hessdiag train --recipe digits-wrn10-1 --out {shlex.quote(out)} --force", "bold")
    train(recipe="digits-wrn10-1", out=out, force=True, quiet=quiet)
    name = shlex.quote(checkpoint)
    outputs = f"--plot {shlex.quote(plot)} --json {shlex.quote(json)}"
    say(f"\n$ hessdiag spectrum {name} --num-samples 256 --top-k 3 {outputs}", "bold")
    spectrum(checkpoint, num_samples=256, top_k=3, plot=plot, json=json, quiet=quiet)
    say(
        "\nThe Nonlinear Modeling Error N is what the Gauss-Newton approximation leaves out: it "
        "holds all negative\ncurvature of H, and its Frobenius norm beside G's says how much is "
        f"left out. The densities are drawn in\n{plot}. N reaches the weights through φ'':"
    )
    say(f"\n$ hessdiag sparsity {name} --num-samples 256", "bold")
    sparsity(checkpoint, num_samples=256, quiet=quiet)
    say(
        "\nGELU's φ'' is there at every pre-activation; that of ReLU, or of β-GELU with a large β, "
        "is not. Next, try:\n\n"
        f"  hessdiag sparsity {name} --activation beta_gelu --beta 1,10,100\n"
        f"  hessdiag spectrum {name} --part nme --per-layer\n"
        "  hessdiag landscape"
    )


_FILES = ("model.safetensors", "spectrum.png", "spectrum.json")
