# SPDX-License-Identifier: Apache-2.0

"""Starts real jobs of several ranks, each with a deadline, and leaves nothing running."""

import os
import pathlib
import subprocess
import sys

import psutil

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples"))
from programs import environment, free_ports  # noqa: E402

#: Seconds until a job counts as hanging; an overloaded machine takes a fifth of it.
PATIENCE = 280
HERE = pathlib.Path(__file__).resolve().parent
COMMANDS = pathlib.Path(sys.executable).parent


class Job:
    def __init__(self, code, out, logs):
        self.code, self.out, self.logs = code, out, logs

    def __str__(self):
        logs = "".join(f"\n--- {name}\n{log[-3000:]}" for name, log in self.logs.items())
        return f"exit code {self.code}\n--- console\n{self.out[-4000:]}{logs}"


def end(process):
    """The launcher and what it started: msrun's workers lead sessions of their own and outlive it."""
    tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in tree:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            pass
    process.wait()


def run(launcher, ranks, folder, *task):
    """`task` on so many ranks, in `folder`, under the documented command line."""
    logs = folder / "logs"
    command = [launcher, f"--worker_num={ranks}", f"--local_worker_num={ranks}", f"--master_port={free_ports()}",
               f"--log_dir={logs}", "--join=True", "--cluster_time_out=100", *map(str, task)]
    path = os.pathsep.join((str(COMMANDS), os.environ["PATH"]))
    python_path = os.pathsep.join((str(HERE), os.environ["PYTHONPATH"]))
    # One thread a rank: several ranks share few cores. MindSpore's warnings are many.
    env = environment(PATH=path, PYTHONPATH=python_path, OMP_NUM_THREADS="1", GLOG_v="3", PYTHONDONTWRITEBYTECODE="1")
    process = subprocess.Popen(command, env=env, cwd=folder, text=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        out, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        end(process)
        out = f"no end after {PATIENCE} s"
    found = {path.name: path.read_text(errors="replace") for path in sorted(logs.glob("*.log"))}
    return Job(process.returncode, out, found)


def msrun(ranks, folder, *task):
    return run("msrun", ranks, folder, *task)


def syncbn_run(ranks, folder, *task):
    return run(str(pathlib.Path(os.environ["SYNCBN_BIN_DIR"]) / "syncbn-run"), ranks, folder, "--ms_scheduler=True",
               *task)


def pytest_on(ranks, folder, script):
    """The test functions of a script on every rank, under msrun; all pass on all ranks."""
    job = msrun(ranks, folder, "pytest", "-x", "-q", "-p", "no:cacheprovider", HERE / script)
    assert job.code == 0, job
    workers = [job.logs[f"worker_{rank}.log"] for rank in range(ranks)]
    assert all(" passed" in log and " failed" not in log for log in workers), job
    return workers
