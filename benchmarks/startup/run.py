# SPDX-License-Identifier: Apache-2.0

"""Measures what starting costs on this machine and writes docs/startup.csv, a line a run.

usage: run.py DIRECTORY_OF_THE_PROGRAMS [REPETITIONS]
"""

import csv
import json
import os
import pathlib
import platform
import socket
import subprocess
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import pages  # noqa: E402

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "startup.csv"
COLUMNS = ("machine", "kind", "ranks", "groups", "joined", "first", "second", "grouped", "total", "worker_kb",
           "launcher_kb")

# kind, ranks, whether they sum over the world, groups
RUNS = (
    [("processes", ranks, True, 0) for ranks in (2, 4, 8, 16, 32)]
    + [("processes", 16, True, 16), ("processes", 64, False, 0), ("processes", 256, False, 0)]
    + [("threads", 64, True, 16)]
)


def machine():
    return f"{pages.processor()}, Linux {platform.release()}"


def free_port():
    """A port for a framework whose successor, where the workers meet, is free."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
                return port
            except (OSError, OverflowError):
                continue


def run(programs, kind, ranks, sums, groups):
    program = [str(programs / "startup"), str(int(sums)), str(groups)]
    with tempfile.TemporaryDirectory() as logs:
        if kind == "threads":
            command = program + [str(ranks)]
        else:
            command = [str(programs / "syncbn-run"), f"--worker_num={ranks}", f"--local_worker_num={ranks}",
                       f"--master_port={free_port()}", f"--log_dir={logs}", "--join=True", "--cluster_time_out=300",
                       *program]
        before = time.clock_gettime(time.CLOCK_MONOTONIC)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
        total = time.clock_gettime(time.CLOCK_MONOTONIC) - before
    said = [json.loads(line[line.index("{"):]) for line in ended.stdout.splitlines() if '{"rank"' in line]
    if ended.returncode != 0 or sorted(rank["rank"] for rank in said) != list(range(ranks)):
        raise RuntimeError(f"{' '.join(command)}: exit code {ended.returncode}, {len(said)} of {ranks} ranks reported\n"
                           f"{ended.stdout}{ended.stderr}")
    # A stage ends when the last rank has passed it.
    moments = [before] + [max(rank[key] for rank in said) for key in ("joined", "first", "second", "end")]
    stages = [later - earlier for earlier, later in zip(moments, moments[1:])]
    worker = max(rank["own_kb"] for rank in said)
    launcher = max(rank["parent_kb"] for rank in said) if kind == "processes" else 0
    return [machine(), kind, ranks, groups, *(f"{stage:.4f}" for stage in stages), f"{total:.4f}", worker, launcher]


def main():
    programs = pathlib.Path(sys.argv[1])
    repetitions = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    os.environ.pop("SYNCBN_PORT", None)
    rows = []
    for case in RUNS:
        of_case = [run(programs, *case) for _ in range(repetitions)]
        rows += of_case
        median = sorted(of_case, key=lambda row: float(row[COLUMNS.index("total")]))[repetitions // 2]
        print(", ".join(f"{name} {value}" for name, value in zip(COLUMNS, median)), flush=True)
    with open(RESULTS, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
