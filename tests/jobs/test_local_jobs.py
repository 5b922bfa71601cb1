"""Tasks in processes of this machine: their results, shares, deaths and ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hessdiag.errors import InputError
from hessdiag.jobs import local_jobs
from hessdiag.jobs.task import Task


def say(place: Path, name: str) -> str | None:
    print(f"::error::{name}")
    place.joinpath(name).write_text(f"{os.environ['OMP_NUM_THREADS']} {os.environ['LOCAL_RANK']}")
    return "no luck" if name == "unlucky" else None


def die(flag: Path, times: int) -> None:
    flag.write_text(flag.read_text() + "x" if flag.exists() else "x")
    if len(flag.read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise InputError("there are no data", got="missing.npz")


def fall() -> None:
    raise SystemExit(0)


def sleep(place: Path) -> None:
    place.write_text(str(os.getpid()))
    time.sleep(600)


def ended(tasks: dict[str, Task], folder: Path, count: int = 2) -> dict[str, str | None]:
    return dict(local_jobs.run(tasks, lambda: None, count=count, folder=folder))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def comes(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_each_task_is_run_and_tells_why_it_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    names = ("first", "unlucky", "last")
    tasks: dict[str, Task] = {name: partial(say, tmp_path, name) for name in names}
    found = ended(tasks, tmp_path / "jobs")
    assert found == {"first": None, "unlucky": "no luck", "last": None}
    assert {(tmp_path / name).read_text() for name in names} == {"1 0"}
    told = "".join(log.read_text() for log in (tmp_path / "jobs").iterdir())
    assert sorted(told.split()) == sorted(f"::error::{name}" for name in names)
    assert capfd.readouterr() == ("", "")


def test_a_lost_process_is_replaced_and_its_task_goes_on(tmp_path: Path):
    tasks: dict[str, Task] = {
        "unlucky": partial(die, tmp_path / "unlucky", 1),
        "doomed": partial(die, tmp_path / "doomed", 9),
        "safe": partial(die, tmp_path / "safe", 0),
    }
    found = ended(tasks, tmp_path / "jobs", 1)
    assert found == {
        "unlucky": None,
        "doomed": "its process was lost 2 times: SIGKILL",
        "safe": None,
    }
    assert not (tmp_path / "jobs").exists()  # nobody said a word


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [(refuse, InputError, "missing.npz"), (fall, RuntimeError, "SystemExit: 0")],
)
def test_an_error_ends_all(tmp_path: Path, task: Task, error: type[Exception], words: str):
    tasks: dict[str, Task] = {"bad": task, "long": partial(sleep, tmp_path / "pid")}
    with pytest.raises(error, match=words):
        ended(tasks, tmp_path / "jobs")
    pid = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
    assert not pid or not is_alive(int(pid))  # ended before it could say it, or since


@pytest.mark.parametrize(("count", "threads"), [(2, 4), (3, 2), (8, 1), (20, 1)])
def test_processes_share_the_cores_and_take_gpus_by_turns(
    monkeypatch: pytest.MonkeyPatch, count: int, threads: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    shares = [local_jobs.share_of(slot, count) for slot in range(4)]
    assert [share["LOCAL_RANK"] for share in shares] == ["0", "1", "0", "1"]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {str(threads)}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, number: signal.Signals):
    program = textwrap.dedent(
        f"""
        from functools import partial
        from pathlib import Path
        from hessdiag.jobs import local_jobs
        from tests.jobs.test_local_jobs import sleep

        if __name__ == "__main__":
            place = Path({str(tmp_path)!r})
            tasks = {{str(k): partial(sleep, place / f"pid-{{k}}") for k in range(2)}}
            list(local_jobs.run(tasks, lambda: None, count=2, folder=place / "jobs"))
        """
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids = [tmp_path / f"pid-{k}" for k in range(2)]
    assert all(comes(path.exists) for path in pids)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == -number
    assert told.count("Traceback") == (number == signal.SIGINT)
    children = [int(path.read_text()) for path in pids]
    assert comes(lambda: not any(map(is_alive, children)))
