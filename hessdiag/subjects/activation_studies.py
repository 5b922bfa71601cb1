"""Studies of an activation: its curve, and a network with it before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from hessdiag.errors import InputError
from hessdiag.nets import activations
from hessdiag.nets.models import batch_norms
from hessdiag.nets.profiles import profile
from hessdiag.progress import Progress, Watch
from hessdiag.results import Seconds
from hessdiag.sparsities.sparsity_result import Network, Sparsity, Study, qualified
from hessdiag.sparsities.sparsity_run import sparsity
from hessdiag.subjects.subject import Subject


def study(
    subject: Subject,
    betas: Sequence[float] = (),
    *,
    with_initial: bool = True,
    threshold: float,
    seed: int = 0,
    on_progress: Watch | None = None,
    **options: Any,
) -> Sparsity:
    """Study the subject's activation, once as it is or once for each β.

    Args:
        subject: network and data; with a checkpoint, it is looked at before and after training.
        betas: values of β to put into the network; none leaves the activation as it is.
        with_initial: whether to look at the network before training, given a checkpoint.
        threshold: τ.
        seed: of weights whose seed the checkpoint does not tell, and of probes.
        on_progress: called with the networks done and to do, and the activation.
        **options: passed on to :func:`hessdiag.sparsities.sparsity_run.sparsity`.

    Raises:
        InputError: see there; a β for a network that chooses its own activation.
    """
    spec = subject.spec
    if betas and spec.activation is None:
        raise InputError(
            f"the network {spec.name} chooses its own activation",
            got=f"--beta {', '.join(f'{beta:g}' for beta in betas)}",
            hint="leave --beta out",
        )
    subjects = [subject]
    if betas:
        subjects = [subject.with_activation(spec.activation, beta) for beta in betas]
    can_look = with_initial and subject.can_be_initialised
    kinds = ["initial"] if can_look or subject.checkpoint is None else []
    kinds += ["trained"] if subject.checkpoint else []
    total = len(subjects) * len(kinds)
    looks: list[Sparsity] = []

    def look(kind: str, at: Subject) -> Network | None:
        if kind not in kinds:
            return None

        def show(now: Progress) -> None:
            if on_progress is not None:
                name = activations.label(at.spec.activation or at.spec.name, at.spec.beta)
                on_progress(Progress(len(looks) + now.done / now.expected, total, name))

        show(Progress(0, 1))
        network = at if kind == "trained" else at.initialised(seed)
        looks.append(
            sparsity(
                network.model,
                network.batches(),
                loss=network.loss,
                output=network.output,
                dtype=network.dtype,
                threshold=threshold,
                seed=seed,
                on_progress=show,
                **options,
            )
        )
        return looks[-1].network

    studies: list[Study] = []
    for at in subjects:
        name, beta = at.spec.activation, at.spec.beta
        if name is not None:
            beta = activations.settle_beta(name, beta)
        shape = None if name is None else profile(name, beta, dtype=at.dtype, threshold=threshold)
        studies.append(Study(name, beta, shape, look("initial", at), look("trained", at)))
    if on_progress is not None:
        on_progress(Progress(total, total))
    whole = replace(
        looks[0],
        activations=tuple(studies),
        cost=Seconds(sum(found.cost.seconds for found in looks)),
        notes=tuple(note for found in looks for note in found.notes),
    )
    notes = _notes(subject, subjects, kinds)
    if with_initial and not subject.can_be_initialised:
        notes.append("without the network before training: only its checkpoint tells what it is")
    return qualified(whole, notes).of(subject.provenance())


def _notes(subject: Subject, subjects: Sequence[Subject], kinds: Sequence[str]) -> list[str]:
    found: list[str] = []
    if subject.checkpoint is not None and "initial" in kinds and not subject.seed_is_known:
        found.append(
            "the seed of training is not known: the network before training is another draw"
        )
    before = next((at.trained_with for at in subjects if at.trained_with is not None), None)
    if before is not None and batch_norms(subject.model):
        name = activations.label(str(before.activation), before.beta)
        found.append(f"what if: BatchNorm's running statistics are still those of {name}")
    return found
