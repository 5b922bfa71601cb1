"""The progress of a spectrum's passes over the data."""

from __future__ import annotations

from hessdiag.progress import Progress, Watch
from hessdiag.spectra.spectrum_plan import Plan


class Ticker:
    """Turns microbatches and passes into Progress, guessing the passes still to come.

    Args:
        callback: told after each microbatch; None for nobody.
    """

    def __init__(self, callback: Watch | None) -> None:
        self.callback = callback
        self.passes = 0
        self.microbatches = 0  # of the pass under way
        self.per_pass = 0
        self.at_least = 2.0

    def expect(self, plan: Plan) -> None:
        """Set the guess: the quadrature's steps, or what eigenvalues commonly take."""
        settings = plan.settings
        sampling = settings.num_probes / plan.chunk
        steps = max(settings.depth if settings.density else 0, 15 if settings.top_k else 0)
        secants = 2 * settings.num_probes if settings.finite_radius is not None else 0
        waves = [max(steps, sampling, 2) if wave else 1 for wave in plan.waves]
        self.at_least = sum(waves) + secants

    def microbatch(self) -> None:
        """Count one."""
        self.microbatches += 1
        self._report()

    def completed(self, _: int = 0) -> None:
        """Count a pass."""
        self.per_pass, self.microbatches = self.microbatches, 0
        self.passes += 1
        self._report()

    def _report(self) -> None:
        if self.callback is not None:
            fraction = self.microbatches / self.per_pass if self.per_pass else 0.0
            done = self.passes + min(fraction, 1.0)
            self.callback(Progress(done, max(self.at_least, 1.15 * done), f"pass {int(done) + 1}"))
