"""Files that would run code are refused, and nothing of theirs is run."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hessdiag.data import datasets
from hessdiag.errors import InputError
from hessdiag.nets import checkpoints
from hessdiag.training import state

RAN = "it-ran"


class Payload:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


PAYLOADS = {
    "system": Payload(os.system, f"touch {RAN}"),
    "eval": Payload(eval, f"__import__('os').mkdir({RAN!r})"),
    "mkdir": Payload(os.mkdir, RAN),
}
each_payload = pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)


def bare(payload: Payload) -> bytes:
    return pickle.dumps({"weight": payload})


def wrapped(payload: Payload) -> bytes:
    written = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.ones(2), "bias": payload}}, written)
    return written.getvalue()


def legacy(payload: Payload) -> bytes:
    written = io.BytesIO()
    torch.save([payload], written, _use_new_zipfile_serialization=False)
    return written.getvalue()


def scripted(payload: Payload) -> bytes:
    """Pretend to be TorchScript, which torch.load might hand to another reader."""
    written = io.BytesIO(wrapped(payload))
    with zipfile.ZipFile(written, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(payload))
    return written.getvalue()


FORMS = (bare, wrapped, legacy, scripted)
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@each_payload
def test_the_payloads_would_work(here: Path, payload: Payload):
    pickle.loads(pickle.dumps(payload))
    assert Path(RAN).exists()


@each_payload
@each_form
@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.safetensors"])
def test_a_checkpoint_runs_nothing(here: Path, payload: Payload, form: Any, name: str):
    Path(name).write_bytes(form(payload))
    with pytest.raises(InputError):
        checkpoints.read(name)
    assert not Path(RAN).exists()


@each_payload
@each_form
def test_a_state_runs_nothing(here: Path, payload: Payload, form: Any, monkeypatch):
    content = form(payload)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda _, target: target.write(content))
        state.save(here, {})  # with a checksum that is right
    with pytest.raises(InputError, match="cannot be read"):
        state.load(here)
    assert not Path(RAN).exists()


@each_payload
@pytest.mark.parametrize("array", ["images", "labels", "classes"])
def test_data_run_nothing(here: Path, payload: Payload, array: str):
    arrays: dict[str, Any] = {
        "images": np.zeros((2, 8, 8), np.uint8),
        "labels": np.zeros(2, np.int64),
    }
    np.savez("evil.npz", **(arrays | {array: np.array([payload, payload], dtype=object)}))
    with pytest.raises(InputError, match="allow_pickle"):
        datasets.load("evil.npz")
    Path("bare.npz").write_bytes(pickle.dumps(payload))
    with pytest.raises(InputError):
        datasets.load("bare.npz")
    assert not Path(RAN).exists()
