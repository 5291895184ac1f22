# SPDX-License-Identifier: Apache-2.0

"""Runs the example programs as a user does: alone, under each launcher, with a deadline, nothing left behind."""

import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import tempfile
import unittest

BIN = pathlib.Path(os.environ["SYNCBN_BIN_DIR"])
DEADLINE_S = 250
LAUNCHER_VARIABLES = re.compile(r"^(SYNCBN_|MS_|OMPI_|PMIX?_|SLURM_|LOCAL_|RANK|WORLD_SIZE$|MASTER_|DEVICE_ID$)")


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def environment(**more):
    """This process's, without what a launcher around the tests may have set. A rank has one thread, so that tests side by side
    do not wait for cores."""
    kept = {k: v for k, v in os.environ.items() if not LAUNCHER_VARIABLES.match(k) or k == "SYNCBN_ISA"}
    return {**kept, "SYNCBN_TIMEOUT_S": "100", "SYNCBN_NUM_THREADS": "1", **more}


def end(process):
    """Ends a process that this test started: politely, so that a launcher ends its workers, then for good."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own
        process.wait()


def start(command, env=None, preexec_fn=None):
    return subprocess.Popen(list(map(str, command)), env=env or environment(), text=True, start_new_session=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=preexec_fn)


def finish(process, what):
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired as late:
        end(process)
        out, err = process.communicate()
        raise AssertionError(f"{what}: no end after {DEADLINE_S} s\n--- stdout\n{out}\n--- stderr\n{err}") from late
    return Result(process.returncode, out, err)


def run(*command, env=None):
    return finish(start(command, env), " ".join(map(str, command)))


def free_ports(count=2):
    """The first of `count` ports in a row that nobody listens on, below those that connections get by themselves."""
    while True:
        first = random.randrange(20000, 32000)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first


# Each of these runs `program arguments…` on `ranks` ranks and returns a Result for each rank.


def as_threads(ranks, program, *arguments):
    return run(BIN / program, "--threads", ranks, *arguments)


def under_syncbn_run(ranks, program, *arguments):
    """The README's command line. Returns the launcher's own result and the workers' logs."""
    with tempfile.TemporaryDirectory() as logs:
        job = run(BIN / "syncbn-run", f"--worker_num={ranks}", f"--local_worker_num={ranks}",
                  f"--master_port={free_ports()}", f"--log_dir={logs}", "--join=True", "--cluster_time_out=100",
                  BIN / program, *arguments)
        return job, [(pathlib.Path(logs) / f"worker_{rank}.log").read_text() for rank in range(ranks)]


def under_mpirun(ranks, program, *arguments):
    """Output by rank: mpirun hands the ranks' own on in pieces of 2 KB, which may break a table."""
    with tempfile.TemporaryDirectory() as logs:
        job = run("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", ranks, "--output-filename",
                  f"{logs}:nocopy", BIN / program, *arguments)
        job.out = "".join(path.read_text() for path in sorted(pathlib.Path(logs).glob("*/rank.*/stdout")))
        job.err += "".join(path.read_text() for path in sorted(pathlib.Path(logs).glob("*/rank.*/stderr")))
        return job


def with_torchrun_variables(ranks, program, *arguments, **variables):
    """A Result for each rank."""
    port = free_ports()
    processes = [
        start([BIN / program, *arguments],
              environment(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks),
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **variables))
        for rank in range(ranks)
    ]
    try:
        return [finish(process, f"{program} as rank {rank}") for rank, process in enumerate(processes)]
    finally:
        for process in processes:
            if process.poll() is None:
                end(process)
                process.communicate()


class ProgramTest(unittest.TestCase):
    maxDiff = None

    def succeed(self, result):
        self.assertEqual(result.code, 0, result)
        return result.out
