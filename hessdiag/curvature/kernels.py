"""The state of torch that a product is computed in: its modes, and which kernels compute."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import (  # pyright: ignore[reportMissingImports]
    peek_interpreter_stack,  # pyright: ignore[reportUnknownVariableType]
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from hessdiag.errors import InputError

_FP32_BACKENDS = (
    *("cuda.matmul", "cudnn.conv", "cudnn.rnn"),
    *("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
)

ONE_AT_A_TIME = threading.RLock()
"""Torch's switches are the process's, not the thread's: who turns them back must be alone."""


@contextmanager
def repeatable_kernels() -> Generator[None]:
    """Choose convolutions that give the same bits each time."""
    cudnn = torch.backends.cudnn
    with ONE_AT_A_TIME:
        deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
        try:
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = deterministic, benchmark


@contextmanager
def undisturbed() -> Generator[None]:
    """Compute as in a fresh process, whatever mode torch is in around the block.

    Autocast, inference mode, disabled gradients, another default type or device: none of them
    reaches what is computed within.

    Raises:
        InputError: within one of torch.func's transforms, which no number would leave.
    """
    if peek_interpreter_stack() is not None:  # pyright: ignore[reportUnnecessaryComparison]
        raise InputError(
            "hessdiag is called within a transform of torch.func",
            got="a call under vmap, grad, jvp or the like",
            hint="call it outside, on plain tensors",
        )
    with ONE_AT_A_TIME, ExitStack() as stack:
        default = torch.get_default_dtype()
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def exact_kernels() -> Generator[None]:
    """Full float32 precision, repeatable kernels, attention that has a second derivative."""
    with ONE_AT_A_TIME, ExitStack() as stack:
        backends = [_backend(path) for path in _FP32_BACKENDS]
        saved = [backend.fp32_precision for backend in backends]
        fast_path = torch.backends.mha.get_fastpath_enabled()
        for backend, precision in zip(backends, saved, strict=True):
            stack.callback(setattr, backend, "fp32_precision", precision)
            backend.fp32_precision = "ieee"
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(repeatable_kernels())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(undisturbed())
        yield


def has_differentiable_backward(tensors: Iterable[Tensor]) -> bool:
    """Tell whether no operation behind these gradients is marked as once differentiable."""
    seen: set[object] = set()
    pending = [tensor.grad_fn for tensor in tensors]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            return False
        pending.extend(following for following, _ in node.next_functions)
    return True


def _backend(path: str) -> Any:
    found: Any = torch.backends
    for name in path.split("."):
        found = getattr(found, name)
    return found
