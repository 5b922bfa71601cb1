"""What all tests share."""

import pytest
import torch

torch.set_num_threads(1)  # tensors here are small, and threads that wait for each other cost more


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests of an accelerator run on any device, to see that they would."""
    parser.addoption("--accelerator", default="cuda", help="device of the tests marked gpu")


@pytest.fixture
def accelerator(request: pytest.FixtureRequest) -> torch.device:
    """The device of tests marked ``gpu``."""
    device = torch.device(request.config.getoption("--accelerator"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; --accelerator cpu runs the same tests there")
    return device
