"""The state on disk: whatever happens to it, one good state is found or the damage is told."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hessdiag.errors import InputError
from hessdiag.training import state

Damage = Callable[[Path], None]


def payload(number: int) -> dict[str, Any]:
    weight = torch.randn(20, 3, generator=torch.Generator().manual_seed(number))
    nested = {"state": {0: {"momentum": weight * 2}}, "groups": [{"lr": 0.1, "nesterov": True}]}
    return {"step": number, "model": {"weight": weight}, "optimizer": nested, "epochs": [None]}


def steps(folder: Path, *numbers: int) -> None:
    for number in numbers:
        state.save(folder, payload(number))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def keep_the_digest(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:64])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def flip(where: float) -> Damage:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(where * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    damage.__name__ = f"flip {where}"
    return damage


DAMAGES = [truncate, halve, keep_the_digest, empty, zeros, lengthen, become_a_folder]
DAMAGES += [flip(where) for where in (0.0, 0.01, 0.3, 0.5, 0.9, 1.0)]
each_damage = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_what_was_saved_is_loaded(tmp_path: Path):
    steps(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    found, remark = state.load(tmp_path)
    assert equal(found, payload(1))
    assert remark is None


def test_the_last_two_states_are_kept(tmp_path: Path):
    steps(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-previous.pt", "state.pt"]
    found, remark = state.load(tmp_path)
    assert equal(found, payload(3))
    assert remark is None
    (tmp_path / state.CURRENT).unlink()
    assert equal(state.load(tmp_path)[0], payload(2))


@each_damage
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(tmp_path: Path, damage: Damage):
    steps(tmp_path, 1, 2)
    damage(tmp_path / state.CURRENT)
    found, remark = state.load(tmp_path)
    assert equal(found, payload(1))
    assert remark is not None
    assert remark.startswith("state.pt is damaged")
    assert remark.endswith("going on from state-previous.pt")


@each_damage
def test_damage_to_the_one_before_is_of_no_account(tmp_path: Path, damage: Damage):
    steps(tmp_path, 1, 2)
    damage(tmp_path / state.PREVIOUS)
    found, remark = state.load(tmp_path)
    assert equal(found, payload(2))
    assert remark is None


@each_damage
def test_damage_to_all_there_is_is_told(tmp_path: Path, damage: Damage):
    steps(tmp_path, 1)
    damage(tmp_path / state.CURRENT)
    with pytest.raises(InputError, match=r"(?s)state.pt is damaged.*state-previous.pt is not th"):
        state.load(tmp_path)


def test_two_damaged_states_are_told_both(tmp_path: Path):
    steps(tmp_path, 1, 2)
    truncate(tmp_path / state.CURRENT)
    empty(tmp_path / state.PREVIOUS)
    with pytest.raises(
        InputError,
        match=r"(?s)state cannot be read.*state.pt is damaged.*previous.pt is damaged.*--force",
    ):
        state.load(tmp_path)


def test_nothing_written_is_no_error(tmp_path: Path):
    found, remark = state.load(tmp_path)
    assert found is None
    assert remark is not None
    assert "starting from the beginning" in remark


def test_a_good_checksum_over_no_state_is_damage_too(tmp_path: Path):
    content = b"no state"
    digest = hashlib.sha256(content).hexdigest().encode()
    (tmp_path / state.CURRENT).write_bytes(digest + content)
    with pytest.raises(InputError, match="cannot be read"):
        state.load(tmp_path)


class Killed(BaseException):
    """Stands for the end of the process."""


def killing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool) -> None:
    """Let the process end at a call of ``owner.name``, before it does anything or after."""
    real = getattr(owner, name)

    def call(*args: Any, **options: Any) -> None:
        if after:
            real(*args, **options)
        raise Killed

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(torch, "save"), (Path, "write_bytes"), (os, "replace"), (os, "fsync"), (Path, "replace")],
    ids=lambda part: part if isinstance(part, str) else "",
)
@pytest.mark.parametrize("before", [(1,), (1, 2)], ids=str)
def test_an_interrupted_save_leaves_a_good_state(
    tmp_path: Path, monkeypatch, before: tuple[int, ...], owner: Any, name: str, after: bool
):
    steps(tmp_path, *before)
    with monkeypatch.context() as patch:
        killing(patch, owner, name, after=after)
        with pytest.raises(Killed):
            steps(tmp_path, 9)
    found, _ = state.load(tmp_path)
    assert found is not None
    assert equal(found, payload(found["step"]))
    assert found["step"] in (before[-1], 9)
    steps(tmp_path, 10, 11)
    assert equal(state.load(tmp_path)[0], payload(11))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-previous.pt", "state.pt"]


@pytest.mark.parametrize(("owner", "name"), [(os, "replace"), (os, "fsync"), (Path, "replace")])
def test_a_damaged_state_does_not_push_the_good_one_out(
    tmp_path: Path, monkeypatch, owner: Any, name: str
):
    """After a fall-back, a process that dies in its first save must leave a good state, too."""
    steps(tmp_path, 1, 2)
    truncate(tmp_path / state.CURRENT)
    with monkeypatch.context() as patch:
        killing(patch, owner, name, after=name == "replace" and owner is os)
        with pytest.raises(Killed):
            steps(tmp_path, 3)
    found, _ = state.load(tmp_path)
    assert found is not None
    assert found["step"] in (1, 3)


def test_a_full_disk_keeps_the_state(tmp_path: Path, monkeypatch):
    steps(tmp_path, 1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match=r"(?s)cannot write.*No space left"):
            steps(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert equal(state.load(tmp_path)[0], payload(1))


def test_no_code_is_run(tmp_path: Path, monkeypatch):
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, ("it-ran",)

    monkeypatch.chdir(tmp_path)
    state.save(tmp_path, {"step": Evil()})
    with pytest.raises(InputError, match="damaged"):
        state.load(tmp_path)
    assert not (tmp_path / "it-ran").exists()
