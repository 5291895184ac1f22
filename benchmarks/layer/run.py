"""Runs the benchmarks, prints the table of ratios, writes docs/performance.json and the pictures in docs/img/.

usage: run.py BIN [--quick] [--only SUITE]... [--prefix COMMAND]

BIN is the folder of the programs. --quick: a few shapes and repeats, nothing is written. --only: only these programs.
--prefix: put before every program, such as "chrt -f 1" on a machine that does other work too.
"""

import argparse
import datetime
import json
import os
import pathlib
import shlex
import socket
import statistics
import subprocess
import tempfile

import report

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


def free_port():
    """One with a free neighbour, where the launcher's store listens."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            return port


def programs(folder, log):
    mpirun = "mpirun --allow-run-as-root --oversubscribe --bind-to none -n {}".format
    gloo = f"{folder}/syncbn-run --worker_num={{0}} --local_worker_num={{0}} --master_port={free_port()} --join=True --log_dir={log}".format
    return {
        "onednn": f"{folder}/against_onednn",
        "torch": f"{folder}/against_torch",
        "forms": f"{folder}/forms",
        "ranks": f"{folder}/ranks",
        "mpi": f"{mpirun(2)} {folder}/ranks_mpi",
        "gloo": f"{gloo(2)} {folder}/ranks",
        "ranks4": f"{folder}/ranks --ranks 4",
        "mpi4": f"{mpirun(4)} {folder}/ranks_mpi",
        "gloo4": f"{gloo(4)} {folder}/ranks",
    }


def run(command, options, log):
    """The lines of JSON that a program printed."""
    ended = subprocess.run(command + options, stdout=subprocess.PIPE, text=True, check=True)
    text = ended.stdout
    worker = pathlib.Path(log, "worker_0.log")
    if worker.exists():  # syncbn-run keeps what its workers print
        text = worker.read_text()
        worker.unlink()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def summary(line):
    """Samples to medians and quartiles; of two contenders the median of the ratios of each round."""
    samples = line.pop("seconds")
    line["median"] = {name: statistics.median(values) for name, values in samples.items()}
    line["quartiles"] = {name: statistics.quantiles(values, n=4)[::2] for name, values in samples.items()}
    line["ratio"] = {
        f"{a}/{b}": statistics.median(p / q for p, q in zip(samples[a], samples[b]))
        for a in samples for b in samples if a != b
    }
    line["repeats"] = len(next(iter(samples.values())))
    return line


def processor():
    for line in open("/proc/cpuinfo", encoding="ascii"):
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return "unknown processor"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--prefix", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as log:
        known = programs(arguments.bin, log)
        unknown = set(arguments.only or ()) - set(known)
        if unknown:
            parser.error(f"--only: {', '.join(unknown)}; there are {', '.join(known)}")
        lines = []
        for name in arguments.only or known:
            print(f"running {name}", flush=True)
            options = ["--quick"] if arguments.quick else []
            command = shlex.split(arguments.prefix) + shlex.split(known[name])
            lines += [summary(line) for line in run(command, options, log)]
    machine = {"processor": processor(), "cores": os.cpu_count(), "date": datetime.date.today().isoformat()}
    results = {"machine": machine, "results": lines}
    print(report.table(results))
    if not arguments.quick and not arguments.only:
        import plots  # needs matplotlib

        (DOCS / "performance.json").write_text(json.dumps(results, indent=0) + "\n")
        plots.draw(results, DOCS / "img")


if __name__ == "__main__":
    main()
