"""A checkpoint together with its network and data: what every diagnostic command looks at."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import torch
from msgspec import structs
from torch import nn

from hessdiag import factories
from hessdiag.curvature.memory import fitting_microbatch
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.data import datasets
from hessdiag.data.datasets import Dataset
from hessdiag.data.examples import Examples
from hessdiag.data.preparation import AT_MOST
from hessdiag.errors import InputError
from hessdiag.linalg import devices, processes
from hessdiag.metadata import ModelSpec, Provenance
from hessdiag.nets import checkpoints, libraries, models
from hessdiag.nets.assembly import assemble
from hessdiag.nets.checkpoints import Checkpoint, Choice
from hessdiag.seeds import stream
from hessdiag.settings import settled
from hessdiag.subject_options import SubjectOptions
from hessdiag.training.optimisation import initialise
from hessdiag.training.recipes import RECIPES

DEFAULT_SAMPLES = AT_MOST
FRESH_MODEL, FRESH_DATA = "wrn10-1", "digits"
_CALIBRATION = 256  # examples that set a fresh network's BatchNorm statistics


@dataclass(frozen=True)
class Subject:
    """A network and a sample of data to look at it with.

    Attributes:
        checkpoint: the file's tensors and metadata; None for a network fresh from its factory.
        spec: how the network was built.
        model: the network with its weights, on the device.
        data: the sample.
        loss: name of the loss; None for the network's own.
        output: which of the network's outputs; None where it returns one.
        batch_size: examples in a microbatch.
        dtype: floating type to compute in.
        notes: how the checkpoint was read: what was chosen, renamed or left out.
    """

    checkpoint: Checkpoint | None
    spec: ModelSpec
    model: nn.Module
    data: Dataset | Examples
    loss: str | None
    batch_size: int
    dtype: torch.dtype
    output: str | int | None = None
    notes: tuple[str, ...] = ()

    def batches(self) -> list[Any]:
        """Cut the sample into microbatches; views, nothing is copied."""
        return self.data.batches(self.batch_size)

    def with_activation(self, name: str | None, beta: float | None) -> Subject:
        """The same weights in a network with another activation.

        Raises:
            InputError: unknown activation, or a β that does not fit.
        """
        spec = structs.replace(self.spec, activation=name, beta=beta)
        model = models.build(spec)
        model.load_state_dict(self.model.state_dict())  # activations have no tensors of their own
        device = next(self.model.parameters()).device
        return dataclasses.replace(self, spec=spec, model=model.to(device).eval())

    @property
    def can_be_initialised(self) -> bool:
        """Whether the network can be built without its checkpoint."""
        name = self.spec.name
        return not factories.is_of_library(name) or libraries.can_build(name)

    def initialised(self, seed: int = 0) -> Subject:
        """The same network before training, its BatchNorm statistics those of the sample.

        Its weights are those that training started from, where the checkpoint tells the run's seed.

        Args:
            seed: used where the checkpoint does not.
        """
        meta = self.checkpoint.metadata if self.checkpoint else None
        known = meta.seed if meta else None
        seed = seed if known is None else known
        offered = self.checkpoint.arguments if self.checkpoint else None
        model = models.build(self.spec, seed=stream(seed, "init"), offered=offered)
        if meta is not None and meta.recipe in RECIPES:
            initialise(RECIPES[meta.recipe], model, stream(seed, "head"))
        device = next(self.model.parameters()).device
        model = model.to(device)
        if isinstance(self.data, Dataset):
            models.calibrate(model, self.data.inputs[:_CALIBRATION].to(device))
        return dataclasses.replace(self, checkpoint=None, model=model.eval())

    def provenance(self) -> Provenance:
        """Say which checkpoint, network and data this is."""
        return Provenance(
            checkpoint=str(self.checkpoint.path) if self.checkpoint else None,
            checkpoint_sha256=self.checkpoint.sha256 if self.checkpoint else None,
            model=self.spec,
            data=self.data.spec,
            split=self.data.split,
            data_sha256=self.data.sha256,
            batch_size=self.batch_size,
            trained_with=self.trained_with,
            notes=self.notes,
        )

    @property
    def trained_with(self) -> ModelSpec | None:
        """The network that was trained, where it is known to have had another activation."""
        meta = self.checkpoint.metadata if self.checkpoint else None
        if meta is None or meta.model.activation is None:
            return None
        same = (meta.model.activation, meta.model.beta) == (self.spec.activation, self.spec.beta)
        return None if same else meta.model

    @property
    def seed_is_known(self) -> bool:
        """Whether the checkpoint tells from which weights training started."""
        meta = self.checkpoint.metadata if self.checkpoint else None
        return meta is not None and meta.seed is not None


def load(
    path: str | None,
    options: SubjectOptions | None = None,
    *,
    as_built: bool = False,
    **changes: Any,
) -> Subject:
    """Load a checkpoint; what is not given comes from its metadata or its tensors' shapes.

    Without a path, the network is a fresh one, by default a small WideResNet on the digits.

    Args:
        path: of the checkpoint, a file or a folder.
        options: how to find network and data.
        as_built: without a path, whether a factory brings the weights; else they are made anew.
        **changes: fields of the options, in place of those.

    Raises:
        InputError: the file, the network or the data cannot be had, or do not belong together.
    """
    options = settled(SubjectOptions, options, changes)
    where = devices.resolve(options.device)
    if path is None:
        checkpoint, options = None, _fresh(options, as_built)
    else:
        checkpoint = checkpoints.read(path, Choice(options.key, options.ema))
    meta = checkpoint.metadata if checkpoint else None
    with processes.in_turn():  # the first one downloads, the others find what it got
        sample = _load_data(checkpoint, options)
    spec, network, notes = assemble(
        checkpoint, options, num_classes=sample.num_classes, input_shape=sample.input_shape
    )
    loss = options.loss if options.loss is not None else meta.loss if meta else None
    factories.refuse_unasked(loss or "", options.loss, "--loss")
    subject = Subject(
        checkpoint=checkpoint,
        spec=spec,
        model=network.to(where).eval(),
        data=sample,
        loss=loss,
        batch_size=options.batch_size or sample.num_samples,
        dtype=devices.DTYPES[options.dtype],
        output=_output(options.output),
        notes=notes,
    )
    if options.bn == "batch":
        if options.batch_size is not None and options.batch_size < sample.num_samples:
            raise InputError(
                "with --bn batch the whole sample is one batch",
                got=f"--batch-size {options.batch_size} for {sample.num_samples} samples",
                hint="leave out --batch-size, or lower --num-samples",
            )
    elif options.batch_size is None:
        subject = dataclasses.replace(subject, batch_size=_fitting_batch(subject))
    return subject if checkpoint or as_built else subject.initialised(options.seed)


def _load_data(checkpoint: Checkpoint | None, options: SubjectOptions) -> Dataset | Examples:
    meta = checkpoint.metadata if checkpoint else None
    known = meta.data if meta else None
    if options.data is None and known is None:
        raise InputError(
            "no data are known for this checkpoint",
            wanted="--data digits, --data cifar10, --data file.npz, --data folder:DIR, …",
        )
    chosen = _first(options.data, known.spec if known else None)
    factories.refuse_unasked(chosen, options.data, "--data")

    # scaling belongs to the network, so the checkpoint's own goes for other data as well
    mean, std = (known.mean, known.std) if known else (None, None)
    same = known is not None and known.spec == chosen  # then its labels are those trained on
    noise = known.label_noise if known and same else 0.0
    return datasets.load_any(
        chosen,
        split=options.split,
        num_samples=options.num_samples,
        seed=options.seed,
        root=options.data_root,
        download=options.download,
        mean=mean,
        std=std,
        label_noise=noise if options.label_noise is None else options.label_noise,
        noise_seed=known.seed if known and same else None,
        text_form=checkpoint.text if checkpoint else None,
    )


def _fresh(options: SubjectOptions, as_built: bool) -> SubjectOptions:
    """Settle what network and data there are without a checkpoint."""
    if options.key is not None or options.ema:
        raise InputError("--key and --ema choose among a checkpoint's weights", got="no checkpoint")
    if not as_built:
        defaults = {"model": options.model or FRESH_MODEL, "data": options.data or FRESH_DATA}
        return dataclasses.replace(options, **defaults)
    if options.model is None or not factories.is_factory(options.model):
        raise InputError(
            "there is no checkpoint",
            got=f"--model {options.model}" if options.model else None,
            wanted="a checkpoint, or --model package.module:factory that brings its weights",
        )
    return options


def _output(text: str | None) -> str | int | None:
    """Read a name, or an index."""
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,9}", text) else text


def _first(*values: str | None) -> str:
    """Take the first value that is given, be it empty."""
    return next(value for value in values if value is not None)


def _fitting_batch(subject: Subject) -> int:
    """Choose the microbatch by the network's memory per example, the same on every run."""
    first = subject.data.batches(2)[0]
    risk = EmpiricalRisk(
        subject.model, [first], subject.loss, output=subject.output, dtype=subject.dtype
    )
    return fitting_microbatch(risk, subject.data.num_samples)
