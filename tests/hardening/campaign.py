"""Every fault at every file operation of a run, of going on, of a sweep, the demo, each output.

``python -m tests.hardening.campaign SCENARIO|all SHARE``, with ``faults.c`` preloaded.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from hessdiag.errors import InputError
from hessdiag.training import state
from tests.hardening import crowds
from tests.hardening.crowds import RUN, SWEEP, Files, files
from tests.hardening.faults import ENDS, Outcome, call, warm

AT = {"EIO": "rwc", "EINTR": "wc", "ENOSPC": "w", "SIGKILL": "wc", "SIGINT": "wc"}
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
    """Try every end at every operation, or a share of them drawn at random; yield what is wrong."""
    good = _begin(scenario, place / "whole", samples)
    outcome = call(good, scenario.command)
    assert outcome.code == scenario.codes[0], outcome
    if scenario.again:
        call(good, scenario.again)
    whole = files(good / "work")
    numbered = enumerate(outcome.kinds, 1)
    every = [(at, end) for at, kind in numbered for end in ENDS if kind in AT[end]]
    chosen = every if share == 1 else Random(0).sample(every, max(1, round(share * len(every))))
    for at, end in chosen:
        case = _begin(scenario, place / f"{at}-{end}", samples)
        struck = call(case, scenario.command, at, end)
        try:
            _judge(scenario, case, struck, end, whole, samples)
        except (AssertionError, InputError) as error:
            yield f"{scenario.name}: {end} at {at} ({struck.where}): {error}: {struck.talk[:600]}"
        shutil.rmtree(case)
    num_operations = len(outcome.kinds)
    print(
        f"{scenario.name}: {len(chosen)} of {len(every)} faults at {num_operations} operations",
        flush=True,
    )


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
    wanted, share = sys.argv[1], float(sys.argv[2])
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        warm(Path(root), ("demo", "--quiet", "--out=demo"))
        for number, scenario in enumerate(SCENARIOS):
            if wanted in ("all", scenario.name):
                place = Path(root) / str(number)
                for wrong in attack(scenario, share, place, Path(root) / "demo"):
                    print("WRONG", wrong, flush=True)
        for name in crowds.CROWDS:
            if wanted in ("all", name):
                rounds = max(1, round(125 * share))
                for wrong in crowds.attack(name, rounds, Path(root) / name):
                    print("WRONG", wrong, flush=True)
