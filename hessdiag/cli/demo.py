"""``hessdiag demo``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from hessdiag.cli import options


def demo(
    talk: options.QuietOption,
    out: Annotated[
        str | None,
        typer.Option(help="Folder for what the demo writes. Default: runs/demo, or a new one."),
    ] = None,
) -> None:
    """Run the tool in a minute, offline: train a small network, look at its curvature."""
    import shlex

    from rich.text import Text

    from hessdiag.cli import console
    from hessdiag.cli.gate import gate
    from hessdiag.cli.method_options import StrengthOptions
    from hessdiag.cli.report import report
    from hessdiag.cli.sparsity import sparsity
    from hessdiag.cli.spectrum import spectrum
    from hessdiag.cli.train import RecipeOptions, RunningOptions, train
    from hessdiag.errors import Verdict, printable
    from hessdiag.spectra.spectrum_settings import Settings
    from hessdiag.subject_options import ModelOptions, SeedOption, SubjectOptions

    place = _place(out)

    def path(name: str) -> str:
        return str(place / name)

    def output(name: str, plot: str | None = None) -> options.OutputOptions:
        return options.OutputOptions(quiet=talk.quiet, json=path(name), plot=plot)

    def quoted(*names: str) -> str:
        return " ".join(shlex.quote(path(name)) for name in names)

    def say(text: str, style: str | None = None) -> None:
        if not talk.quiet:
            console.out().print(Text(printable(text), style=style or ""))

    def show(command: str) -> None:
        say(f"\n$ hessdiag {command}", "bold")

    checkpoint, name = path("model.safetensors"), quoted("model.safetensors")
    show(f"train --recipe digits-wrn10-1 --out {shlex.quote(str(place))}")
    train(
        StrengthOptions(),
        RecipeOptions(recipe="digits-wrn10-1"),
        ModelOptions(),
        SeedOption(),
        RunningOptions(quiet=talk.quiet),
        out=str(place),
    )
    outputs = f"--plot {quoted('spectrum.png')} --json {quoted('spectrum.json')}"
    show(f"spectrum {name} --num-samples 256 --top-k 3 {outputs}")
    sample = SubjectOptions(num_samples=256)
    spectrum(
        Settings(top_k=3),
        options.ParameterOptions(),
        options.ShardOptions(),
        sample,
        options.JobOptions(),
        output("spectrum.json", plot=path("spectrum.png")),
        [checkpoint],
    )
    say(
        "\nThe Nonlinear Modeling Error N is what the Gauss-Newton approximation leaves out: it "
        "holds all negative\ncurvature of H, and its Frobenius norm beside G's says how much is "
        f"left out. The densities are drawn in\n{path('spectrum.png')}. N reaches the weights "
        "through φ'':"
    )
    show(f"sparsity {name} --num-samples 256 --json {quoted('sparsity.json')}")
    sparsity(sample, output("sparsity.json"), checkpoint)
    say(
        "\nGELU's φ'' is there at every pre-activation; that of ReLU, or of β-GELU with a large β, "
        "is not. Is it\nsharper than it may be? In CI, the exit code tells:"
    )
    limits = f"--max hessian.trace={_LIMIT}"
    show(f"gate {quoted('spectrum.json')} {limits} --json {quoted('gate.json')}")
    with suppress(Verdict):  # a verdict is no end
        gate(
            path("spectrum.json"),
            options.ParameterOptions(),
            options.ShardOptions(),
            SubjectOptions(),
            output("gate.json"),
            max_=[f"hessian.trace={_LIMIT}"],
        )
    sources = ("", "spectrum.json", "sparsity.json", "gate.json")
    show(f"report {quoted(*sources)} -o {quoted('report.html')}")
    report([path(source) for source in sources], talk, output=path("report.html"))
    say(
        "\nThat page shows all of it in a browser. Next, try:\n\n"
        f"  hessdiag sparsity {name} --activation beta_gelu --beta 1,10,100\n"
        f"  hessdiag spectrum {name} --part nme --per-layer\n"
        "  hessdiag landscape"
    )


def _place(out: str | None) -> Path:
    """Choose the folder: nothing that is there is replaced.

    Raises:
        InputError: something is there.
    """
    from hessdiag.errors import InputError
    from hessdiag.files import is_there
    from hessdiag.training import folder

    if out is None:
        place = Path("runs/demo")
        try:
            place.mkdir(parents=True)
        except OSError:  # most likely it is there
            return folder.unused(str(place))
        return place
    names = (*folder.FILES, *_OUTPUTS)
    if present := [name for name in names if is_there(Path(out) / name)]:
        raise InputError(
            "the demo's folder holds such files already",
            got=f"{', '.join(present)} in {out}",
            hint="choose another --out",
        )
    return Path(out)


_OUTPUTS = ("spectrum.png", "spectrum.json", "sparsity.json", "gate.json", "report.html")
_LIMIT = 10
