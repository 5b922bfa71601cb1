from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import hessdiag
from hessdiag.curvature import memory
from hessdiag.errors import InputError
from hessdiag.linalg import devices, processes


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are not there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:999"])
def test_bad_devices(device: str):
    with pytest.raises(InputError, match=r"unknown device|no such CUDA device"):
        devices.resolve(device)


def test_devices():
    assert devices.resolve("cpu") == torch.device("cpu")
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert devices.resolve("auto").type == wanted


@pytest.mark.parametrize(
    ("device", "rank", "found"),
    [
        ("auto", None, "cuda"),
        ("cuda", None, "cuda"),
        ("cuda:1", None, "cuda:1"),
        ("auto", "0", "cuda:0"),  # with an index, without which none can be made the current one
        ("cuda", "1", "cuda:1"),
        ("cpu", "1", "cpu"),
    ],
)
def test_each_process_of_a_machine_has_its_own_gpu(
    gpus: None, monkeypatch: pytest.MonkeyPatch, device: str, rank: str | None, found: str
):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert str(devices.resolve(device)) == found


def test_more_processes_than_gpus_are_refused(gpus: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="no such CUDA device"):
        devices.resolve("cuda")


def test_processes_of_one_machine_do_not_share_a_gpu(gpus: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert devices.resolve("cuda:1").index == 1
    with pytest.raises(InputError, match="cannot share one GPU"):
        devices.resolve("cuda:0")


@pytest.mark.parametrize(
    ("device", "gpus", "found"),
    [
        (torch.device("cuda", 1), 2, [1, "cpu:gloo,cuda:nccl"]),
        (torch.device("cuda"), 2, [1, "cpu:gloo,cuda:nccl"]),
        (None, 2, [1, "cpu:gloo,cuda:nccl"]),
        (None, 1, ["gloo"]),
        (torch.device("cpu"), 2, ["gloo"]),
    ],
)
def test_processes_on_gpus_also_sum_what_lies_in_the_hosts_memory(
    monkeypatch: pytest.MonkeyPatch, device: torch.device | None, gpus: int, found: list[object]
):
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(dist, "init_process_group", asked.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with processes.joined(device):
        pass
    assert asked == found


def test_a_gpus_free_memory_is_also_what_torch_keeps_for_later(monkeypatch: pytest.MonkeyPatch):
    for name, size in (("mem_get_info", (100, 800)), ("memory_reserved", 70)):
        monkeypatch.setattr(torch.cuda, name, lambda _, size=size: size)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 30)
    assert memory.available_bytes(torch.device("cuda:1")) == 140


@pytest.mark.parametrize(
    ("listed", "files", "left"),
    [
        (
            "0::/",
            {"memory.max": 900, "memory.current": 300, "memory.stat": "inactive_file 50"},
            650,
        ),
        (
            "5:cpu:/\n0::/job/step",
            {
                "memory.max": "max",
                "memory.current": 5,
                "memory.stat": "anon 4",
                "job/memory.max": 700,
                "job/memory.current": 600,
                "job/memory.stat": "anon 7\ninactive_file 1",
                "job/step/memory.max": 800,
                "job/step/memory.current": 1,
                "job/step/memory.stat": "anon 4",
            },
            101,
        ),
        (
            "9:cpuset,memory:/not/seen/here",
            {
                "memory/memory.limit_in_bytes": 400,
                "memory/memory.usage_in_bytes": 100,
                "memory/memory.stat": "inactive_file 9\ntotal_inactive_file 20",
            },
            320,
        ),
    ],
)
def test_containers_and_jobs_limit_the_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: str, files: dict[str, Any], left: int
):
    under = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    for name, content in {"proc/self/cgroup": listed, **under}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    assert memory.available_bytes(torch.device("cpu")) == left


def test_mps_is_refused_in_words():
    for act in (
        lambda: devices.resolve("mps"),
        lambda: hessdiag.Decomposition(nn.Linear(2, 2), [(torch.ones(2, 2),) * 2], device="mps"),
    ):
        with pytest.raises(InputError, match="MPS has no float64"):
            act()
