"""From what a user names or hands over to a loss whose derivatives are known."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from hessdiag import factories
from hessdiag.errors import InputError, unknown
from hessdiag.loss_names import NAMES
from hessdiag.losses.any_loss import AnyLoss
from hessdiag.losses.output_loss import OutputLoss

LossSpec = str | OutputLoss | Callable[[Any, Any], Any]


def resolve(loss: LossSpec) -> OutputLoss:
    """Turn a name, a torch loss or any callable into an OutputLoss.

    Args:
        loss: one of NAMES; ``package.module:function``; a torch loss module, or function with
            options bound by ``functools.partial``; an OutputLoss; any ``loss(z, y)``, see
            :class:`AnyLoss`.

    Raises:
        InputError: unknown name, or a torch loss whose reduction is not 'mean'.
    """
    if isinstance(loss, str):
        if factories.is_factory(loss):
            return _of_factory(loss)
        if loss not in NAMES:
            raise unknown("loss", loss, (*NAMES, "package.module:function"))
        return named(loss)()
    if isinstance(loss, OutputLoss):
        return loss
    module = _as_module(loss)
    reduction = getattr(module, "reduction", "mean")
    known = None
    for name in NAMES:
        kind = named(name)
        if type(module) is kind.torch_loss:  # a subclass may compute something else
            known = kind.of_module(module)
            if reduction == "batchmean" and known is not None:
                return known
    if reduction != "mean":
        raise InputError(
            "the loss must be a mean over examples", got=f"reduction={reduction!r}", wanted="'mean'"
        )
    if known is not None:
        return known
    if not callable(loss):
        raise InputError(
            "unusable loss", got=repr(loss), wanted=f"{', '.join(NAMES)} or a callable"
        )
    return AnyLoss(loss)


def named(name: str) -> type[OutputLoss]:
    """Find the class of a name of NAMES."""
    return importlib.import_module(f"hessdiag.losses.named.{name.replace('-', '_')}").LOSS


def _of_factory(spec: str) -> OutputLoss:
    """Take the function named by ``spec``; a class, or a function of nothing, makes the loss."""
    found = factories.find(spec, "loss")
    makes = isinstance(found, type)
    if not makes and not isinstance(found, (nn.Module, OutputLoss)):
        try:
            makes = not inspect.signature(found).parameters
        except (TypeError, ValueError):
            makes = False
    return resolve(factories.call(spec, "loss") if makes else found)  # pyright: ignore[reportArgumentType]


def _as_module(loss: Any) -> Any:
    """Read a function of torch, with the options it is bound to, as the module of that loss."""
    function, options = loss, {}
    if isinstance(loss, functools.partial) and not loss.args:
        function, options = loss.func, loss.keywords
    for name in NAMES:
        kind = named(name)
        if kind.torch_loss is not None and function is kind.torch_function:
            try:
                return kind.torch_loss(**options)
            except TypeError:
                return loss
    return loss
