"""``hessdiag spectrum`` of many checkpoints: a report each, one table."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hessdiag.cli import options, results
from hessdiag.cli.spectrum import measured
from hessdiag.errors import InputError
from hessdiag.progress import Progress
from hessdiag.spectra.spectrum_settings import Settings
from hessdiag.subject_options import SubjectOptions

if TYPE_CHECKING:
    from hessdiag.jobs.task import Task


def measure(
    checkpoints: Sequence[str],
    settings: Settings,
    which: options.ParameterOptions,
    sharing: options.ShardOptions,
    subject: SubjectOptions,
    many: options.JobOptions,
    output: options.OutputOptions,
    *,
    force: bool = False,
) -> None:
    """Measure each checkpoint; one that fails is told in the table, and the others follow.

    One whose report is there is left, unless ``force`` is given.

    Raises:
        InputError: outputs that are none of many checkpoints; none could be measured.
    """
    many.prepare("hessdiag.spectra.spectrum_run", "hessdiag.subjects.subject")
    from hessdiag import files
    from hessdiag import results as stored
    from hessdiag.cli import console
    from hessdiag.linalg import processes
    from hessdiag.show import terminal
    from hessdiag.spectra import spectra_document
    from hessdiag.spectra.spectrum_result import Report

    _check(many, output, num_processes=processes.count())
    names = dict(zip(checkpoints, names_of(checkpoints), strict=True))
    with TemporaryDirectory(prefix="hessdiag-") as temporary:
        place = Path(output.json or temporary)
        engine = many.engine(place / "jobs", subject.device) or _one_by_one
        place.mkdir(parents=True, exist_ok=True)
        targets = {name: place / f"{name}.json" for name in names.values()}
        for target in targets.values():
            files.check_writable(target)
        tasks: dict[str, Task] = {
            name: partial(_write, targets[name], force, path, settings, which, sharing, subject)
            for path, name in names.items()
        }
        failures: dict[str, str | None] = {}
        with console.progress("spectra", quiet=output.quiet) as bar:

            def show() -> None:
                bar.show(Progress(len(failures), len(tasks)))

            with closing(engine(tasks, show)) as ends:
                for name, failure in ends:
                    failures[name] = failure
                    bar.milestone(f"{name}: {failure or 'measured'}")
        if not processes.is_first():
            return
        reports = {
            name: failures[name] or stored.read(target, Report) for name, target in targets.items()
        }
    if not output.quiet:
        console.out().print(terminal.render(spectra_document.document(reports)))
    if all(failures.values()):
        raise InputError("no checkpoint could be measured", got=next(iter(failures.values())))


def names_of(checkpoints: Sequence[str]) -> list[str]:
    """Name each by what tells it from the others: ``runs/a/model.pt`` is ``a`` beside ``b``'s."""
    parts = [[*Path(path).parent.parts, Path(path).name] for path in checkpoints]
    for own in parts:
        stem, suffix = os.path.splitext(own[-1])
        own[-1] = stem if suffix in _SUFFIXES else own[-1]
    if len(parts) > 1:
        first = _shared(parts)
        last = _shared([own[:first:-1] for own in parts])
        parts = [own[first : len(own) - last] or own[-1:] for own in parts]
    else:
        parts = [own[-1:] for own in parts]
    found: list[str] = []
    for own in parts:
        name = plain = "-".join(part.strip(os.sep) for part in own)
        while name in found:
            name = f"{plain}-{len(found)}"
        found.append(name)
    return found


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """Count the items that all begin with."""
    columns = zip(*parts, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def _check(many: options.JobOptions, output: options.OutputOptions, *, num_processes: int) -> None:
    wanted = got = None
    if output.json == "-" or (output.json and Path(output.json).is_file()):
        got, wanted = f"--json {output.json}", "--json DIR/, for a report each"
    elif output.plot is not None:
        got, wanted = "--plot", "--json DIR/, and hessdiag report of what is in it"
    elif many.slurm is not None and output.json is None:
        got, wanted = "--slurm", "--json DIR/ beside it, which all nodes see"
    elif num_processes > 1 and (many.jobs or many.slurm):
        got, wanted = "--jobs under torchrun", "one of them"
    if wanted is not None:
        raise InputError("this is not for several checkpoints", got=got, wanted=wanted)
    results.check_targets(options.OutputOptions())


def _one_by_one(
    tasks: Mapping[str, Task], on_wait: Callable[[], None]
) -> Generator[tuple[str, str | None]]:
    for checkpoint, task in tasks.items():
        on_wait()
        yield checkpoint, task()


def _write(target: Path, force: bool, checkpoint: str, *given: Any) -> str | None:
    from hessdiag import files
    from hessdiag import results as stored
    from hessdiag.linalg import processes
    from hessdiag.spectra.spectrum_result import Report

    known = None
    with suppress(InputError):
        known = None if force or not target.exists() else stored.read(target, Report)
    try:
        report = measured(checkpoint, *given, known=known)
    except InputError as error:
        if processes.count() > 1:  # the others would wait for this one
            raise
        reason = error.what if error.got is None else f"{error.what}: {error.got}"
        return " ".join(reason.split())
    if processes.is_first() and report is not known:
        files.write_text(target, report.to_json())
    return None
