"""examples/torch/train_digits.py under torchrun, shortened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
EXAMPLE = Path(__file__).parents[3] / "examples" / "torch" / "train_digits.py"


def test_synchronized_statistics_learn_where_local_ones_do_not(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(EXAMPLE),
               "--epochs=2", f"--plot={tmp_path / 'plot.png'}", f"--json={tmp_path / 'numbers.json'}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    # Measured 88.6% and 28.6%.
    assert numbers["synchronized"]["accuracy"][-1] > 0.8
    assert numbers["local"]["accuracy"][-1] < 0.5
    assert numbers["synchronized"]["loss"][1] < numbers["synchronized"]["loss"][0]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "synchronized: loss, accuracy" in result.stdout
