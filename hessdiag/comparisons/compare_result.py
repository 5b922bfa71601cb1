"""What a comparison reports; the fields are those of its JSON, ``hessdiag.compare/1``."""

from __future__ import annotations

import dataclasses
from typing import Generic, Self, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr, replace

from hessdiag.errors import InputError
from hessdiag.linalg.density import Density
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import Provenance
from hessdiag.metrics.metric_reading import Reading
from hessdiag.parts import check_part
from hessdiag.results import CheckpointOrigin, DataOrigin, ModelOrigin, Result, located
from hessdiag.spectra.spectrum_result import Cost, Report
from hessdiag.spectra.spectrum_settings import Chosen

Q = TypeVar("Q", Estimate, RitzValue, Reading)
Provenances = tuple[Provenance | None, Provenance | None]
"""Of A and of B."""


class Difference(Struct, frozen=True):
    """B − A.

    Attributes:
        value: of the difference.
        error: its standard error, or for eigenvalues the sum of both bounds; None from one probe.
        interval: its 95 % interval, or for eigenvalues ``value ± error``; None from one probe and
            for eigenvalues that have not converged.
    """

    value: float
    error: float | None
    interval: tuple[float, float] | None


class Change(Struct, Generic[Q], frozen=True):
    """How a quantity differs from A to B.

    Attributes:
        a: the quantity of A.
        b: the quantity of B.
        difference: B − A.
        relative_change: the change over |A|; None where A is zero.
        significant: whether the interval excludes zero; None where there is none.
    """

    a: Q
    b: Q
    difference: Difference
    relative_change: float | None
    significant: bool | None

    @classmethod
    def of(cls, a: Q, b: Q, difference: Difference) -> Self:
        """Complete a change by what follows from it."""
        interval = difference.interval
        relative = difference.value / abs(a.value) if a.value else None
        significant = None if interval is None else not interval[0] <= 0 <= interval[1]
        return cls(a, b, difference, relative, significant)

    @property
    def value(self) -> float:
        """B − A."""
        return self.difference.value

    @property
    def error(self) -> float | None:
        """Error of that; see :class:`Difference`."""
        return self.difference.error

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of that; see :class:`Difference`."""
        return self.difference.interval

    @property
    def relative(self) -> float | None:
        """The change over |A|; None where A is zero."""
        return self.relative_change


class Overlap(Struct, frozen=True):
    """How far the eigenspaces of the k largest eigenvalues agree.

    Attributes:
        value: ``‖U_A U_Bᵀ‖²_F / k``: 1 for equal spaces, k/n on average for random ones.
        cosines: of the k principal angles, the largest first.
        converged: whether all of the eigenvalues have.
    """

    value: float
    cosines: tuple[float, ...]
    converged: bool


class Densities(Struct, frozen=True):
    """Spectral densities of A and of B."""

    a: Density
    b: Density


class PartChange(Struct, frozen=True):
    """How one part of the decomposition differs from A to B.

    Attributes:
        trace: change of the trace.
        frobenius_norm: change of ‖·‖_F.
        top: changes of the largest eigenvalues, the largest first.
        bottom: changes of the smallest, the most negative first.
        overlap: of the eigenspaces of ``top``; None where unknown.
        density: of both; None unless both have one.
    """

    trace: Change[Estimate]
    frobenius_norm: Change[Estimate]
    top: tuple[Change[RitzValue], ...]
    bottom: tuple[Change[RitzValue], ...]
    overlap: Overlap | None = None
    density: Densities | None = None


class Exact(Struct, frozen=True):
    """A number that is exact on the data, of both; None where it is not known."""

    a: float | None
    b: float | None
    difference: float | None

    @classmethod
    def of(cls, a: float | None, b: float | None) -> Exact:
        """Take the difference."""
        return cls(a, b, None if a is None or b is None else b - a)


class LossChange(Struct, frozen=True):
    """The loss of both."""

    name: str
    a: float
    b: float
    difference: float


class Side(Struct, frozen=True, kw_only=True):
    """What A or B is, and how it was looked at."""

    checkpoint: CheckpointOrigin = CheckpointOrigin()
    model: ModelOrigin = ModelOrigin()
    data: DataOrigin = DataOrigin()
    settings: Chosen
    cost: Cost

    @classmethod
    def of(cls, report: Report) -> Side:
        """Take over what a spectrum tells of itself."""
        names = (field.name for field in msgspec.structs.fields(cls))
        return cls(**{name: getattr(report, name) for name in names})

    def located(self, provenance: Provenance | None) -> Side:
        """Name the checkpoint, the network and the data, where they are known."""
        if provenance is None:
            return self
        settings = dataclasses.replace(self.settings, batch_size=provenance.batch_size)
        return replace(located(self, provenance), settings=settings)


class Comparison(Result, frozen=True, kw_only=True, dict=True, tag="hessdiag.compare/1"):
    """Two networks side by side.

    Attributes:
        first: what A is; ``a`` in JSON.
        second: what B is; ``b`` in JSON.
        paired: whether both saw the same probes, one by one.
        loss: of both.
        accuracy: of both.
        parts: changes by part.
        metrics: changes of what else both spectra tell, by name.
        notes: what qualifies the intervals, and the reason for every None.
    """

    first: Side = msgspec.field(name="a")
    second: Side = msgspec.field(name="b")
    paired: bool
    loss: LossChange
    accuracy: Exact
    parts: dict[str, PartChange]
    metrics: dict[str, Change[Reading]] = msgspec.field(default_factory=dict[str, Change[Reading]])
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.parts:
            check_part(name)

    @classmethod
    def of(
        cls,
        a: Report,
        b: Report,
        parts: dict[str, PartChange],
        metrics: dict[str, Change[Reading]],
        *notes: str,
        paired: bool,
    ) -> Comparison:
        """Make it of two spectra, which are kept in memory, and of what changed."""
        found = cls(
            first=Side.of(a),
            second=Side.of(b),
            paired=paired,
            loss=LossChange(a.loss_name, a.loss, b.loss, b.loss - a.loss),
            accuracy=Exact.of(a.accuracy, b.accuracy),
            parts=parts,
            metrics=metrics,
            notes=notes,
        )
        found = replace(found, notes=(*notes, *_notes(found)))
        return found._keeping(a, b)

    def located(self, a: Provenance | None, b: Provenance | None) -> Comparison:
        """Name the checkpoints, the networks and the data."""
        found = replace(self, first=self.first.located(a), second=self.second.located(b))
        return found._keeping(self.a, self.b)

    @property
    def a(self) -> Report:
        """The spectrum of A."""
        return self._reports[0]

    @property
    def b(self) -> Report:
        """The spectrum of B."""
        return self._reports[1]

    @property
    def _reports(self) -> tuple[Report, Report]:
        if "_kept" not in self.__dict__:
            raise InputError("a comparison read from a file does not hold both spectra")
        return self.__dict__["_kept"]

    def _keeping(self, a: Report, b: Report) -> Comparison:
        force_setattr(self, "_kept", (a, b))
        return self


def _notes(found: Comparison) -> list[str]:
    """List what qualifies the numbers of a comparison."""
    listed: list[str] = []
    for name, part in found.parts.items():
        for end, changes in (("top", part.top), ("bottom", part.bottom)):
            if unknown := sum(change.interval is None for change in changes):
                listed.append(
                    f"{name}: {unknown} of {len(changes)} {end} eigenvalues not converged in A or "
                    "in B: no interval, null"
                )
    if 1 in (side.settings.num_probes for side in (found.first, found.second)):
        listed.append("one probe gives no standard error and no interval: null")
    if found.accuracy.difference is None:
        listed.append("the targets are not classes, so there is no accuracy: null")
    return listed
