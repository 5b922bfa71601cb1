import pytest
import torch

from hessdiag.errors import InputError
from hessdiag.linalg import devices


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:999"])
def test_bad_devices(device: str):
    with pytest.raises(InputError, match=r"unknown device|no such CUDA device"):
        devices.resolve(device)


def test_devices():
    assert devices.resolve("cpu") == torch.device("cpu")
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert devices.resolve("auto").type == wanted
