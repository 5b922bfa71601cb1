"""What is known of the second derivatives of activations, ``hessdiag.sparsity/1``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from hessdiag.codec import Count, Whole
from hessdiag.errors import InputError
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import Provenance
from hessdiag.nets import activations
from hessdiag.nets.profiles import Profile
from hessdiag.results import LossName, Measured, Seconds


class Histogram(Struct, frozen=True):
    """Counts of pre-activations.

    Attributes:
        edges: ``(b + 1,)`` ascending.
        counts: ``(b,)``.
        below: how many lie below the first edge.
        above: how many lie above the last.
    """

    edges: tuple[float, ...]
    counts: tuple[Count, ...]
    below: Count
    above: Count

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise InputError("a histogram has not one edge more than it has counts")


class Shares(Struct, frozen=True):
    """What part of a set of pre-activations has a second derivative.

    Attributes:
        num_preactivations: how many there are.
        nonzero: share with φ'' ≠ 0, exactly, in the dtype.
        above: share with |φ''| > τ · max |φ''|.
        mean_abs: mean |φ''|; None where it is not finite.
    """

    num_preactivations: Count
    nonzero: float
    above: float
    mean_abs: float | None

    @property
    def shares(self) -> Shares:
        """The shares alone."""
        return Shares(self.num_preactivations, self.nonzero, self.above, self.mean_abs)


class CallSparsity(Shares, frozen=True, kw_only=True):
    """One activation call of the network.

    Attributes:
        name: module path and, from the second call on, number.
        function: what is called, with its β.
        closed_form: whether φ'' is a closed form; else it is differentiated numerically in float64.
        mean: of the pre-activations.
        std: their standard deviation.
        peak: max |φ''|: over the real line for a closed form, else over the pre-activations.
        histogram: of the pre-activations.
        curve: φ'' at the middle of each bin; None where φ'' is numerical.
        layers: parameters first used since the activation call before this one.
    """

    name: str
    function: str
    closed_form: bool
    mean: float
    std: float
    peak: float
    histogram: Histogram
    curve: tuple[float | None, ...] | None
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.curve is not None and len(self.curve) != len(self.histogram.counts):
            raise InputError("an activation's curve has not a value for each bin", got=self.name)


class Network(Struct, frozen=True):
    """The activation calls of a network on its data.

    Attributes:
        total: shares over all pre-activations of the network.
        calls: in the order they run.
        block_norms: ‖N_ll‖_F of each parameter's block of N, or None where not asked for.
    """

    total: Shares
    calls: tuple[CallSparsity, ...]
    block_norms: dict[str, Estimate] | None = None

    @property
    def norm_of_blocks(self) -> Estimate | None:
        """Norm of all blocks together, the root of the sum of their squares."""
        norms = list((self.block_norms or {}).values())
        value = math.hypot(*(norm.value for norm in norms))
        if not norms:
            return None
        known = all(norm.stderr is not None for norm in norms)
        errors = (norm.value * (norm.stderr or 0.0) for norm in norms)
        stderr = math.hypot(*errors) / value if known and value else None
        return Estimate(value, stderr, None, min(norm.num_probes for norm in norms))


class Study(Struct, frozen=True):
    """One activation and the networks with it.

    Attributes:
        activation: name; None where the network's factory chooses.
        beta: β, or None.
        profile: its second derivative; None where it has no name.
        initial: the network before training, or None where not asked for.
        trained: the network with the weights that were given; None without a checkpoint.
    """

    activation: str | None = None
    beta: float | None = None
    profile: Profile | None = None
    initial: Network | None = None
    trained: Network | None = None

    @property
    def title(self) -> str:
        """Name and β."""
        return activations.label(self.activation or "activations", self.beta)

    @property
    def networks(self) -> dict[str, Network]:
        """Those looked at, "initial" before "trained"."""
        both = {"initial": self.initial, "trained": self.trained}
        return {kind: network for kind, network in both.items() if network is not None}


class SparsitySettings(Struct, frozen=True):
    """How it was looked at.

    Attributes:
        threshold: τ.
        seed: of the probes.
        dtype: floating type computed in.
        device: where.
        bn: BatchNorm mode.
        batch_size: examples in a microbatch; None where the caller made the batches.
        num_probes: for each block of N.
    """

    threshold: float
    seed: Whole
    dtype: str
    device: str
    bn: str
    batch_size: Count | None
    num_probes: Count


class Sparsity(Measured, frozen=True, kw_only=True, tag="hessdiag.sparsity/1"):
    """Activations and the networks with them: one, or one for each β.

    Attributes:
        loss: behind the blocks of N.
        settings: how it was looked at.
        activations: the studies.
        cost: time.
        notes: what the numbers do not see, and the reason for every None.
    """

    loss: LossName
    settings: SparsitySettings
    activations: tuple[Study, ...]
    cost: Seconds
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        studies = self.activations
        if not studies or not all(study.networks for study in studies):
            raise InputError("a report on sparsity has no network", got=f"{len(studies)} studies")

    def of(self, provenance: Provenance) -> Self:
        """Name the checkpoint, the network and the data."""
        settings = replace(self.settings, batch_size=provenance.batch_size)
        return replace(super().of(provenance), settings=settings)

    @property
    def network(self) -> Network:
        """The network of the first study: with the weights given, else before training."""
        return list(self.activations[0].networks.values())[-1]

    @property
    def total(self) -> Shares:
        """Shares over all its pre-activations."""
        return self.network.total

    @property
    def calls(self) -> tuple[CallSparsity, ...]:
        """Its activation calls in the order they run."""
        return self.network.calls

    @property
    def block_norms(self) -> dict[str, Estimate] | None:
        """Its ‖N_ll‖_F by parameter, or None where not asked for."""
        return self.network.block_norms


def qualified(sparsity: Sparsity, notes: Sequence[str] = ()) -> Sparsity:
    """Add the notes on what qualifies the numbers, each once."""
    found = [*notes, *sparsity.notes]
    numerical: dict[str, Count] = {}
    for study in sparsity.activations:
        for call in list(study.networks.values())[-1].calls:
            if not call.closed_form:
                numerical[call.function] = numerical.get(call.function, 0) + 1
    for function, count in numerical.items():
        calls = f"{count} calls" if count > 1 else "1 call"
        found.append(
            f"φ'' of {function} ({calls}) is not known in closed form, so it is differentiated "
            "numerically, in float64"
        )
    found += [
        f"{study.title}: φ'' is not zero however far out, so null ends an interval"
        for study in sparsity.activations
        if study.profile and not study.profile.is_bounded
    ]
    return replace(sparsity, notes=tuple(dict.fromkeys(found)))
