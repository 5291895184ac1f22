# SPDX-License-Identifier: Apache-2.0

"""Programs of several processes, with a deadline."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

PROGRAMS = pathlib.Path(__file__).parent / "programs"
DEADLINE = 120  # tells a hang from a slow machine


def run_command():
    """syncbn-run: of the build, else of the environment that the package is installed in."""
    return os.environ.get("SYNCBN_RUN") or str(pathlib.Path(sys.executable).parent / "syncbn-run")


def environment(**more):
    """Ours without what a launcher or this machine's user has set."""
    own = {name: value for name, value in os.environ.items()
           if not name.startswith(("SYNCBN_", "OMPI_", "PMI", "MS_", "RANK", "WORLD_SIZE", "MASTER_", "LOCAL_"))}
    # Open MPI wants these of root, and more ranks than cores are no error here.
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    return {**own, **root, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def start(command, **more):
    return subprocess.Popen([str(word) for word in command], env=environment(**more), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(process):
    """Its exit code and what it printed; whatever of it still runs at the deadline is ended."""
    try:
        text, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        raise AssertionError(f"no end after {DEADLINE} s; so far:\n{text}") from None
    return process.returncode, text


def run(command, **more):
    return finish(start(command, **more))


def program(name, *arguments):
    return [sys.executable, PROGRAMS / f"{name}.py", *arguments]


def free_port():
    """One that is free, as is the next."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue


def syncbn_run(size, log_dir, *command):
    return [run_command(), f"--worker_num={size}", f"--local_worker_num={size}", "--join=True", f"--log_dir={log_dir}",
            f"--master_port={free_port()}", "--cluster_time_out=60", *command]
