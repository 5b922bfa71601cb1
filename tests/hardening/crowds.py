"""Eight commands at once in one working directory: nothing mixed, nothing lost, no false word."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hessdiag.training import folder
from tests.hardening.faults import Outcome, call, ended, started

BYTES = ("model.safetensors", "best.safetensors", "metrics.jsonl", "config.toml")
TIMED = ("report.json", "curves.png", "sweep.json")
SIZE = 8

Files = dict[str, bytes]

TINY = ("--model=mlp-4", "--num-samples=16", "--batch-size=8", "--epochs=2", "--quiet")
RUN = ("train", *TINY, "--save-every=1", "--out=run")
SWEEP = ("train", "sweep", *TINY, "--reg=none,sam", "--seed=0", "--out=run")
CROWDS = {
    "one-folder": RUN,
    "own-folders": RUN[:-1],
    "forced": (*RUN, "--force"),
    "resumed": ("train", "resume", "run", "--quiet"),
    "swept": SWEEP,
}
"""Commands by name; each of eight that train has a seed of its own."""


def files(work: Path) -> Files:
    """What a run or a sweep came to; of what holds times, that it is there."""
    found = {path: path.name for path in sorted(work.rglob("*")) if path.name in (*BYTES, *TIMED)}
    return {
        str(path.relative_to(work)): path.read_bytes() if name in BYTES else b""
        for path, name in found.items()
    }


def attack(name: str, rounds: int, place: Path) -> Iterator[str]:
    """Start eight at once, so many times; yield what is wrong."""
    seeds = range(1 if name in ("resumed", "swept") else SIZE)
    commands = [
        (*CROWDS[name], f"--seed={seed}") if len(seeds) > 1 else CROWDS[name] for seed in seeds
    ]
    whole: dict[int, Files] = {}
    for seed in seeds:
        (alone := place / f"alone-{seed}" / "work").mkdir(parents=True)
        command = SWEEP if name == "swept" else (*RUN, f"--seed={seed}")
        assert call(alone.parent, command).code == 0
        whole[seed] = files(alone / "run")
    for number in range(rounds):
        work = place / str(number) / "work"
        work.mkdir(parents=True)
        if name == "resumed":
            assert call(work.parent, RUN, 250, "SIGKILL").code == -9
        outcomes = _at_once(work, commands)
        try:
            _judge(name, outcomes, work, whole)
        except AssertionError as error:
            yield f"{name}: round {number}: {error}: {[(one.code, one.talk) for one in outcomes]}"
        shutil.rmtree(work.parent)
    print(f"{name}: {rounds} rounds of {SIZE}")


def _at_once(work: Path, commands: list[tuple[str, ...]]) -> list[Outcome]:
    gate, opened = os.pipe()
    places = [work.parent / f"child-{number}" for number in range(SIZE)]
    pids: list[int] = []
    for number, place in enumerate(places):
        place.mkdir()
        (place / "work").symlink_to(work)
        pids.append(started(place, commands[number % len(commands)], gate=gate))
    os.write(opened, b"1" * SIZE)
    outcomes = [ended(place, pid) for place, pid in zip(places, pids, strict=True)]
    os.close(gate)
    os.close(opened)
    return outcomes


def _judge(name: str, outcomes: list[Outcome], work: Path, whole: dict[int, Files]) -> None:
    won = [seed for seed, outcome in enumerate(outcomes) if outcome.code == 0]
    for outcome in outcomes:
        refused = "another process works" in outcome.talk or "holds a run already" in outcome.talk
        assert (outcome.code, outcome.talk) == (0, "") or (outcome.code == 2 and refused)
        assert outcome.talk.count("error: ") == (outcome.code == 2)
    assert won
    if name == "one-folder":
        assert len(won) == 1, "several had the folder"
    runs = [work / "run"]
    if name == "own-folders":
        assert len(won) == SIZE, "a run is lost"
        runs = list((work / "runs").iterdir())
        assert len(runs) == SIZE, "two runs in one folder"
    found = [(0 if name == "swept" else folder.read_config(run).seed, run) for run in runs]
    for seed, run in found:
        assert files(run) == whole[seed], "the folder is mixed"
        assert list(run.rglob(".hessdiag-*")) == [], "something is left over"
    assert {seed for seed, _ in found} <= {*won} or len(whole) == 1
    assert name != "own-folders" or {seed for seed, _ in found} == {*won}
