# SPDX-License-Identifier: Apache-2.0

"""Simulates the batch norms of ResNet-50 on both platforms and writes docs/scaling.csv, a line a call.

usage: run.py PROGRAM [MOST_RANKS]

The file is written after each simulation, and a simulation that is in it is not run again.
"""

import concurrent.futures
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import model

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "docs" / "scaling.csv"
HOSTS = 1024

# How the simulated MPI sums and gathers, in SimGrid's names, and to how many ranks that is simulated.
ALGORITHMS = {
    "recursive doubling": ({"allreduce": "rdb", "allgather": "rdb"}, 512),
    "Rabenseifner": ({"allreduce": "rab_rdb", "allgather": "rdb"}, 1024),
    "ring": ({"allreduce": "lr", "allgather": "NTSLR"}, 512),
    "Open MPI": ({"allreduce": "ompi", "allgather": "ompi", "reduce": "ompi", "bcast": "ompi"}, 512),
}
# Gathered results fill the memory: each rank of the simulation holds a copy, 17 GB on 1,024 ranks.
FORMS = {"exact": 1024, "gathered": 512}

# Links as in the platform's file, without the factors that SMPI brings along for Gigabit Ethernet; every message is
# sent at once, without a handshake; computing takes no time.
NETWORK = {
    "smpi/bw-factor": "0:1",
    "smpi/lat-factor": "0:1",
    "network/crosstraffic": "0",
    "smpi/os": f"0:{model.OVERHEAD}:0",
    "smpi/ois": f"0:{model.OVERHEAD}:0",
    "smpi/or": f"0:{model.OVERHEAD}:0",
    "smpi/async-small-thresh": "1000000000",
    "smpi/send-is-detached-thresh": "1000000000",
    "smpi/simulate-computation": "no",
}


def simulate(program, platform, form, algorithm, ranks, hosts):
    collectives = {"reduce": "binomial", "bcast": "binomial_tree", **ALGORITHMS[algorithm][0]}
    options = NETWORK | {f"smpi/{name}": choice for name, choice in collectives.items()}
    command = ["smpirun", "-np", str(ranks), "-platform", str(HERE / f"{platform}.xml"), "-hostfile", hosts]
    command += [f"--cfg={name}:{value}" for name, value in options.items()] + ["--log=root.thres:warning"]
    # Ranks are no threads here: the library must not start any.
    environment = os.environ | {"SYNCBN_NUM_THREADS": "1"}
    start = time.monotonic()
    ended = subprocess.run(command + [program, form], env=environment, capture_output=True, text=True)
    if ended.returncode != 0:
        raise RuntimeError(f"{platform}, {form}, {algorithm}, {ranks} ranks:\n{ended.stdout}{ended.stderr}")
    calls = [json.loads(line) for line in ended.stdout.splitlines()]
    if len(calls) != 2 * len(model.LAYERS):
        raise RuntimeError(f"{platform}, {form}, {algorithm}, {ranks} ranks: {len(calls)} calls were reported")
    rows = [
        [platform, form, algorithm, ranks, call["channels"], call["direction"], call["bytes"],
         f"{call['seconds'] * 1e6:.3f}"]
        for call in calls
    ]
    return rows, time.monotonic() - start


def write(rows):
    with open(RESULTS, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["platform", "form", "algorithm", "ranks", "channels", "direction", "bytes", "microseconds"])
        writer.writerows(sorted([str(cell) for cell in row] for row in rows))


def main():
    program = sys.argv[1]
    most = int(sys.argv[2]) if len(sys.argv) > 2 else HOSTS
    runs = [
        (platform, form, algorithm, ranks)
        for platform in model.PLATFORMS
        for form, most_of_form in FORMS.items()
        for algorithm, (_, limit) in ALGORITHMS.items()
        for ranks in (2**i for i in range(1, 11))
        if ranks <= min(limit, most_of_form, most)
    ]
    rows = []
    if RESULTS.exists():
        with open(RESULTS, newline="") as file:
            rows = list(csv.reader(file))[1:]
    there = {(*row[:3], int(row[3])) for row in rows}
    runs = sorted((run for run in runs if run not in there), key=lambda run: run[3])
    with tempfile.NamedTemporaryFile("w") as hosts, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        hosts.write("".join(f"{host}\n" for host in range(HOSTS)))
        hosts.flush()
        begun = {pool.submit(simulate, program, *run, hosts.name): run for run in runs}
        start = time.monotonic()
        try:
            for done, future in enumerate(concurrent.futures.as_completed(begun), 1):
                platform, form, algorithm, ranks = begun[future]
                new, seconds = future.result()
                rows += new
                write(rows)
                print(f"[{done:3}/{len(runs)}, {time.monotonic() - start:4.0f} s] {platform}, {form}, {algorithm}, "
                      f"{ranks} ranks: {seconds:.1f} s", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    main()
