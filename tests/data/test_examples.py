"""Batches of any form from a factory, as a network takes them."""

import itertools
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hessdiag.data import datasets, examples
from hessdiag.errors import InputError
from hessdiag.metadata import TextForm
from tests import foreign

Pair = namedtuple("Pair", ["x", "y"])
IDS = torch.arange(24).view(8, 3)
LABELS = torch.arange(8)


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return {"input_ids": IDS[index], "label": index, "text": "left out"}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return ({"input_ids": row, "labels": n} for n, row in enumerate(IDS))


def arrow() -> Any:
    import datasets as arrow_datasets

    return arrow_datasets.Dataset.from_dict({"input_ids": IDS.tolist(), "label": LABELS.tolist()})


def batch(size: int = 8) -> dict[str, torch.Tensor]:
    return {"input_ids": IDS[:size], "labels": LABELS[:size]}


def split_in_two(make: Callable[[Any], Any]) -> list[Any]:
    return [make(slice(0, 5)), make(slice(5, 8))]


FORMS: dict[str, Callable[[], Any]] = {
    "mapping": batch,
    "rows": Rows,
    "stream": Stream,
    "arrow": arrow,
    "list of mappings": lambda: split_in_two(lambda at: {"a": IDS[at], "labels": LABELS[at]}),
    "list of pairs": lambda: split_in_two(lambda at: (IDS[at], LABELS[at])),
    "named tuples": lambda: split_in_two(lambda at: Pair(IDS[at], LABELS[at])),
    "triples": lambda: split_in_two(lambda at: (IDS[at], LABELS[at], torch.ones(8)[at])),
    "nested": lambda: split_in_two(lambda at: ({"a": IDS[at], "b": IDS[at]}, LABELS[at])),
    "numpy": lambda: split_in_two(lambda at: {"a": IDS[at].numpy(), "labels": LABELS[at].numpy()}),
    "loader": lambda: DataLoader(TensorDataset(IDS, LABELS), batch_size=3),
    "generator": lambda: ((IDS[at : at + 2], LABELS[at : at + 2]) for at in range(0, 8, 2)),
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def call(made: Any, **options: Any) -> Any:
        monkeypatch.setattr(datasets.factories, "call", lambda *_: made)
        return datasets.load_any("own:data", **options)

    return call


def rows(found: Any, size: int = 100) -> torch.Tensor:
    firsts = [next(examples.leaves(part))[1] for part in found.batches(size)]
    return torch.cat(firsts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_their_examples(form: str, load: Any) -> None:
    found = load(FORMS[form]())
    assert found.num_samples == 8
    assert torch.equal(rows(found), IDS)
    for size in (1, 3):
        cut = load(FORMS[form]()).batches(size)
        assert max(map(examples.num_rows, cut)) <= size
        assert sum(map(examples.num_rows, cut)) == 8
    assert found.sha256 == load(FORMS[form]()).sha256


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_fewer_examples_are_the_first_or_a_subset(form: str, load: Any) -> None:
    found = load(FORMS[form](), num_samples=6, seed=1)
    assert found.num_samples == 6
    first = torch.equal(rows(found), IDS[:6])
    assert first != (form in ("rows", "arrow"))


def test_labels_have_the_name_that_networks_take(load: Any) -> None:
    (part,) = load(Rows()).batches(8)
    assert set(part) == {"input_ids", "labels"}


def test_examples_of_different_lengths_are_batches_of_one(load: Any) -> None:
    class Ragged(Rows):
        def __getitem__(self, index: int) -> Any:
            return {"input_ids": torch.arange(index + 1), "labels": index}

    found = load(Ragged())
    assert [tuple(part["input_ids"].shape) for part in found.batches(9)] == [
        (1, length) for length in range(1, 9)
    ]


def test_a_batch_whose_tensors_differ_in_rows_stays_whole(load: Any) -> None:
    graph = {"x": torch.ones(5, 2), "edges": torch.zeros(2, 7), "labels": torch.zeros(5)}
    assert len(load([graph]).batches(1)) == 1


def test_a_shuffling_loader_is_the_same_for_a_seed(load: Any) -> None:
    def found(seed: int) -> torch.Tensor:
        loader = DataLoader(
            Rows(),
            2,
            shuffle=True,
            collate_fn=lambda items: {"a": IDS[:2] + len(items) + torch.randint(99, (1,))},
        )
        return rows(load(loader, seed=seed))

    state = torch.random.get_rng_state()
    assert torch.equal(found(1), found(1))
    assert not torch.equal(found(1), found(2))
    assert torch.equal(torch.random.get_rng_state(), state)


def broken() -> Any:
    yield batch()
    raise OSError("disk on fire")


BAD: dict[str, tuple[Any, str]] = {
    "number": (3, "returned no data"),
    "nothing": ([], "are empty"),
    "texts": ([{"text": "a"}], "has no examples"),
    "no rows": ([{"a": torch.zeros(0, 3)}], "has no examples"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_holds_no_examples_is_refused(kind: str, load: Any) -> None:
    made, message = BAD[kind]
    with pytest.raises(InputError, match=message):
        load(made)


def test_a_failing_iterable_is_told(load: Any) -> None:
    with pytest.raises(InputError, match="disk on fire"):
        load(broken())
    assert load(broken(), num_samples=4).num_samples == 4


def test_endless_data_end(load: Any) -> None:
    assert load(batch() for _ in itertools.count()).num_samples == 512


# --- text --------------------------------------------------------------------------------------


@pytest.fixture
def words(tmp_path: Path) -> Path:
    foreign.tokenizer(tmp_path / "tokenizer")
    text = " ".join(f"w{number % 90}" for number in range(100))
    (tmp_path / "t.txt").write_text(text)
    return tmp_path


def text(words: Path, head: str | None = "causal", longest: int | None = 16, **options: Any) -> Any:
    form = TextForm(str(words / "tokenizer"), head, longest)
    return datasets.load_any(f"text:{words / 't.txt'}", text_form=form, **options)


@pytest.mark.filterwarnings("ignore")
def test_text_is_cut_into_blocks(words: Path) -> None:
    (part,) = text(words).batches(100)
    assert part["input_ids"].shape == (6, 16)
    assert torch.equal(part["labels"], part["input_ids"])
    assert part["input_ids"][0].tolist() == [5 + number for number in range(16)]
    assert text(words, num_samples=2).num_samples == 2
    assert text(words, longest=None).batches(9)[0]["input_ids"].shape == (1, 100)


@pytest.mark.filterwarnings("ignore")
def test_masks_are_asked_for_and_nothing_else(words: Path) -> None:
    (part,) = text(words, "masked", seed=1).batches(100)
    (plain,) = text(words).batches(100)
    chosen = part["labels"] != -100
    assert chosen.sum(1).tolist() == [2] * 6  # 15 % of 16
    assert torch.equal(chosen, part["input_ids"] == foreign.WORDS.index("[MASK]"))
    restored = torch.where(chosen, part["labels"], part["input_ids"])
    assert torch.equal(restored, plain["input_ids"])
    assert text(words, "masked", seed=1).sha256 != text(words, "masked", seed=2).sha256


@pytest.mark.filterwarnings("ignore")
def test_text_that_cannot_be_had(words: Path) -> None:
    (words / "empty.txt").write_text("")
    form = TextForm(str(words / "tokenizer"), "causal")
    none = TextForm(str(words), "causal")
    for path, which, message in (
        ("t.txt", None, "text needs a tokenizer"),
        ("t.txt", TextForm("x", None), "causal and masked language models"),
        ("t.txt", none, "tokenizer of .* cannot be loaded"),
        ("none.txt", form, "cannot be read"),
        (".", form, "cannot be read"),
        ("empty.txt", form, "too short"),
    ):
        with pytest.raises(InputError, match=message):
            datasets.load_any(f"text:{words / path}", text_form=which)
    with pytest.raises(InputError, match="train classifiers"):
        datasets.load(f"text:{words / 't.txt'}")
