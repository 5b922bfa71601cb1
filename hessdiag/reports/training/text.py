"""The report of a run for the terminal."""

from __future__ import annotations

from rich.text import Text

from hessdiag.errors import printable
from hessdiag.reports.wording import plus_minus, title
from hessdiag.training.history import Epoch, Finished


def train_text(found: Finished) -> Text:
    """Say in a few lines what came of a run."""
    lines = [_headline(found)]
    if found.epochs:
        last = found.epochs[-1]
        lines.append(f"epoch {last.number}: {last.summary()}")
        lines += _best(found.best, last) + _curvature(last)
    if (bound := found.pac_bayes) is not None:
        alpha = plus_minus(bound.alpha.value, bound.alpha.stderr)
        lines.append(
            f"PAC-Bayes, leading terms: about {bound.value:.3g}, at least {bound.at_least:.3g} "
            f"(95 %), no bound: α = {alpha} of the example that looked sharpest, "
            f"r = {bound.radius:.3g}, C = {bound.loss_bound:.3g}, n = {bound.num_train:,}"
        )
    shared = f" in {found.num_processes} processes" if found.num_processes > 1 else ""
    lines.append(
        f"{found.seconds:.1f} s, {found.images_per_second:.0f} images/s, peak memory "
        f"{found.peak_memory_bytes / 2**30:.2f} GiB, {found.config.recipe.precision} on "
        f"{found.device}{shared}"
    )
    return Text(printable("\n".join(lines)))


def _headline(found: Finished) -> str:
    config = found.config
    options = [f"{key} = {value}" for key, value in config.method.values.items()]
    method = ", ".join((config.method.name, *options))
    return f"{title(found.provenance)}, {found.num_parameters:,} parameters, {method}"


def _best(best: Epoch | None, last: Epoch) -> list[str]:
    if best is None or best.score is None or best.number == last.number:
        return []
    return [f"best: {best.score:.2%} in epoch {best.number}"]


def _curvature(last: Epoch) -> list[str]:
    return [
        f"{name}: {plus_minus(reading.value, reading.error or None)}"
        for name, reading in last.curvature.items()
    ]
