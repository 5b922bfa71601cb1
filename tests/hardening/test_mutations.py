"""Damaged files load or are refused: no other error, no hang, no memory without bounds."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import hessdiag
from tests.hardening.formats import FORMATS, Format, attack

each_format = pytest.mark.parametrize("chosen", FORMATS, ids=lambda chosen: chosen.name)
ADDRESSES, RESIDENT = 6 << 30, 2 << 30
"""Bytes of address space and of memory, torch included."""
CAMPAIGN = """
import resource, sys
from pathlib import Path
import torch
from tests.hardening.formats import FORMATS, attack
torch.set_num_threads(1)
chosen = next(one for one in FORMATS if one.name == sys.argv[1])
for line in attack(chosen, Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), seed=1):
    print(line)
if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > int(sys.argv[5]):
    print("too much memory")
"""


@each_format
def test_a_good_file_is_read(chosen: Format, samples: Path):
    chosen.read(samples / chosen.name)


@each_format
def test_a_damaged_file_is_read_or_refused(chosen: Format, samples: Path, tmp_path: Path):
    assert attack(chosen, samples, tmp_path, 150) == []


@pytest.mark.slow
@each_format
def test_thousands_of_damaged_files_within_bounds(chosen: Format, samples: Path, tmp_path: Path):
    args = [chosen.name, str(samples), str(tmp_path), "2000", str(RESIDENT)]
    done = subprocess.run(
        [sys.executable, "-c", CAMPAIGN, *args],
        capture_output=True,
        text=True,
        timeout=1200,
        cwd=Path(hessdiag.__file__).parents[1],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES)),
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]
