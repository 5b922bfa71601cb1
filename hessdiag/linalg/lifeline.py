"""What ties the processes of one command together, so that they end together, with one message."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from hessdiag.errors import InputError
from hessdiag.linalg import processes

BEAT = 3.0  # seconds between signs of life
LOST = 30.0  # seconds without one from another process


class Lifeline:
    """Within the block, a process that is lost ends the others, however they wait for it.

    Each process counts up a number of its own in the store where they met. Only one of them tells
    its user why all end: the first to fail, or to notice.

    Args:
        end: ends this process with a message, or without one where it is None; called in a thread.
    """

    def __init__(self, end: Callable[[str | None], None] = lambda message: _end(message)) -> None:
        self._end, self._rank, self._count = end, processes.rank(), processes.count()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Lifeline:
        self._store = self._connected()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._thread.join(2 * BEAT)

    def speaks(self) -> bool:
        """Tell, once it has failed, whether this process is the one that says why."""
        try:
            return self._store.add("hessdiag/said", 1) == 1
        except RuntimeError:  # the store went with the first process
            return self._rank == min(1, self._count - 1)

    def _watch(self) -> None:
        """Give signs of life and look for those of the others, until the block is left."""
        try:
            store = self._connected()
            began = time.monotonic()
            seen: dict[int, tuple[int, float]] = dict.fromkeys(range(self._count), (0, began))
            while True:
                for other, (beats, at) in seen.items():
                    now = store.add(f"hessdiag/{other}", int(other == self._rank))
                    if now != beats:
                        seen[other] = now, time.monotonic()
                    elif time.monotonic() - at > LOST and now < _DONE:
                        self._lose(f"process {other} of {self._count} no longer answers")
                if self._left.wait(BEAT):
                    store.add(f"hessdiag/{self._rank}", _DONE)
                    return
        except RuntimeError:  # the store has gone
            if not self._left.wait(LOST):
                self._lose("the process that the others met at is gone")

    def _lose(self, message: str) -> None:
        if not self._left.is_set():
            self._end(message if self.speaks() else None)

    def _connected(self) -> TCPStore:
        place, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(place, port, is_master=False, timeout=timedelta(seconds=LOST))


_DONE = 1 << 40


def _end(message: str | None) -> None:
    """End at once: the main thread may wait for ever."""
    if message is not None:
        error = InputError(message, hint="it failed, or its machine did: run the command again")
        print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(2)
