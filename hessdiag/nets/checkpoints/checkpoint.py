"""What every form of checkpoint is read into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from hessdiag.metadata import Metadata, TextForm


@dataclass(frozen=True)
class Choice:
    """Which of a checkpoint's weights are wanted.

    Attributes:
        key: name of the state dict inside the file, dotted where it is nested, or a prefix of the
            tensors' names; None for the usual one.
        ema: whether to take the moving average of the weights.
    """

    key: str | None = None
    ema: bool = False


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of a file or folder.

    Attributes:
        path: where it was read.
        sha256: hash of the file's bytes, or of all files of a folder that were read.
        tensors: name to CPU tensor, as stored.
        metadata: what the file says about itself, if this project wrote it.
        notes: what was chosen or left out in reading it, in plain words.
        arguments: those that its network was built with, where the file tells.
        network: gives the network that belongs to it, with its weights; None where it does not say
            which that is.
        adapt: puts it on top of a network of the user's own; None where it is a whole network.
        text: how its network takes text; None where that is not known.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    metadata: Metadata | None = None
    notes: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    network: Callable[[], nn.Module] | None = None
    adapt: Callable[[nn.Module], nn.Module] | None = None
    text: TextForm | None = None


class Format(Protocol):
    """A form of checkpoint: a module in ``formats``."""

    WANTED: str
    """How it is called in a message."""

    @staticmethod
    def match(path: Path) -> bool:
        """Tell by its name, or a folder by the names within, whether ``path`` has this form."""
        ...

    @staticmethod
    def read(path: Path, choice: Choice) -> Checkpoint:
        """Read it without running any code of it.

        Raises:
            InputError: it is damaged, too large, or holds something else.
        """
        ...
