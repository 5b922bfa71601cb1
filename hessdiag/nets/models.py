"""Networks by name: WideResNets, torchvision's ResNets, perceptrons, and the user's factories."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.overrides import TorchFunctionMode

from hessdiag import factories
from hessdiag.errors import InputError, unknown
from hessdiag.metadata import ModelSpec
from hessdiag.nets import activations, libraries
from hessdiag.nets.wrn import WideResNet

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
NAMES = ("wrn28-10", "wrn16-4", *RESNETS, "mlp-64-64")  # examples, for messages and help
_LARGEST = 10**7  # classes, channels or side of an input
_WRN = re.compile(r"wrn(\d{1,4})-(\d{1,4})")
_MLP = re.compile(r"mlp((?:-\d{1,6})+)")


class MLP(nn.Module):
    """Multilayer perceptron on flattened inputs.

    Args:
        widths: lengths of the input, of every hidden layer and of the output; at least two.
        activation: makes one activation; called once for every hidden layer.
    """

    def __init__(
        self, widths: tuple[int, ...], *, activation: Callable[[], nn.Module] = nn.GELU
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (N, …) to outputs (N, widths[-1])."""
        return self.layers(inputs.flatten(1))


def build(spec: ModelSpec, *, seed: int = 0, offered: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network that ``spec`` describes, on the CPU.

    Names are ``wrn<depth>-<widen>`` (depth 6n + 4), ``resnet18|34|50|101``, ``mlp-<width>-…`` with
    its hidden widths, ``timm:NAME``, ``torchvision:NAME``, and ``package.module:factory``.
    Missing parts of ``spec`` have defaults: GELU (ReLU for the ResNets), 10 classes (1000 for the
    ResNets), three channels.

    Args:
        spec: the description.
        seed: seed of the initial weights; torch's global generators are neither read nor moved.
        offered: arguments that a checkpoint tells, for those parameters of a factory that bear
            their names.

    Returns:
        A new network in training mode, in torch's default dtype.

    Raises:
        InputError: an unknown name or activation, a size out of range, ``input_shape`` missing for
            a perceptron, an activation given to a factory, or a factory that fails.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return _construct(spec, offered)


def default_activation(name: str) -> str | None:
    """Name the activation of a network that is not told which; None where a factory chooses."""
    if factories.chooses_activation(name):
        return None
    return "relu" if name in RESNETS else "gelu"


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """List the BatchNorm layers of a network."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def calibrate(model: nn.Module, inputs: Tensor) -> None:
    """Set BatchNorm's running statistics to those of ``inputs``, as one batch, in place.

    A fresh network's own are zero and one, which no layer of it has.

    Args:
        model: a network; nothing else of it changes.
        inputs: (N, …) with N ≥ 2.

    Raises:
        InputError: a single example, which has no variance.
    """
    layers = batch_norms(model)
    if not layers:
        return
    if len(inputs) < 2:
        raise InputError(
            "BatchNorm's statistics need at least two examples",
            got=len(inputs),
            hint="take more samples, or leave the network before training out",
        )
    flags = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    try:
        model.eval()
        for layer in layers:
            layer.train()
            layer.momentum = 1.0
        with torch.no_grad():
            model(inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, flag in flags:
            module.training = flag


def skeleton(spec: ModelSpec) -> nn.Module:
    """Build the network on the meta device: names and shapes, at no cost in memory.

    Raises:
        InputError: as ``build``.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Unfilled():
        return _construct(spec)


class _Unfilled(TorchFunctionMode):
    """Draws nothing: on the meta device that would import torch's compiler, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _construct(spec: ModelSpec, offered: Mapping[str, Any] | None = None) -> nn.Module:
    _check_sizes(spec)
    if factories.chooses_activation(spec.name):
        _check_own(spec)
        return libraries.build(spec) if factories.is_of_library(spec.name) else _made(spec, offered)
    if spec.arguments:
        raise InputError(
            f"the network {spec.name} takes no arguments",
            got=", ".join(name for name, _ in spec.arguments),
            hint="they are for timm:NAME, torchvision:NAME and package.module:factory",
        )
    is_resnet = spec.name in RESNETS
    name = default_activation(spec.name) if spec.activation is None else spec.activation
    assert name is not None

    def activation() -> nn.Module:
        return activations.make(name, spec.beta)

    num_classes = spec.num_classes or (1000 if is_resnet else 10)
    in_channels = spec.input_shape[0] if spec.input_shape else 3
    if is_resnet:
        return _resnet(spec.name, num_classes, in_channels, activation)
    if found := _WRN.fullmatch(spec.name):
        depth, widen = map(int, found.groups())
        return WideResNet(
            depth, widen, num_classes=num_classes, in_channels=in_channels, activation=activation
        )
    if found := _MLP.fullmatch(spec.name):
        hidden = [int(width) for width in found.group(1).split("-")[1:]]
        if 0 in hidden:
            raise InputError("a perceptron's layer is empty", got=spec.name, wanted="widths ≥ 1")
        if spec.input_shape is None:
            raise InputError(f"the network {spec.name} needs the shape of its input")
        return MLP((math.prod(spec.input_shape), *hidden, num_classes), activation=activation)
    raise unknown(
        "model",
        spec.name,
        NAMES,
        hint="also any wrn<depth>-<widen>, mlp-<width>-…, timm:NAME, torchvision:NAME, or "
        "package.module:factory",
    )


def _resnet(
    name: str, num_classes: int, in_channels: int, activation: Callable[[], nn.Module]
) -> nn.Module:
    """Build torchvision's ResNet, its in-place ReLUs replaced; the tensors keep their names."""
    from torchvision.models import resnet  # slow to import, and most networks do without

    model = getattr(resnet, name)(num_classes=num_classes)
    if in_channels != 3:
        model.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    for module in list(model.modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, child_name, activation())
    return model


def _check_own(spec: ModelSpec) -> None:
    """Refuse an activation for a network that has its own."""
    if spec.activation is not None or spec.beta is not None:
        raise InputError(
            f"the network {spec.name} chooses its own activation",
            got=f"activation {spec.activation}, β {spec.beta}",
            hint="leave the activation and β out",
        )


def _made(spec: ModelSpec, offered: Mapping[str, Any] | None) -> nn.Module:
    model = factories.call(spec.name, "model", dict(spec.arguments), offered)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model factory {spec.name} returned no network",
            got=type(model).__name__,
            wanted="a torch.nn.Module",
        )
    return model


def _check_sizes(spec: ModelSpec) -> None:
    """Refuse sizes that no network has; a checkpoint's metadata may hold anything."""
    sizes = (spec.num_classes, *(spec.input_shape or ()))
    if any(
        size is not None and (type(size) is not int or not 1 <= size <= _LARGEST) for size in sizes
    ):
        raise InputError(
            f"the network {spec.name} has a size out of range",
            got=f"{spec.num_classes} classes, input shape {spec.input_shape}",
            wanted=f"integers ≥ 1 and ≤ {_LARGEST:,}",
        )
