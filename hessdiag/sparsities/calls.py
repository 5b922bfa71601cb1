"""Find every activation call of a network as it runs: modules, functions and methods alike.

Module hooks say where a call happens, and come off again afterwards; a torch function mode sees
the call itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hessdiag.curvature.functions import POWERS, Second, find_second, is_elementwise, numerical
from hessdiag.curvature.module import Network
from hessdiag.nets import activations
from hessdiag.nets.curves import Curve, Elementwise

Decisions = dict[nn.Module, bool]
"""Whether a module of the user's own is an elementwise activation."""
_REDUCTIONS = ("mean", "sum", "nanmean", "nansum")


@dataclass(frozen=True)
class Call:
    """One activation call of a forward pass.

    Attributes:
        name: module path, with the function's name unless the module is the activation; from the
            second call of that name on, with its number, as in ``layer1.0.relu#2``.
        function: name of the function or of the module's class, with its β.
        x: pre-activations, as they are before the call.
        second: φ''.
        curve: its closed forms; None where φ'' is differentiated numerically.
        layers: parameters first used since the activation call before.
    """

    name: str
    function: str
    x: Tensor
    second: Elementwise
    curve: Curve | None
    layers: tuple[str, ...]


@contextmanager
def watching(
    network: Network,
    on_call: Callable[[Call], None],
    decided: Decisions | None = None,
) -> Generator[None]:
    """Call ``on_call`` before every activation call of ``network`` within the block.

    Calls whose input does not require a gradient are left out: they do not depend on the
    parameters, and their φ'' is no part of N.

    Args:
        network: what runs within the block.
        on_call: receives each call; what it computes is not watched.
        decided: which of the user's own modules are activations; filled in as they are met.
    """
    watcher = _Watcher(network, on_call, {} if decided is None else decided)
    with ExitStack() as stack:
        for module in network.module.modules():
            before = module.register_forward_pre_hook(watcher.enter, with_kwargs=True)
            stack.callback(before.remove)
            after = module.register_forward_hook(watcher.leave, always_call=True)
            stack.callback(after.remove)
        stack.enter_context(watcher)
        yield


class _Watcher(TorchFunctionMode):
    def __init__(
        self,
        network: Network,
        on_call: Callable[[Call], None],
        decided: Decisions,
    ) -> None:
        super().__init__()
        self._paths = {module: path for path, module in network.module.named_modules()}
        self._names = {id(tensor): name for name, tensor in network.parameters.items()}
        self._sharding = network.sharding
        self._on_call = on_call
        self._stack: list[nn.Module] = []
        self._counts: dict[str, int] = {}
        self._layers: list[str] = []
        self._decided = decided
        self._muted_by: nn.Module | None = None
        self._power: tuple[Any, Second, str] | None = None  # its result, itself and its place

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a module is called; report it if it is an activation itself."""
        self._stack.append(module)
        if self._muted_by is not None:
            return
        given = (*args, *kwargs.values())
        x = given[0] if len(given) == 1 else None
        if not isinstance(x, Tensor) or not self._matters(x):
            return
        self._muted_by = module  # what is computed from here on is none of the network's calls
        path = self._paths[module]
        if isinstance(module, activations.Activation) and module.name in activations.NAMES:
            curve = activations.curve(module.name, module.beta)
            self._report(path, activations.label(module.name, module.beta), x, curve.second, curve)
        elif self._is_custom_activation(module, x):
            self._report(path, type(module).__name__, x, numerical(module.forward))
        else:
            self._muted_by = None

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        """Note that a module's call is over."""
        self._stack.pop()
        if module is self._muted_by:
            self._muted_by = None
        if not self._stack:
            self._settle_power("")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._muted_by is None and self._stack:
            self._note_parameters(args, kwargs)
            if self._power is not None and any(arg is self._power[0] for arg in args):
                self._settle_power(getattr(func, "__name__", ""))
            found = find_second(func, args, kwargs)
            if found is not None and self._matters(found.x):
                place = self._place(found.name)
                if found.name in POWERS:
                    found = dataclasses.replace(found, x=found.x.detach().clone())  # if in place
                    result = func(*args, **kwargs)
                    self._power = result, found, place
                    return result
                self._report_second(place, found)
        return func(*args, **kwargs)

    def _settle_power(self, follower: str) -> None:
        """Report a power unless it is averaged or summed at once, as a variance or a norm is."""
        if self._power is not None and follower not in _REDUCTIONS:
            self._report_second(self._power[2], self._power[1])
        self._power = None

    def _report_second(self, place: str, found: Second) -> None:
        label = activations.label(found.name, found.beta)
        self._report(place, label, found.x, found.second, found.curve)

    def _matters(self, x: Tensor) -> bool:
        return x.is_floating_point() and x.requires_grad

    def _is_custom_activation(self, module: nn.Module, x: Tensor) -> bool:
        if type(module).__module__.startswith("torch.") or any(True for _ in module.children()):
            return False
        if module not in self._decided:
            self._decided[module] = is_elementwise(module.forward, x)
        return self._decided[module]

    def _place(self, function: str) -> str:
        module = self._stack[-1]
        path = self._paths[module]
        is_activation = type(module).__module__.startswith("torch.nn.modules.activation")
        return path if is_activation and path else f"{path}.{function}".lstrip(".")

    def _note_parameters(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            for item in value if isinstance(value, (tuple, list)) else (value,):
                if self._sharding is not None:
                    item = self._sharding.gathered.shard_of(item)
                name = self._names.pop(id(item), None)
                if name is not None:
                    self._layers.append(name)

    def _report(
        self, path: str, label: str, x: Tensor, second: Elementwise, curve: Curve | None = None
    ) -> None:
        count = self._counts[path] = self._counts.get(path, 0) + 1
        layers, self._layers = tuple(self._layers), []
        name = path if count == 1 else f"{path}#{count}"
        self._on_call(Call(name, label, x.detach(), second, curve, layers))
