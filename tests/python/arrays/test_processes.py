# SPDX-License-Identifier: Apache-2.0

"""Ranks as processes, under every launcher: the bits of ranks as threads, errors, Ctrl-C, engines that are missing."""

import pathlib
import re
import shutil
import signal
import subprocess
import sys

import launch
import pytest
import syncbn

sys.path.insert(0, str(launch.PROGRAMS))
import steps


def digests(code, text, size):
    """Of a run that must have gone well, by rank."""
    assert code == 0, text
    found = dict(re.findall(rf"rank (\d) of {size}: ([0-9a-f]{{64}})", text))
    assert sorted(found) == [str(rank) for rank in range(size)], text
    return set(found.values())


def of_threads(size):
    return set(syncbn.run_ranks(size, lambda rank: steps.digest(rank, size)))


@pytest.mark.parametrize("size", [2, 4])
def test_syncbn_run(tmp_path, size):
    assert digests(*launch.run(launch.syncbn_run(size, tmp_path, *launch.program("steps"))), size) == of_threads(size)


@pytest.mark.parametrize("size", [2, 5])
def test_open_mpi(size):
    command = ["mpirun", "-n", size, *launch.program("steps")]
    assert digests(*launch.run(command), size) == of_threads(size)


def test_mpich():
    command = ["mpiexec.mpich", "-n", 3, *launch.program("steps")]
    assert digests(*launch.run(command), 3) == of_threads(3)


@pytest.mark.parametrize("size", [2, 3])
def test_mpi4py(size):
    pytest.importorskip("mpi4py")
    command = ["mpirun", "-n", size, *launch.program("steps", "mpi4py")]
    assert digests(*launch.run(command), size) == of_threads(size)


def test_digests_differ():
    """Control: a digest of ranks that do not share their statistics is another."""
    assert len({*of_threads(1), *of_threads(2), *of_threads(4)}) == 3
    alone = syncbn.run_ranks(2, lambda rank: steps.digest(rank, 2, process_group=[rank]))
    assert not set(alone) & of_threads(2)


def test_documented_command(tmp_path):
    command = launch.syncbn_run(2, tmp_path, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", "-v",
                                launch.PROGRAMS / "documented.py")
    code, text = launch.run(command)
    assert code == 0, text
    assert text.count("the statistics of both ranks") == 2 and text.count("1 passed") == 2


def test_a_rank_that_raises_ends_the_job(tmp_path):
    """At once: the deadline of the others' call is far away."""
    code, text = launch.run(launch.syncbn_run(3, tmp_path, *launch.program("fail")), SYNCBN_TIMEOUT_S="3600")
    assert code == 1, text
    assert "LookupError: no data on this rank" in text and "rank 1" in text


def by_hand(rank, port):
    return {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "SYNCBN_TIMEOUT_S": "100"}


def interrupt(process):
    """Presses Ctrl-C once it waits. Whether it ends by that or by its deadline shows in what it prints."""
    try:
        line = process.stdout.readline()
        assert line == "waiting\n", line + process.stdout.read()
        try:
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            pass
        process.send_signal(signal.SIGINT)
        code, text = launch.finish(process)
    finally:
        process.kill()
    assert (code, text) == (0, "interrupted\n")


@pytest.mark.parametrize("what", ["threads", "engine"])
def test_ctrl_c_alone(what):
    interrupt(launch.start(launch.program("wait", what)))


def test_ctrl_c_in_init():
    interrupt(launch.start(launch.program("wait", "init"), **by_hand(0, launch.free_port())))


def test_ctrl_c_in_a_call():
    port = launch.free_port()
    peer = subprocess.Popen([str(word) for word in launch.program("wait", "call")], stdin=subprocess.PIPE,
                            env=launch.environment(**by_hand(1, port)), stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    try:
        interrupt(launch.start(launch.program("wait", "call"), **by_hand(0, port)))
    finally:
        peer.communicate()


@pytest.mark.parametrize("command", [["mpirun"], ["mpiexec.mpich"]], ids=["open_mpi", "mpich"])
def test_ctrl_c_under_mpi(command):
    """MPI can't finalize then, so it aborts, the other rank too."""
    code, text = launch.run([*command, "-n", 2, *launch.program("wait", "call", "itself")], SYNCBN_TIMEOUT_S="100")
    assert code != 0 and "interrupted\n" in text, text
    assert "Error" not in text.partition("interrupted")[0]


def test_engine_that_is_missing(tmp_path):
    package = tmp_path / "syncbn"
    shutil.copytree(pathlib.Path(syncbn.__file__).parent, package, ignore=shutil.ignore_patterns("engine_*"))
    init = [sys.executable, "-c", f"import syncbn; syncbn.init(rank=0, size=2, port={launch.free_port()}, timeout=9.0)"]
    code, text = launch.run(init, PYTHONPATH=str(tmp_path))
    assert code == 1 and "GroupError: engine 'gloo' is not part of this build" in text
    (package / "engine_gloo.so").write_bytes(b"no library")
    code, text = launch.run(init, PYTHONPATH=str(tmp_path))
    assert code == 1 and "GroupError: engine 'gloo' can't be loaded; is its library installed?" in text


def test_world_by_hand():
    text = """
import syncbn
def error(**options):
    try: syncbn.init(**options)
    except syncbn.Error as e: return f"{type(e).__name__}: {e}"
print(error(rank=0)); print(error(rank=1, size=1)); print(error(rank=0, size=2)); print(error(rank=0, size=1, timeout=0))
syncbn.init(rank=0, size=1); print(error(rank=0, size=1)); print(error(), syncbn.is_initialized())
syncbn.release(); print(syncbn.is_initialized())
"""
    code, text = launch.run([sys.executable, "-c", text])
    assert code == 0, text
    expected = ["InvalidArgument: rank: 0, size: None", "InvalidArgument: rank: 1", "InvalidArgument: port: 0",
                "InvalidArgument: timeout: 0", "GroupError: init", "None True", "False"]
    for line, start in zip(text.splitlines(), expected, strict=True):
        assert line.startswith(start)
