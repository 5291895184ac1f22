# SPDX-License-Identifier: Apache-2.0

"""The documented script and the examples as users run them."""

import re

import jobs
import pytest

EXAMPLES = jobs.HERE.parents[2] / "examples" / "mindspore"

# As the documentation of mindspore.mint.nn.SyncBatchNorm has it.
DOCUMENTED = '''\
import numpy as np
import mindspore
import mindspore.context as context
from mindspore.mint.nn.layer import SyncBatchNorm
from mindspore import Tensor
from mindspore.communication import init, create_group, get_local_rank
init()
context.set_context(mode=context.PYNATIVE_MODE, device_target="Ascend")
group = "0-1"
rank_ids = [0, 1]
create_group(group, rank_ids)
sync_batch_norm = SyncBatchNorm(num_features=2, process_group=group, dtype=mindspore.float32)
sync_batch_norm.set_train(False)
input_x = Tensor(np.linspace(0, 5, 2*2*2*2), mindspore.float32).reshape(2, 2, 2, 2)
output_data = sync_batch_norm(input_x)
'''
CHANGED = (("from mindspore.mint.nn.layer import", "from syncbn.mindspore import"), ('"Ascend"', '"CPU"'))
LAUNCHERS = pytest.mark.parametrize("launcher", [jobs.msrun, jobs.syncbn_run], ids=["msrun", "syncbn-run"])


def test_documented_script(tmp_path):
    script = DOCUMENTED
    for old, new in CHANGED:
        assert script.count(old) == 1
        script = script.replace(old, new)
    path = tmp_path / "documented.py"
    path.write_text(script + "print('output', *output_data.asnumpy().ravel().tolist())\n")
    job = jobs.msrun(2, tmp_path, path)
    assert job.code == 0, job
    for rank in (0, 1):
        output, = re.findall(r"^output (.*)$", job.logs[f"worker_{rank}.log"], re.M)
        expected = [i / 3 / (1 + 1e-5) ** 0.5 for i in range(16)]
        assert [float(value) for value in output.split()] == pytest.approx(expected, abs=1e-6), job


@LAUNCHERS
def test_example(tmp_path, launcher):
    job = launcher(2, tmp_path, "pytest", "-s", "-v", "-p", "no:cacheprovider", EXAMPLES / "test_syncbn.py")
    assert job.code == 0, job
    for rank in (0, 1):
        log = job.logs[f"worker_{rank}.log"]
        assert "1 passed" in log and f"local rank {rank}: dx [-0.439014" in log, job


def test_training_on_digits(tmp_path):
    """The program runs and prints. two_ranks.py tests its training."""
    job = jobs.syncbn_run(2, tmp_path, EXAMPLES / "train_digits.py", "--epochs=2", "--steps=30", "--plot=curves.png")
    assert job.code == 0, job
    log = job.logs["worker_0.log"]
    results = {name: values for name, *values in re.findall(r"^(\w+): loss (\S+), accuracy (\S+)% on the test", log, re.M)}
    assert results.keys() == {"synchronized", "local"}, job
    assert all(0 < float(loss) < 100 and 0 <= float(accuracy) <= 100 for loss, accuracy in results.values()), job
    assert results["synchronized"] != results["local"], job
    assert "synchronized: 100%" in log and "60/60" in log, job  # the progress bar
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG"), job
    assert "100%" not in job.logs["worker_1.log"], job
