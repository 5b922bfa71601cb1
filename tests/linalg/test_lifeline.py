"""Processes tied together, as threads of this one that meet at a store of its own."""

import threading
import time
from collections.abc import Callable

import pytest
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from hessdiag.linalg import lifeline, processes
from hessdiag.linalg.lifeline import Lifeline

Ties = Callable[[int], Lifeline]


class Ends:
    """What each process was told as it was ended."""

    def __init__(self) -> None:
        self.messages: list[str | None] = []
        self.came = threading.Event()

    def __call__(self, message: str | None) -> None:
        self.messages.append(message)
        self.came.set()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> list[TCPStore]:
    """Where they meet; emptied, it is gone."""
    meeting = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(meeting.port))
    monkeypatch.setattr(lifeline, "BEAT", 0.02)
    monkeypatch.setattr(lifeline, "LOST", 0.5)
    monkeypatch.setattr(processes, "count", lambda: 2)
    return [meeting]


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def tied(store: list[TCPStore], ends: Ends, monkeypatch: pytest.MonkeyPatch) -> Ties:
    def make(rank: int) -> Lifeline:
        monkeypatch.setattr(processes, "rank", lambda: rank)
        return Lifeline(ends)

    return make


def test_those_that_live_are_left_alone_also_when_one_is_done_early(tied: Ties, ends: Ends):
    with tied(0):
        with tied(1):
            time.sleep(0.7)  # longer than a lost one is waited for
        time.sleep(0.7)
    assert not ends.messages


def test_one_that_falls_silent_ends_the_other_with_its_number(tied: Ties, ends: Ends):
    with tied(0):
        assert ends.came.wait(10)
    assert ends.messages[0] == "process 1 of 2 no longer answers"


def test_a_store_that_is_gone_ends_those_that_met_there(
    tied: Ties, ends: Ends, store: list[TCPStore]
):
    with tied(1):
        time.sleep(0.1)
        store.clear()
        assert ends.came.wait(10)
    assert ends.messages == ["the process that the others met at is gone"]


def test_of_several_that_fail_one_speaks(tied: Ties):
    with tied(0) as one, tied(1) as other:
        assert [line.speaks() for line in (other, one, other)] == [True, False, False]


def test_what_is_noticed_behind_the_block_ends_nobody(tied: Ties, ends: Ends):
    with tied(0):
        pass
    time.sleep(0.7)
    assert not ends.messages
