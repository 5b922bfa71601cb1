"""Run algorithms in lockstep: all that they ask for is answered in one pass over the data.

An algorithm is a generator that yields a block of vectors ``(k, n)`` for its part and receives
the products ``(k, n)``; one that belongs to several parts receives them by part. It may yield an
empty block to wait for the next pass. Against an explicit matrix the same generators run with no
network at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hessdiag.linalg.space import FLAT, Space

Algorithm = Generator[Tensor, Any, Any]


@dataclass
class Request:
    """Vectors ``(k, n)`` and the parts whose products with them are wanted."""

    vectors: Tensor
    parts: set[str]


Answer = dict[str, Tensor]
"""Products ``(k, n)`` by part."""


@dataclass(frozen=True)
class Outcome:
    """What a run of the driver gave.

    Attributes:
        results: each algorithm's return value, by name.
        passes: passes over the data that each algorithm took part in.
        num_passes: passes made in all; the largest of ``passes``.
        num_products: products computed, by part.
    """

    results: dict[str, Any]
    passes: dict[str, int]
    num_passes: int
    num_products: dict[str, int] = field(default_factory=dict[str, int])


def drive(
    algorithms: Mapping[str, tuple[str | tuple[str, ...], Algorithm]],
    answer: Callable[[Sequence[Request]], list[Answer]],
    *,
    on_pass: Callable[[int], None] | None = None,
    space: Space = FLAT,
) -> Outcome:
    """Run ``algorithms`` (name → part or parts, generator) until all have returned.

    Equal blocks asked for by several parts become one request, so that shared probes are pushed
    through the data once. ``answer`` makes one pass and returns an answer per request.

    Cost: as many passes as the longest algorithm needs alone.
    """
    results: dict[str, Any] = {}
    passes = dict.fromkeys(algorithms, 0)
    num_products: dict[str, int] = {}
    num_passes = 0
    pending: dict[str, Tensor] = {}

    def resume(name: str, answer: Answer | None) -> None:
        parts, generator = algorithms[name]
        try:
            if answer is None:
                pending[name] = next(generator)
            else:
                pending[name] = generator.send(answer[parts] if isinstance(parts, str) else answer)
        except StopIteration as stop:
            results[name] = stop.value

    def make_pass() -> None:
        """Nothing that is asked for or answered, large as it is, outlives this."""
        asked = {name: (algorithms[name][0], rows) for name, rows in pending.items()}
        pending.clear()
        requests, tickets = _merge(asked, space)
        answers = answer(requests)
        for request in requests:
            for part in request.parts:
                num_products[part] = num_products.get(part, 0) + len(request.vectors)
        for name in asked:
            passes[name] += 1
            resume(name, answers[tickets[name]])

    try:
        for name in algorithms:
            resume(name, None)
        while pending:
            make_pass()
            num_passes += 1
            if on_pass is not None:
                on_pass(num_passes)
    finally:
        for _, generator in algorithms.values():
            generator.close()
    return Outcome(results, passes, num_passes, num_products)


def _merge(
    pending: Mapping[str, tuple[str | tuple[str, ...], Tensor]], space: Space
) -> tuple[list[Request], dict[str, int]]:
    """Join equal blocks into one request; returns the requests and each name's index in them."""
    requests: list[Request] = []
    tickets: dict[str, int] = {}
    for name, (part, vectors) in pending.items():
        parts = {part} if isinstance(part, str) else set(part)
        for index, request in enumerate(requests):
            if space.equal(request.vectors, vectors):
                request.parts |= parts
                tickets[name] = index
                break
        else:
            tickets[name] = len(requests)
            requests.append(Request(vectors, parts))
    return requests, tickets
