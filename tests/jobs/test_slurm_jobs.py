"""Tasks as jobs of Slurm: what is asked of it, what becomes of lost jobs; and a real one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hessdiag.errors import InputError
from hessdiag.jobs import slurm_jobs

DAEMONS = ("munged", "slurmctld", "slurmd")
MISSING = [name for name in DAEMONS if shutil.which(name, path="/usr/sbin:/usr/bin") is None]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("partition=gpu, time=120", {"partition": "gpu", "time": 120}),
        ("gpus-per-node=1,time=2:00:00", {"gpus_per_node": 1, "time": 120}),
        ("time=90:30", {"time": 91}),
        ("time=1-12", {"time": 36 * 60}),
        ("time=2-1:30:01", {"time": 49 * 60 + 31}),
    ],
)
def test_parameters_are_those_of_sbatch(text: str, found: dict[str, Any]):
    assert slurm_jobs.parameters(text) == found


@pytest.mark.parametrize("text", ["gpu", "partition=", "=gpu", "time=long", "time=1:x"])
def test_parameters_that_make_no_sense_are_refused(text: str):
    with pytest.raises(InputError, match="`slurm`"):
        slurm_jobs.parameters(text)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("submitit", None, "hessdiag\\[cluster\\]"),
        ("PATH", "", "there is no Slurm here"),
    ],
)
def test_what_is_missing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, words: str
):
    pytest.importorskip("submitit")
    if value is None:
        monkeypatch.setitem(sys.modules, name, value)
    else:
        monkeypatch.setenv(name, value)
    jobs = slurm_jobs.run({"a": lambda: None}, lambda: None, given={}, count=None, folder=tmp_path)
    with pytest.raises(InputError, match=words):
        next(jobs)


# --- a queue made by hand ----------------------------------------------------------------------


@dataclass
class Queue:
    """Slurm's: each submission of a task ends as its list of ends says."""

    folder: Path
    ends: dict[str, list[Any]]
    states: dict[str, str] = field(default_factory=dict[str, str])
    cancelled: list[str] = field(default_factory=list[str])

    def submit(self, tasks: list[Any]) -> list[Any]:
        return [self._job(task.task()) for task in tasks]

    def _job(self, name: str) -> Any:
        job_id, end = f"{name}{len(self.ends[name])}", self.ends[name].pop(0)
        paths = SimpleNamespace(result_pickle=self.folder / job_id, stderr="the log")
        if isinstance(end, str):
            self.states[job_id] = end
        else:
            paths.result_pickle.touch()
        return SimpleNamespace(
            job_id=job_id, paths=paths, exception=lambda: None, result=lambda: end
        )


Ended = Callable[..., dict[str, str | None]]


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """Run tasks whose submissions end as told: a result, or a state without one."""

    def call(**ends: Any) -> dict[str, str | None]:
        queue = Queue(tmp_path, ends)
        monkeypatch.setattr(slurm_jobs, "_submitter", lambda *_: queue.submit)
        monkeypatch.setattr(slurm_jobs, "_states", lambda: queue.states)
        monkeypatch.setattr(slurm_jobs, "POLL", 0.0)
        monkeypatch.setattr(slurm_jobs, "SETTLING", 0.0)
        monkeypatch.setattr(
            slurm_jobs.subprocess, "run", lambda command, **_: queue.cancelled.extend(command)
        )
        tasks = {name: lambda name=name: name for name in ends}
        try:
            return dict(slurm_jobs.run(tasks, lambda: None, given={}, count=None, folder=tmp_path))
        except RuntimeError as error:
            return {"error": str(error), "cancelled": " ".join(queue.cancelled)}

    return call


def test_a_lost_job_is_submitted_again_and_a_cancelled_one_is_left(ended: Ended):
    assert ended(
        fine=[(None, None)],
        unlucky=[("no luck", None)],
        lost=["NODE_FAIL", (None, None)],
        doomed=["FAILED", "OUT_OF_MEMORY"],
        stopped=["CANCELLED", (None, None)],
    ) == {
        "fine": None,
        "unlucky": "no luck",
        "lost": None,
        "doomed": "its job doomed1 was lost: OUT_OF_MEMORY; see the log",
        "stopped": "its job stopped2 was lost: CANCELLED; see the log",
    }


def test_an_error_in_a_job_cancels_the_others(ended: Ended):
    found = ended(long=["RUNNING"], bad=[(None, RuntimeError("KeyError: 3"))])
    assert found == {"error": "KeyError: 3", "cancelled": "scancel long1 bad1"}


def test_jobs_that_a_killed_command_left_are_ended_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for job in ("7_0", "7_1", "7_2", "8_0"):
        (tmp_path / f"{job}_submitted.pkl").touch()
    states = {"7_0": "COMPLETED", "7_1": "RUNNING", "7_2": "PENDING", "9_0": "RUNNING"}
    cancelled: list[list[str]] = []

    def scancel(command: list[str], **_: Any) -> None:
        cancelled.append(command)
        states.update(dict.fromkeys(command[1:], "COMPLETING"))

    def look() -> dict[str, str]:
        now = dict(states)
        states.update({job: "CANCELLED" for job, of in now.items() if of == "COMPLETING"})
        return now

    monkeypatch.setattr(slurm_jobs, "_states", look)
    monkeypatch.setattr(slurm_jobs, "POLL", 0.0)
    monkeypatch.setattr(slurm_jobs.subprocess, "run", scancel)
    slurm_jobs._end_left(tmp_path)
    assert cancelled == [["scancel", "7_1", "7_2"]]
    assert states["7_1"] == states["7_2"] == "CANCELLED"
    assert states["9_0"] == "RUNNING"


# --- a real one --------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """Start munge, slurmctld and slurmd with two CPUs; yields the environment of their users."""
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    for name in ("state", "spool"):
        (place / name).mkdir()
    key = place / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host, user = socket.gethostname(), Path(f"/proc/{os.getpid()}").owner()
    with socket.socket() as one, socket.socket() as other:
        one.bind(("localhost", 0))
        other.bind(("localhost", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    (place / "slurm.conf").write_text(
        textwrap.dedent(
            f"""\
            ClusterName=trial
            SlurmctldHost={host}(127.0.0.1)
            SlurmctldPort={ports[0]}
            SlurmdPort={ports[1]}
            SlurmUser={user}
            SlurmdUser={user}
            AuthType=auth/munge
            AuthInfo=socket={place}/munge.socket
            StateSaveLocation={place}/state
            SlurmdSpoolDir={place}/spool
            SlurmctldPidFile={place}/slurmctld.pid
            SlurmdPidFile={place}/slurmd.pid
            SlurmctldLogFile={place}/slurmctld.log
            SlurmdLogFile={place}/slurmd.log
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_CPU
            MailProg=/bin/true
            KillWait=2
            NodeName={host} NodeAddr=127.0.0.1 CPUs=2
            PartitionName=debug Nodes={host} Default=YES
            """
        )
    )
    env = os.environ | {"SLURM_CONF": str(place / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    env["PATH"] += ":/usr/sbin"
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={place}/munge.{end}" for name, end in files.items()]
    daemons = (
        ["munged", "--foreground", "--force", f"--key-file={key}", *options],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    started: list[subprocess.Popen[bytes]] = []
    nowhere = subprocess.DEVNULL
    try:
        for command in daemons:
            started.append(subprocess.Popen(command, env=env, stdout=nowhere, stderr=nowhere))
            time.sleep(1)
        asked, told = ["sinfo", "--noheader", "--format=%T"], ""
        deadline = time.monotonic() + 60
        while told.strip() != "idle":
            assert time.monotonic() < deadline, f"Slurm does not start: {told}"
            time.sleep(1)
            told = subprocess.run(asked, env=env, capture_output=True, text=True).stdout
        yield env
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)
        shutil.rmtree(place, ignore_errors=True)


def swept(place: Path, *options: object) -> list[str]:
    runs = ("--model", "mlp-64", "--epochs", 600, "--num-samples", 256, "--seed", "0,1,2,3")
    given = (*runs, "--reg", "none,sam", "--rho", 0.1, "--out", place, *options)
    return [sys.executable, "-m", "hessdiag", "train", "sweep", *map(str, given)]


def begun(place: Path, seen: set[Path]) -> int:
    """Wait for another run that has closed an epoch but not its last; the process that trains."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for state in place.glob("*/state.pt"):
            lock = state.with_name(".hessdiag-lock")
            if lock.exists() and state not in seen:
                seen.add(state)
                return json.loads(lock.read_text("utf-8"))["pid"]
        time.sleep(0.02)
    pytest.fail("no run was begun")


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: slurm-wlm and munge")
def test_a_sweep_as_jobs_is_cancelled_killed_and_goes_on_to_the_table_of_one_process(
    cluster: dict[str, str], tmp_path: Path
):
    pytest.importorskip("submitit", reason="needs hessdiag[cluster]")
    env = cluster | {"PYTHONPATH": str(Path(__file__).parents[2])}
    options: Any = {"env": env, "cwd": tmp_path, "text": True, "stderr": subprocess.PIPE}
    command = swept(tmp_path / "jobs", "--slurm", "partition=debug,time=10")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, **options)
    seen: set[Path] = set()
    os.kill(begun(tmp_path / "jobs", seen), signal.SIGKILL)  # its job is submitted again
    own = Path(f"/proc/{begun(tmp_path / 'jobs', seen)}/environ").read_bytes().decode()
    told = dict(line.split("=", 1) for line in own.split("\0") if line)
    job = f"{told['SLURM_ARRAY_JOB_ID']}_{told['SLURM_ARRAY_TASK_ID']}"
    subprocess.run(["scancel", job], env=env, check=True)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert out.count("was lost: CANCELLED") == 1
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=400, **options)
    alone = swept(tmp_path / "one")
    subprocess.run(alone, stdout=subprocess.DEVNULL, check=True, timeout=400, **options)
    tables = [(tmp_path / place / "sweep.json").read_bytes() for place in ("jobs", "one")]
    assert tables[0] == tables[1]
    assert len(json.loads(tables[0])["cells"][0]["runs"]) == 4
