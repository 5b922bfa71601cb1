"""The driver: one pass for all that is pending, and products under the right names."""

import weakref
from collections.abc import Callable, Generator, Sequence

import pytest
import torch
from torch import Tensor

from hessdiag.linalg.driver import Answer, Request, drive
from hessdiag.linalg.lanczos import lanczos
from hessdiag.linalg.trace import Probes, TraceSamples, hutchinson
from tests.linalg.matrices import normal, symmetric

SIZE = 6
MATRICES = {
    "hessian": symmetric(range(SIZE), seed=1),
    "gn": symmetric(range(SIZE), seed=2),
    "nme": symmetric(range(SIZE), seed=3),
}


class Recorder:
    """Answers with the products of ``MATRICES`` and keeps what each pass asked for."""

    def __init__(self) -> None:
        self.passes: list[list[Request]] = []

    def __call__(self, requests: Sequence[Request]) -> list[Answer]:
        self.passes.append([Request(r.vectors.clone(), set(r.parts)) for r in requests])
        return [{part: r.vectors @ MATRICES[part] for part in r.parts} for r in requests]


def ask(*blocks: Tensor) -> Generator[Tensor, Tensor, list[Tensor]]:
    """Ask for the products of each block in turn; return them."""
    received = []
    for block in blocks:
        received.append((yield block))
    return received


def blocks(*sizes: int, seed: int = 0) -> list[Tensor]:
    return [normal(size, SIZE, seed=seed + step) for step, size in enumerate(sizes)]


def test_each_algorithm_receives_the_products_of_its_part() -> None:
    asked = {
        "a": ("hessian", blocks(2, 1, 3)),
        "b": ("gn", blocks(1, seed=10)),
        "c": ("nme", blocks(3, 1, seed=20)),
        "d": ("nme", blocks(2, 2, seed=30)),
    }
    outcome = drive({n: (part, ask(*vectors)) for n, (part, vectors) in asked.items()}, Recorder())
    assert set(outcome.results) == set(asked)
    for name, (part, vectors) in asked.items():
        expected = [block @ MATRICES[part] for block in vectors]
        assert len(outcome.results[name]) == len(expected)
        assert all(map(torch.equal, outcome.results[name], expected))


@pytest.mark.parametrize("lengths", [(3,), (1, 4), (2, 2, 5), (0, 3), (0,)])
def test_there_are_as_many_passes_as_the_longest_algorithm_needs(lengths: Sequence[int]) -> None:
    answer, told = Recorder(), []
    algorithms = {
        str(i): ("gn", ask(*blocks(*[1] * length, seed=10 * i))) for i, length in enumerate(lengths)
    }
    outcome = drive(algorithms, answer, on_pass=told.append)
    assert outcome.num_passes == len(answer.passes) == max(lengths)
    assert outcome.passes == {str(i): length for i, length in enumerate(lengths)}
    assert told == list(range(1, max(lengths) + 1))
    assert {name: len(received) for name, received in outcome.results.items()} == outcome.passes


def test_all_that_is_pending_goes_into_one_pass() -> None:
    answer = Recorder()
    drive({"a": ("gn", ask(*blocks(2, 1))), "b": ("nme", ask(*blocks(3, 4, seed=5)))}, answer)
    assert [[len(r.vectors) for r in requests] for requests in answer.passes] == [[2, 3], [1, 4]]


def test_equal_blocks_become_one_request_with_several_parts() -> None:
    answer = Recorder()
    shared, own = blocks(3, 3)
    algorithms = {
        "a": ("hessian", ask(shared)),
        "b": ("gn", ask(shared.clone())),
        "c": ("gn", ask(own)),
        "d": ("nme", ask(shared)),
        "e": ("gn", ask(shared)),  # the same part again
    }
    outcome = drive(algorithms, answer)
    ((first, second),) = answer.passes
    assert torch.equal(first.vectors, shared)
    assert first.parts == {"hessian", "gn", "nme"}
    assert second.parts == {"gn"}
    assert torch.equal(outcome.results["c"][0], own @ MATRICES["gn"])
    assert torch.equal(outcome.results["d"][0], shared @ MATRICES["nme"])


@pytest.mark.parametrize(
    "change",
    [lambda b: b[:-1], lambda b: b.flip(0), lambda b: b + torch.eye(3, SIZE) * 1e-15],
    ids=["fewer rows", "other order", "rounding"],
)
def test_blocks_that_differ_are_not_merged(change: Callable[[Tensor], Tensor]) -> None:
    answer = Recorder()
    (block,) = blocks(3)
    outcome = drive({"a": ("gn", ask(block)), "b": ("nme", ask(change(block)))}, answer)
    assert len(answer.passes[0]) == 2
    assert torch.equal(outcome.results["b"][0], change(block) @ MATRICES["nme"])


def test_products_are_counted_by_part() -> None:
    shared, other = blocks(4, 2)
    algorithms = {
        "a": ("hessian", ask(shared, other[:0], other)),
        "b": ("gn", ask(shared)),
        "c": ("gn", ask(shared, other)),  # shares its first block with "b"
    }
    outcome = drive(algorithms, Recorder())
    assert outcome.num_products == {"hessian": 4 + 2, "gn": 4 + 2}


def test_an_empty_block_waits_for_the_next_pass() -> None:
    answer = Recorder()
    first, second = blocks(1, 2)
    waiting = ask(first[:0], second)
    outcome = drive({"a": ("gn", ask(first, first)), "w": ("gn", waiting)}, answer)
    assert outcome.passes == {"a": 2, "w": 2}
    assert outcome.results["w"][0].shape == (0, SIZE)
    assert torch.equal(outcome.results["w"][1], second @ MATRICES["gn"])
    assert [len(r.vectors) for r in answer.passes[0]] == [1, 0]


def test_a_result_may_be_none_and_nothing_to_do_makes_no_pass() -> None:
    def idle() -> Generator[Tensor, Tensor, None]:
        return
        yield

    answer = Recorder()
    outcome = drive({"idle": ("gn", idle())}, answer)
    assert outcome.results == {"idle": None}
    assert drive({}, answer).num_passes == outcome.num_passes == len(answer.passes) == 0


@pytest.mark.parametrize("where", ["answer", "algorithm", "on_pass"])
def test_every_generator_is_closed_when_something_raises(where: str) -> None:
    closed: set[str] = set()

    def watched(name: str) -> Generator[Tensor, Tensor, None]:
        try:
            for block in blocks(1, 1, 1):
                yield block
                if where == name:
                    raise ArithmeticError(name)
        finally:
            closed.add(name)

    def answer(requests: Sequence[Request]) -> list[Answer]:
        if where == "answer" and recorder.passes:
            raise ArithmeticError(where)
        return recorder(requests)

    def on_pass(_: int) -> None:
        if where == "on_pass":
            raise ArithmeticError(where)

    recorder = Recorder()
    names = ("first", "algorithm", "last")
    algorithms = {name: ("gn", watched(name)) for name in names}
    with pytest.raises(ArithmeticError, match=where):
        drive(algorithms, answer, on_pass=on_pass)
    assert closed == set(names)
    assert all(generator.gi_frame is None for _, generator in algorithms.values())


def test_no_vector_outlives_its_pass() -> None:
    """Of the vectors asked for and their products, large as they are, none waits for the next."""
    gone: list[weakref.ref[Tensor]] = []

    def answer(requests: Sequence[Request]) -> list[Answer]:
        assert not any(tensor() is not None for tensor in gone)
        answers = [{part: r.vectors @ MATRICES[part] for part in r.parts} for r in requests]
        tensors = [
            t for r, a in zip(requests, answers, strict=True) for t in (r.vectors, *a.values())
        ]
        gone[:] = map(weakref.ref, tensors)
        return answers

    probes = Probes(SIZE, seed=0, dtype=torch.float64, device=torch.device("cpu"))
    samples = {part: TraceSamples() for part in MATRICES}
    sampling = hutchinson(probes, samples, stop=3, chunk=1, max_probes=3, enough=lambda: True)
    finding = lanczos(normal(1, SIZE, seed=4), top_k=1, basis_size=SIZE)
    drive({"trace": (tuple(MATRICES), sampling), "lanczos": ("gn", finding)}, answer)
