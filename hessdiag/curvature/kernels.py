"""Which of torch's kernels compute: repeatable ones, and exact ones for second derivatives."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_FP32_BACKENDS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")


@contextmanager
def repeatable_kernels() -> Generator[None]:
    """Choose convolutions that give the same bits each time."""
    cudnn = torch.backends.cudnn
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark


@contextmanager
def exact_kernels() -> Generator[None]:
    """Full float32 precision, repeatable kernels, attention that has a second derivative."""
    backends = [_backend(path) for path in _FP32_BACKENDS]
    saved = [backend.fp32_precision for backend in backends]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        for backend, precision in zip(backends, saved, strict=True):
            stack.callback(setattr, backend, "fp32_precision", precision)
            backend.fp32_precision = "ieee"
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(repeatable_kernels())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.enable_grad())
        yield


def _backend(path: str) -> Any:
    found: Any = torch.backends
    for name in path.split("."):
        found = getattr(found, name)
    return found
