"""A run that is ended at any instant leaves the whole file or none, and says how it ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

OLD = '{"old": true}'
INSTANTS = [Random(0).uniform(0.2, 12.0) for _ in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("instant", INSTANTS, ids=lambda seconds: f"{seconds:.1f} s")
def test_a_signal_at_any_instant(samples: Path, tmp_path: Path, instant: float, number: int):
    (tmp_path / "r.json").write_text(OLD)
    options = ("--num-probes", "4000", "--no-density", "--top-k", "1", "--num-samples", "500")
    command = ["spectrum", str(samples / "model.safetensors"), *options, "--json", "r.json"]
    with subprocess.Popen(
        [sys.executable, "-m", "hessdiag", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            time.sleep(instant)
            process.send_signal(number)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    ended = {signal.SIGINT: (130, -signal.SIGINT), signal.SIGTERM: (143, -signal.SIGTERM)}
    assert process.returncode in (0, *ended[number]), err
    if process.returncode > 0:
        assert "Traceback" not in err
    content = (tmp_path / "r.json").read_text()
    assert content == OLD or json.loads(content)["schema"] == "hessdiag.spectrum/1"
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
