# SPDX-License-Identifier: Apache-2.0

"""The programs of examples/torch, as modules and as a user starts them.

No test asserts what a training reaches. Training with few samples is chaotic, and torch rounds differently on each processor.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

for package in ("matplotlib", "tqdm"):
    pytest.importorskip(package)
FOLDER = Path(__file__).parents[3] / "examples" / "torch"
sys.path.insert(0, str(FOLDER))


def run(name, folder, *options, ranks=2):
    """The program under torchrun. Returns what it prints and the numbers that it saves; its plot is a picture."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", FOLDER / name,
               f"--plot={folder / 'plot.png'}", f"--json={folder / 'numbers.json'}", *options]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers.keys() == {"synchronized", "local"}
    return result.stdout, numbers


def alone(function, *arguments):
    """The function's result in a process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return function(*arguments)
    finally:
        dist.destroy_process_group()
