"""What all results have in common: their schema, what they speak of, and how they are found again.

A result is a frozen value whose JSON is its fields; see :mod:`hessdiag.codec`. Its schema is the
tag of its type.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from hessdiag import __version__, codec
from hessdiag.codec import Count
from hessdiag.errors import InputError, unknown
from hessdiag.metadata import Provenance
from hessdiag.show.document import Document, drawing

R = TypeVar("R", bound="Result")
S = TypeVar("S", bound=Struct)

_FILES = Path(__file__).parent.glob("*/*_result.py")
KINDS = {
    f"hessdiag.{kind}/1": f"hessdiag.{path.parent.name}.{kind}"
    for path in sorted(_FILES)
    if (kind := path.stem.removesuffix("_result"))
}
"""By schema: where ``<kind>_result`` and ``<kind>_document`` lie, whatever the room.

A kind of report is added by these two files; everything that reads or shows reports follows.
"""


class CheckpointOrigin(Struct, frozen=True):
    """Which file a network came from, and how large it is."""

    path: str | None = None
    sha256: str | None = None
    num_parameters: Count | None = None


class TrainedWith(Struct, frozen=True):
    """The activation of the network that was trained, where it was another."""

    activation: str | None = None
    beta: float | None = None


class ModelOrigin(Struct, frozen=True):
    """How a network was built; all None for one in memory, of which the library knows no more."""

    name: str | None = None
    activation: str | None = None
    beta: float | None = None
    trained_with: TrainedWith | None = None


class DataOrigin(Struct, frozen=True):
    """Which samples were used."""

    spec: str | None = None
    split: str | None = None
    num_samples: Count | None = None
    sha256: str | None = None


class LossName(Struct, frozen=True):
    """The loss, where only its name matters."""

    name: str


class Seconds(Struct, frozen=True):
    """What it took: wall-clock time."""

    seconds: float


def located(fields: S, provenance: Provenance) -> S:
    """Name checkpoint, network and data in what has these fields, and add notes on the first."""
    before: Any = fields
    if provenance.notes and hasattr(before, "notes"):
        told = tuple(f"checkpoint: {note}" for note in provenance.notes)
        before = fields = replace(before, notes=before.notes + told)
    model, trained = provenance.model, provenance.trained_with
    return replace(
        fields,
        checkpoint=replace(
            before.checkpoint, path=provenance.checkpoint, sha256=provenance.checkpoint_sha256
        ),
        model=ModelOrigin(
            name=model.name,
            activation=model.activation,
            beta=model.beta,
            trained_with=trained and TrainedWith(trained.activation, trained.beta),
        ),
        data=replace(
            before.data,
            spec=provenance.data,
            split=provenance.split,
            sha256=provenance.data_sha256,
        ),
    )


class Result(Struct, frozen=True, kw_only=True, tag_field="schema"):
    """What a command finds out.

    Attributes:
        version: of hessdiag that wrote it.
    """

    version: str = __version__

    @property
    def schema(self) -> str:
        """Name of the kind and number of its form, such as ``hessdiag.spectrum/1``."""
        return str(self.__struct_config__.tag)

    def document(self) -> Document:
        """Lay it out for people; see :mod:`hessdiag.show`."""
        with drawing("the report"):
            return importlib.import_module(f"{KINDS[self.schema]}_document").document(self)

    def to_json(self) -> str:
        """Write it as JSON of its schema."""
        return codec.encode(self)


class Measured(Result, frozen=True, kw_only=True):
    """A result on a network and its data.

    Attributes:
        checkpoint: the file of the network.
        model: how it was built.
        data: the samples.
    """

    checkpoint: CheckpointOrigin = CheckpointOrigin()
    model: ModelOrigin = ModelOrigin()
    data: DataOrigin = DataOrigin()

    def of(self, provenance: Provenance) -> Self:
        """Name the checkpoint, the network and the data."""
        return located(self, provenance)

    @property
    def num_parameters(self) -> int | None:
        """Dimension n."""
        return self.checkpoint.num_parameters

    @property
    def num_samples(self) -> int | None:
        """Examples in the data."""
        return self.data.num_samples


def subject(result: Measured | Any) -> str:
    """Name the network, its activation and its data in one line.

    Args:
        result: anything with a ``model``, a ``checkpoint`` and ``data``.
    """
    from hessdiag.nets.activations import label

    model, data, before = result.model, result.data, result.model.trained_with
    if model.name is None:  # from the library, of a network of the user's
        count = result.checkpoint.num_parameters
        return "a network" + ("" if count is None else f" of {count:,} parameters")
    activation = f" {label(model.activation, model.beta)}" if model.activation else ""
    text = f"{model.name}{activation} on {data.spec} ({data.split})"
    if before is not None and before.activation is not None:
        text += f", what if: trained with {label(before.activation, before.beta)}"
    return text


class _Head(Struct):
    """The beginning of every report."""

    schema: str | None = None


def read(path: str | os.PathLike[str], *kinds: type[R], what: str = "the report") -> R | Any:
    """Read a report of one of these kinds; of any for none.

    Raises:
        InputError: it cannot be read, is of another kind, or is not as its schema says.
    """
    return _decode(codec.read_bytes(path, what=what), f"{what} {path}", kinds)


def taken(
    report: Result | Mapping[str, Any] | str,
    *kinds: type[R],
    what: str = "the report",
    partial: bool = False,
) -> R | Any:
    """Take a report as such, as the mapping that its JSON is, or by its path.

    Args:
        report: of any origin.
        kinds: that it may be of; any for none.
        what: is read, for the message.
        partial: whether it may lack fields; see :func:`hessdiag.codec.decode`.

    Raises:
        InputError: as ``read``.
    """
    if isinstance(report, str):
        return _decode(codec.read_bytes(report, what=what), f"{what} {report}", kinds, partial)
    if isinstance(report, kinds or Result):
        return report
    text = report.to_json() if isinstance(report, Result) else codec.encode(report)
    return _decode(text, what, kinds, partial)


def _decode(
    text: str | bytes, name: str, kinds: Sequence[type[R]], partial: bool = False
) -> R | Any:
    wanted = [str(kind.__struct_config__.tag) for kind in kinds] or list(KINDS)
    schema = codec.decode(_Head, text, what=name).schema
    if schema is None:
        raise InputError(f"{name} is no report of hessdiag", got="no schema", wanted=wanted[0])
    if schema not in wanted:
        raise unknown(f"schema of {name}", schema[:80], wanted)
    return codec.decode(kind_of(schema), text, what=name, partial=partial)


def kind_of(schema: str) -> type[Any]:
    """Find the type of a schema."""
    known: Iterable[Any] = vars(importlib.import_module(f"{KINDS[schema]}_result")).values()
    return next(
        kind
        for kind in known
        if isinstance(kind, type)
        and issubclass(kind, Result)
        and kind.__struct_config__.tag == schema
    )
