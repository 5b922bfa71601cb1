"""Every fault at every file operation of a run, of going on, of a sweep, the demo, each output.

A command is watched once. What a kill leaves is the folder as it was before an operation: every
such folder is gone on with, once. Of the other ends, operations that one line of ours makes on
files of one name are of a kind, of which the first and the last are struck.

``python -m tests.hardening.campaign SCENARIO,… SHARE``, with ``faults.c`` preloaded.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from hessdiag.errors import InputError
from hessdiag.training import state
from tests.hardening import crowds
from tests.hardening.crowds import RUN, SWEEP, Files, files
from tests.hardening.faults import Operation, Outcome, call, warm, watched

AT = {"EIO": "rwc", "EINTR": "wc", "ENOSPC": "w", "SIGINT": "wc"}
"""At what operations an end is tried: those that only read change nothing for most."""
EARLIER = "### earlier\n"


@dataclass(frozen=True)
class Scenario:
    """A command that is attacked.

    Attributes:
        name: of it.
        command: that it is.
        codes: exit codes that it may have; the first one undisturbed.
        before: a command that comes first, if any.
        killed_at: the operation at which that one is killed; 0 for none.
        again: the command after which all is as if nothing had been; none for outputs.
    """

    name: str
    command: tuple[str, ...]
    codes: tuple[int, ...] = (0, 2)
    before: tuple[str, ...] = ()
    killed_at: int = 0
    again: tuple[str, ...] = ()


RESUME = ("train", "resume", "run", "--quiet")
FORCED = (*RUN, "--force", "--seed=1")
DEMO = ("demo", "--quiet", "--out=run")
GATE = ("gate", "s.json", "--max=loss=0.0001", "--quiet", "--json=out.json", "--junit=out.xml")
KEPT = ("gate", "m.safetensors", "--max=loss=99", "--quiet", "--write-baseline=out.json")
SCENARIOS = (
    Scenario("run", RUN, again=RESUME),
    Scenario("resume", RESUME, before=RUN, killed_at=300, again=RESUME),
    Scenario("finished", RESUME, before=RUN, again=RESUME),
    Scenario("force", FORCED, before=RUN, again=FORCED),
    Scenario("sweep", SWEEP, again=SWEEP),
    Scenario("goes-on", SWEEP, before=SWEEP, killed_at=700, again=SWEEP),
    Scenario("demo", DEMO, again=RESUME),
    Scenario("gate", (*GATE, "--gitlab=out.gl.json"), codes=(1, 2)),
    Scenario("baseline", KEPT),
    Scenario("page", ("report", "s.json", "--quiet", "--output=out.html")),
    Scenario(
        "plot", ("sparsity", "--quiet", "--activation=gelu", "--plot=out.svg", "--json=out.json")
    ),
)


def attack(scenario: Scenario, share: float, place: Path, samples: Path) -> Iterator[str]:
    """Try all, or a share drawn at random; yield what is wrong."""
    good = _begin(scenario, place / "whole", samples)
    states = _States(good, place / "states")
    outcome, operations = watched(good, scenario.command, states.look)
    assert outcome.code == scenario.codes[0], outcome
    if scenario.again:
        call(good, scenario.again)
    whole = files(good / "work")
    sites = _sites(operations)
    faults = [(at, end) for kind, ats in sites for end in AT if kind in AT[end] for at in ats]
    every = [*(("SIGKILL", state) for state in states.distinct), *((end, at) for at, end in faults)]
    chosen = every if share == 1 else Random(0).sample(every, max(1, round(share * len(every))))
    for end, at in chosen:
        if isinstance(at, Path):
            case, struck = at, Outcome(-9, "", at.name)
        else:
            case = _begin(scenario, place / f"{at}-{end}", samples)
            struck = call(case, scenario.command, at, end)
        try:
            _judge(scenario, case, struck, end, whole, samples)
        except (AssertionError, InputError) as error:
            yield f"{scenario.name}: {end} at {at} ({struck.where}): {error}: {struck.talk[:600]}"
        shutil.rmtree(case)
    stand_for = sum(operation.kind in AT[end] for operation in operations for end in AT)
    print(
        f"{scenario.name}: {len(chosen)} of {len(every)}: {len(states.distinct)} folders at "
        f"{states.count} instants, {len(faults)} faults for {stand_for}, of {len(sites)} kinds at "
        f"{len(operations)} operations",
        flush=True,
    )


class _States:
    """The folders that a kill may leave, each kept once.

    Attributes:
        count: how often there was one.
        distinct: copies of all that differ, each by what is in it; where names that are drawn at
            random, and names of one file, are the same.
    """

    def __init__(self, place: Path, kept: Path):
        self.place, self.kept, self.count = place, kept, 0
        self.distinct: dict[Path, None] = {}

    def look(self) -> None:
        self.count += 1
        digest, first = hashlib.sha256(), dict[int, str]()
        for path in sorted(self.place.rglob("*")):
            if path.parent == self.place and path.name not in ("work", "saved"):
                continue
            name = re.sub(r"\.hessdiag-[0-9a-f]{8}", "#", str(path.relative_to(self.place)))
            content = path.read_bytes() if path.is_file() else b""
            names = (name, first.setdefault(path.stat().st_ino, name))
            digest.update(repr((names, path.stat().st_mode, content)).encode())
        copy = self.kept / digest.hexdigest()
        if copy not in self.distinct:
            self.distinct[copy] = None
            copy.parent.mkdir(exist_ok=True)
            subprocess.run(["cp", "-a", self.place, copy], check=True)


def _sites(operations: list[Operation]) -> list[tuple[str, list[int]]]:
    """Sort the operations by where they are called; of each kind, number the first and the last."""
    sites = defaultdict[Operation, list[int]](list)
    for number, operation in enumerate(operations, 1):
        sites[operation].append(number)
    return [(site.kind, sorted({ats[0], ats[-1]})) for site, ats in sites.items()]


def _begin(scenario: Scenario, place: Path, samples: Path) -> Path:
    work = place / "work"
    work.mkdir(parents=True)
    if not scenario.again:
        shutil.copy(samples / "spectrum.json", work / "s.json")
        shutil.copy(samples / "model.safetensors", work / "m.safetensors")
        (work / "summary.md").write_text(EARLIER)
        for name in re.findall(r"out[\w.]+", " ".join(scenario.command)):
            (work / name).write_text("old")
    if scenario.before:
        call(place, scenario.before, scenario.killed_at, "SIGKILL")
    if "--force" in scenario.command:
        (place / "saved").unlink()
    return place


def _judge(
    scenario: Scenario, case: Path, struck: Outcome, end: str, whole: Files, samples: Path
) -> None:
    signalled = {"SIGKILL": (-9,), "SIGINT": (130, -2)}.get(end, ())
    assert struck.code in (*scenario.codes, *signalled), f"exit code {struck.code}"
    assert "Traceback" not in struck.talk, "a traceback"
    assert "unforeseen" not in struck.talk, "unforeseen"
    if struck.code == 2:
        assert re.findall("^error: ", struck.talk, re.MULTILINE) == ["error: "], (
            "not one error is told"
        )
    if scenario.again:
        _judge_run(scenario, case, struck, whole)
    else:
        _judge_outputs(case / "work", struck, end, samples)


def _judge_run(scenario: Scenario, case: Path, struck: Outcome, whole: Files) -> None:
    """No state is lost; nothing is missing without a word; going on ends as if undisturbed."""
    saved = case / "saved"
    lines = saved.read_text().splitlines() if saved.exists() else []
    for name, step in dict(line.rsplit(" ", 1) for line in lines).items():
        payload, _ = state.load(case / "work" / name)
        assert payload is not None, f"the state of {name} is lost"
        assert payload["step"] >= int(step), f"the state of {name} is an earlier one"
    if struck.code == 0:
        assert files(case / "work") == whole, "it says that all is well"
    begun = (case / "work/run/config.toml").exists() or "sweep" in scenario.again
    outcome = call(case, scenario.again if begun else scenario.command)
    assert outcome.code == 0, f"going on: {outcome.talk}"
    assert files(case / "work") == whole, "other bytes than undisturbed"
    assert list((case / "work").rglob(".hessdiag-*")) == [], "something is left over"


def _judge_outputs(work: Path, struck: Outcome, end: str, samples: Path) -> None:
    """Every file is the old one or the new one, whole."""
    for path in work.glob("out.*"):
        content = path.read_text()
        assert content == "old" or content.rstrip()[-1] in "]}>", f"{path.name} is half-written"
        if struck.code != 2 and end[:3] != "SIG":
            assert content != "old", f"{path.name} was not written, and no word of it"
    summary = (work / "summary.md").read_text()
    assert summary.startswith(EARLIER)
    assert summary == EARLIER or summary.endswith("|\n\n"), "the summary is half-written"
    for name, source in (("s.json", "spectrum.json"), ("m.safetensors", "model.safetensors")):
        assert (work / name).read_bytes() == (samples / source).read_bytes()
    left = [path.name for path in work.glob(".hessdiag-*")]
    assert left == [] or end == "SIGKILL" or "unlink" in struck.where, f"left over: {left}"


if __name__ == "__main__":
    wanted, share = sys.argv[1].split(","), float(sys.argv[2])
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        warm(Path(root), ("demo", "--quiet", "--out=demo"))
        for number, scenario in enumerate(SCENARIOS):
            if scenario.name in wanted:
                place = Path(root) / str(number)
                for wrong in attack(scenario, share, place, Path(root) / "demo"):
                    print("WRONG", wrong, flush=True)
        for name in crowds.CROWDS:
            if name in wanted:
                rounds = max(1, round(125 * share))
                for wrong in crowds.attack(name, rounds, Path(root) / name):
                    print("WRONG", wrong, flush=True)
