"""Formats that are read: a good sample, ways to damage it, and all that reads it."""

import hashlib
import io
import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import torch
from rich.console import Console

from hessdiag import results
from hessdiag.comparisons.compare_run import compare_reports
from hessdiag.data import datasets
from hessdiag.errors import InputError
from hessdiag.gates import gate_run as run
from hessdiag.gates import gate_services as services
from hessdiag.gates import limits
from hessdiag.nets import checkpoints, models
from hessdiag.nets.checkpoints import Choice
from hessdiag.show import terminal
from hessdiag.show.page import page
from hessdiag.spectra.spectrum_result import Report
from hessdiag.subjects import subject
from hessdiag.training import configure, folder, loop, report_source, state
from hessdiag.training import run as training
from hessdiag.training.history import Epoch
from tests.hardening import mutations, samples

Mutate = Callable[[bytes, Random], bytes]
SECONDS = 10.0
"""That reading anything may take."""
METRICS = ("hessian.trace", "gn.lambda_max", "nme_to_gn", "loss", "accuracy", "sparsity.nonzero")


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: of the sample; its suffix may matter.
        read: reads a file as the commands do.
        mutations: ways to damage one.
    """

    name: str
    read: Callable[[Path], object]
    mutations: tuple[Mutate, ...]


def attack(chosen: Format, good: Path, place: Path, count: int, seed: int = 0) -> list[str]:
    """Read ``count`` damaged files; list what ended in neither a result nor an InputError."""
    random, content = Random(f"{chosen.name} {seed}"), (good / chosen.name).read_bytes()
    found: list[str] = []
    target = place / chosen.name
    if target.parent != place:  # a folder that is read as a whole
        top = Path(chosen.name).parts[0]
        shutil.copytree(good / top, place / top)
        shutil.copy(good / "corpus.txt", place)
    with suppress(InputError):
        chosen.read(good / chosen.name)  # so that no import is timed
    for number in range(count):
        mutate = random.choice(chosen.mutations)
        damaged = mutate(content, random)
        if random.random() < 0.1:
            damaged = mutations.of_bytes(damaged, random)
        target.write_bytes(damaged)
        began = process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                chosen.read(target)
        except InputError as refusal:
            str(refusal).encode(errors="surrogatepass")
        except Exception as error:
            found.append(f"{chosen.name} {number}: {type(error).__name__}: {str(error)[:200]}")
            if len(found) < 4:
                (place / f"found-{number}-{target.name}").write_bytes(damaged)
        if (seconds := process_time() - began) > SECONDS:
            found.append(f"{chosen.name} {number}: {seconds:.1f} s")
    return found


def _checkpoint(path: Path) -> None:
    """Read one that says what it is."""
    subject.load(str(path), num_samples=4)


def _weights(path: Path) -> None:
    """Read one that says nothing."""
    told = {"model": "mlp-4", "activation": "gelu", "data": "digits"}
    subject.load(str(path), num_samples=4, **told)


def _recognised(path: Path) -> None:
    subject.load(str(path), num_samples=4, activation="gelu", data="digits")


def _averaged(path: Path) -> None:
    checkpoints.load_into(models.build(samples.SPEC), checkpoints.read(path, Choice(ema=True)))


def _folder(path: Path) -> None:
    """Read a folder of another library, and build its network where it names one."""
    checkpoint = checkpoints.read(path.parent)
    if checkpoint.network is not None:
        checkpoint.network()


def _data(path: Path) -> None:
    datasets.load(str(path), num_samples=2)


def _image(path: Path) -> None:
    datasets.load(f"folder:{path.parents[1]}", num_samples=1)


def _corpus(path: Path) -> None:
    """Read a text, or a tokenizer, by the two together."""
    text = path if path.suffix == ".txt" else path.parents[1] / "corpus.txt"
    subject.load(str(path.parent / "gpt" if path is text else path.parent), data=f"text:{text}")


def _gated(path: Path) -> None:
    """Hold a report against limits, also as a baseline, and write all forms of the verdict."""
    chosen = [limits.Limit("max", name, 1.0) for name in METRICS]
    chosen += [limits.Limit("max-increase", name, 0.1, relative=True) for name in METRICS]
    report = run.review(str(path), chosen, baseline=str(path), confidence=0.9)
    report.on("x.json").to_json()
    _shown(terminal.render(report.on("x.json").document()))
    for form in (services.junit, services.summary, services.gitlab, services.workflow_commands):
        form(report, "x.json")


def _compared(path: Path) -> None:
    """Compare a report with itself."""
    report = results.read(path, Report)
    found = compare_reports(report, report)
    found.to_json()
    _shown(terminal.render(found.document()))


def _paged(path: Path) -> None:
    """Lay a report or a run's folder out as a page."""
    text = page([report_source.read(str(path)).document()])
    assert "<script" not in text
    assert "\x1b" not in text


def _by_all(*readers: Callable[[Path], object]) -> Callable[[Path], object]:
    """Give a file to several readers; the first refusal must not spare the others."""

    def read(path: Path) -> None:
        refusals: list[InputError] = []
        for reader in readers:
            try:
                reader(path)
            except InputError as refusal:
                refusals.append(refusal)
        if refusals:
            raise refusals[0]

    return read


def _recalled(place: Path) -> None:
    """Take the epochs of a finished run, as a sweep does."""
    if folder.is_finished(place, folder.read_config(place)):
        for row in folder.read_metrics(place):
            epoch = Epoch.from_row(row)
            assert epoch.to_row()
            assert epoch.metrics is not None


def _started(place: Path) -> None:
    """Take the first step."""
    config = folder.read_config(place)
    run = training.Run(config, *loop.load_data(config), place, torch.device("cpu"))
    run.advance()


def _resumed(place: Path) -> None:
    """Go on for a step."""
    config = folder.read_config(place)
    payload, _ = state.load(place)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        loop.train(config, *loop.load_data(config), out=place, payload=payload, on_step=stop)


def _recipe(path: Path) -> None:
    configure.configure("digits-wrn10-1", file=str(path), changes={}, strengths={})


def _limits(path: Path) -> None:
    limits.find(str(path))


def _shown(text: Any) -> None:
    """Print as on a terminal, where nothing but text and line breaks may arrive."""
    stream = io.StringIO()
    Console(file=stream, width=120, highlight=False, force_terminal=False).print(text)
    assert stream.getvalue().replace("\n", "").isprintable()


def _json(content: bytes, random: Random) -> bytes:
    return mutations.of_json(json.loads(content), random)


def _header(content: bytes, random: Random) -> bytes:
    """Damage the header of a ``.safetensors`` of others."""
    size = int.from_bytes(content[:8], "little")
    changed = _json(content[8 : 8 + size], random)
    return len(changed).to_bytes(8, "little") + changed + content[8 + size :]


def _lines(content: bytes, random: Random) -> bytes:
    """Damage one line of JSON among several."""
    lines = content.splitlines()
    at = random.randrange(len(lines))
    lines[at] = mutations.of_json(json.loads(lines[at]), random)
    return b"\n".join(lines)


def _toml(content: bytes, random: Random) -> bytes:
    return mutations.of_toml(content.decode(), random)


def _sealed(content: bytes, random: Random) -> bytes:
    """Damage a state behind its checksum, and set that right."""
    rest = mutations.of_archive(content[64:], random)
    return hashlib.sha256(rest).hexdigest().encode() + rest


_BYTES = (mutations.of_bytes,)
_ARCHIVE = (mutations.of_bytes, mutations.of_archive, mutations.of_archive)
_CONFIG = (mutations.of_bytes, _json, _json)
_REPORT = (mutations.of_bytes, *(_json,) * 5)
_REPORTS = {
    "spectrum": _by_all(_gated, _compared, _paged),
    **dict.fromkeys(("sparsity", "train", "gate"), _by_all(_gated, _paged)),
    **dict.fromkeys(("compare", "landscape", "blocks", "sweep", "sensing"), _paged),
}
_run = _by_all(
    lambda path: _paged(path.parent),
    lambda path: _recalled(path.parent),
    lambda path: _started(path.parent),
    lambda path: _resumed(path.parent),
)
FORMATS = (
    Format("model.safetensors", _checkpoint, (mutations.of_bytes, mutations.of_safetensors)),
    Format("weights.safetensors", _recognised, (mutations.of_bytes, mutations.of_safetensors)),
    Format("model.pt", _weights, _ARCHIVE),
    Format("legacy.pt", _weights, _BYTES),
    Format("data.npz", _data, _ARCHIVE),
    Format("data.safetensors", _data, (mutations.of_bytes, mutations.of_safetensors)),
    *(Format(f"{kind}.json", read, _REPORT) for kind, read in _REPORTS.items()),
    Format("run/config.toml", _run, (mutations.of_bytes, _toml, _toml)),
    Format("run/metrics.jsonl", _run, (mutations.of_bytes, _lines, _lines)),
    Format("run/state.pt", _run, (mutations.of_bytes, _sealed, _sealed)),
    *(
        Format(f"images-{kind}/cat/0.{kind}", _image, _BYTES * 3 + (mutations.of_chunks,))
        for kind in samples.IMAGES
    ),
    Format("corpus.txt", _corpus, _BYTES),
    Format("gpt/tokenizer.json", _corpus, _CONFIG),
    Format("gpt/tokenizer_config.json", _corpus, _CONFIG),
    Format("recipe.toml", _recipe, (mutations.of_bytes, _toml, _toml)),
    Format("hessdiag.toml", _limits, (mutations.of_bytes, _toml, _toml)),
    Format("lightning.ckpt", _weights, _ARCHIVE),
    Format("timm/last.pth.tar", _averaged, _ARCHIVE),
    Format("plain/pytorch_model.bin", _folder, _ARCHIVE),
    Format("gpt/config.json", _folder, _CONFIG),
    Format("gpt/model.safetensors.index.json", _folder, _CONFIG),
    Format("gpt/model-00001-of-00006.safetensors", _folder, (mutations.of_bytes, _header)),
    Format("adapter/adapter_config.json", _folder, _CONFIG),
    Format("adapter/adapter_model.safetensors", _folder, (mutations.of_bytes, _header)),
)
