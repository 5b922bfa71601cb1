"""Networks of Hugging Face, recognised by their classes: which output counts, and under which loss.

Nothing of transformers is imported: a network of it tells by its class and its ``config``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hessdiag.errors import InputError
from hessdiag.losses.loss_spec import LossSpec, resolve
from hessdiag.losses.named.bce import BinaryCrossEntropy
from hessdiag.losses.named.cross_entropy import CrossEntropy
from hessdiag.losses.named.mse import MeanSquaredError
from hessdiag.losses.output_loss import AtOutput, OutputLoss, Targets

OutputSpec = str | int | Callable[[Any], Tensor]
"""Which of a network's outputs is meant: a name, an index, or a function of what it returns."""


def is_causal(model: nn.Module) -> bool:
    """Tell whether a network's outputs at each position predict the next token."""
    return _is_hugging_face(model) and type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def resolve_for(model: nn.Module, loss: LossSpec | None) -> OutputLoss:
    """Take the loss that is given, or the network's own.

    Args:
        model: cross-entropy is any network's own, but for those of Hugging Face whose
            ``problem_type`` is another.
        loss: None for the network's own.
    """
    if loss is not None:
        return resolve(loss)
    if not _is_hugging_face(model):
        return CrossEntropy()
    if type(model).__name__.endswith("ForCTC"):
        raise InputError(
            "the network's own loss aligns outputs and labels (CTC)",
            wanted="a loss of each output's own label",
            hint="give a function of outputs and labels: loss= (--loss module:function)",
        )
    if type(model).__name__.endswith("Classification") and not type(model).__name__.endswith(
        "TokenClassification"
    ):
        return _classification(getattr(model, "config", None))
    return CrossEntropy(class_axis=-1)


def select(model: nn.Module, result: Any, output: OutputSpec | None) -> Tensor:
    """Take the outputs z out of what a network returns.

    Raises:
        InputError: it is not one tensor, and nothing tells which one is meant.
    """
    try:
        if callable(output):
            z = output(result)
        elif output is not None:
            named = isinstance(output, str) and not isinstance(result, Mapping)
            z = getattr(result, str(output)) if named else result[output]
        else:
            z = _default(model, result)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise InputError(
            "the network has no such output", got=repr(output), wanted=_listed(result)
        ) from error
    if not isinstance(z, Tensor):
        raise InputError(
            "the network's output is not one tensor",
            got=_listed(result),
            wanted="a tensor (N, …)",
            hint="say which by `output`: a name, an index, or a function of what it returns",
        )
    return z


def completed(model: nn.Module, x: Any, y: Tensor | Targets) -> Any:
    """Add to inputs by name what the network would make of its labels, and keep no cache."""
    if not isinstance(x, dict) or not _is_hugging_face(model):
        return x
    inputs = dict(x)
    if (shifted := _decoder_inputs(model)) is not None and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = shifted(y.values if isinstance(y, Targets) else y)
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs.setdefault("use_cache", False)
    return inputs


def own_loss(model: nn.Module, call: Callable[..., Any], x: Any, y: Any) -> float | None:
    """Compute the loss that a network of Hugging Face returns for its labels; None where none is.

    Args:
        model: the network.
        call: calls it.
        x: inputs by name.
        y: targets, one step ahead where it is causal.
    """
    if not (_is_hugging_face(model) and isinstance(x, Mapping) and isinstance(y, Tensor)):
        return None
    labels = torch.cat([y[:, :1].clone().fill_(-100), y[:, :-1]], dim=1) if is_causal(model) else y
    try:
        with torch.no_grad():
            loss = getattr(call(**{**x, "labels": labels}), "loss", None)
    except InputError:  # it takes no labels
        return None
    return float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else None


def _decoder_inputs(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Find how a network makes its decoder's inputs of the labels, if it does."""
    prepare: Any = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if prepare is not None:
        return lambda labels: prepare(labels=labels)
    shift: Any = getattr(sys.modules[type(model).__module__], "shift_tokens_right", None)
    config: Any = getattr(model, "config", None)
    if shift is None or not type(model).__name__.endswith("ForConditionalGeneration"):
        return None
    return lambda labels: shift(labels, config.pad_token_id, config.decoder_start_token_id)


def _default(model: nn.Module, result: Any) -> Any:
    if isinstance(result, Mapping):
        tensors = [value for value in result.values() if isinstance(value, Tensor)]
        return result.get("logits", tensors[0] if len(tensors) == 1 else result)
    if isinstance(result, (tuple, list)):
        if len(result) == 1 or (_is_hugging_face(model) and result):
            return result[0]  # without labels, the logits come first
        return getattr(result, "logits", result)
    return getattr(result, "logits", result)


def _classification(config: Any) -> OutputLoss:
    kind = getattr(config, "problem_type", None)
    if kind == "regression" or (kind is None and getattr(config, "num_labels", None) == 1):
        return MeanSquaredError()
    if kind == "multi_label_classification":
        return BinaryCrossEntropy()
    return CrossEntropy() if kind is not None else _ByTargets()


class _ByTargets(OutputLoss):
    """Cross-entropy of integer labels, binary cross-entropy of floating ones."""

    def __init__(self) -> None:
        self.name = CrossEntropy.name

    def evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> AtOutput:
        """Evaluate whichever the targets ask for."""
        loss = BinaryCrossEntropy() if y.is_floating_point() else CrossEntropy()
        self.name = loss.name
        return loss.evaluate(z, y, weights)


def _is_hugging_face(model: nn.Module) -> bool:
    return isinstance(getattr(getattr(model, "config", None), "model_type", None), str)


def _listed(result: Any) -> str:
    """Say what a network returned, for messages."""
    if isinstance(result, Mapping):
        return f"{type(result).__name__} with {', '.join(map(str, result))}"
    if isinstance(result, (tuple, list)):
        return f"a {type(result).__name__} of {len(result)}"
    return type(result).__name__
