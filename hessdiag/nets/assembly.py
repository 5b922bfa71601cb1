"""From a checkpoint and what the user says to a network with its weights."""

from __future__ import annotations

from msgspec import structs
from torch import nn

from hessdiag import factories
from hessdiag.errors import InputError
from hessdiag.metadata import ModelSpec
from hessdiag.nets import checkpoints, libraries, models
from hessdiag.nets.checkpoints import Checkpoint
from hessdiag.subject_options import SubjectOptions


def assemble(
    checkpoint: Checkpoint | None,
    options: SubjectOptions,
    *,
    num_classes: int | None,
    input_shape: tuple[int, ...] | None,
) -> tuple[ModelSpec, nn.Module, tuple[str, ...]]:
    """Build the network and give it its weights.

    Args:
        checkpoint: where the weights come from; None for those that the network is built with.
        options: what the user says of the network; it goes before all else.
        num_classes: of the data, for a network that has none of its own.
        input_shape: of an example, likewise.

    Returns:
        How it was built, the network on the CPU, and notes on how the checkpoint was read.

    Raises:
        InputError: the network is not known, or the checkpoint does not fit it.
    """
    if checkpoint is None:
        name, activation = str(options.model), options.activation
        activation = models.default_activation(name) if activation is None else activation
        spec = ModelSpec(name, activation, options.beta, num_classes, input_shape)
        spec = structs.replace(spec, arguments=factories.arguments(options.model_arg or ()))
        return spec, models.build(spec), ()
    if options.model is None and checkpoint.network is not None:
        _check_unchanged(checkpoint, options)
        network = checkpoint.network()
        library = type(network).__module__.partition(".")[0]
        return ModelSpec(f"{library}:{type(network).__name__}"), network, checkpoint.notes
    if options.model is not None and checkpoint.adapt is not None:
        arguments = factories.arguments(options.model_arg or ())
        spec = ModelSpec(options.model, options.activation, options.beta, arguments=arguments)
        return spec, checkpoint.adapt(models.build(spec)), checkpoint.notes
    spec = _describe(checkpoint, options, num_classes, input_shape)
    if not factories.chooses_activation(spec.name):
        # before it takes memory: metadata may name a network of any size
        checkpoints.check_fit(models.skeleton(spec), checkpoint)
    network = models.build(spec, offered=checkpoint.arguments)
    return spec, network, checkpoint.notes + checkpoints.load_into(network, checkpoint)


def _check_unchanged(checkpoint: Checkpoint, options: SubjectOptions) -> None:
    """Refuse options that would change a network which the checkpoint brings as it is."""
    for name in ("activation", "beta", "model_arg"):
        if getattr(options, name) is not None:
            raise InputError(
                f"the network of {checkpoint.path} is built as its configuration says",
                got=f"--{name.replace('_', '-')}",
                hint="leave it out, or name another network with --model",
            )


def _describe(
    checkpoint: Checkpoint,
    options: SubjectOptions,
    num_classes: int | None,
    input_shape: tuple[int, ...] | None,
) -> ModelSpec:
    """Describe the network: options first, then metadata, then the tensors' names and shapes."""
    name, activation, beta = options.model, options.activation, options.beta
    meta = checkpoint.metadata
    seen = checkpoints.recognise(checkpoint.tensors)
    base = meta.model if meta else seen
    if name is not None and (base is None or base.name != name):
        classes = seen.num_classes if seen else num_classes
        base = ModelSpec(name, num_classes=classes)
        if meta and not factories.chooses_activation(name):
            base = structs.replace(base, activation=meta.model.activation, beta=meta.model.beta)
    if base is None:
        raise InputError(
            "the network of this checkpoint is not recognised",
            got=f"tensors such as {', '.join(f'{n:.80}' for n in list(checkpoint.tensors)[:3])}",
            wanted=f"--model with one of {', '.join(models.NAMES)}, timm:NAME, torchvision:NAME, "
            "or package.module:factory",
        )
    factories.refuse_unasked(base.name, name, "--model")
    if options.model_arg is not None:
        base = structs.replace(base, arguments=factories.arguments(options.model_arg))
    if factories.chooses_activation(base.name):
        base = structs.replace(base, activation=activation, beta=beta)
        if factories.is_of_library(base.name) and meta is None:
            own = structs.replace(base, num_classes=None)
            base = structs.replace(base, num_classes=libraries.num_classes(own, checkpoint.tensors))
        return base
    base = structs.replace(base, input_shape=input_shape)
    if base.activation is None and base.name in models.RESNETS:
        base = structs.replace(base, activation="relu")  # torchvision's
    if base.activation is None and activation is None and meta is None:
        raise InputError(
            f"the activation of this {base.name} is not known",
            got="a checkpoint without metadata; shapes do not tell",
            wanted="--activation gelu, --activation relu, …",
        )
    if activation is not None:
        base = structs.replace(base, activation=activation, beta=None)
    if beta is not None:
        base = structs.replace(base, beta=beta)
    return base
