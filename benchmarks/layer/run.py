# SPDX-License-Identifier: Apache-2.0

"""Runs the benchmarks, prints their tables, writes docs/performance.json, the tables of docs/performance.md and of
benchmarks/floors.md, and the pictures in docs/img/.

usage: run.py BUILD [--quick] [--only PROGRAM]... [--isa ISA] [--prefix COMMAND]

BUILD is the build tree. --quick: a few shapes and repeats, nothing is written. --only: only these programs, nothing is
written. --isa: only that instruction set, of all libraries, nothing is written. --prefix: put before every program, such
as "chrt -f 1" on a machine that does other work too.

A machine with AVX-512 is measured twice: what one rank does also with AVX2, the common case.
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
from report import DOCS, pages

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALONE = ("onednn", "torch", "nn", "forms")  # one rank
# The peers' names of AVX2; the machine's best is everybody's default.
ISAS = {"avx2": {"SYNCBN_ISA": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}
DEADLINE = ("timeout", "--kill-after=10", "300")  # seconds a program


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


def programs(build, log):
    mpirun = "mpirun --allow-run-as-root --oversubscribe --bind-to none -n {}".format
    gloo = (f"{build}/bin/syncbn-run --worker_num={{0}} --local_worker_num={{0}} --master_port={free_port()} --join=True "
            f"--log_dir={log}").format
    known = {
        "onednn": f"{build}/bin/against_onednn",
        "torch": f"{build}/bin/against_torch",
        "nn": f"env PYTHONPATH={build}/python PYTHONDONTWRITEBYTECODE=1 {ROOT}/.venv/bin/python {ROOT}/benchmarks/torch/layer.py",
        "forms": f"{build}/bin/forms",
    }
    for ranks in (2, 4, 8):
        known[f"threads{ranks}"] = f"{build}/bin/ranks --ranks {ranks}"
        known[f"mpi{ranks}"] = f"{mpirun(ranks)} {build}/bin/ranks_mpi"
        known[f"gloo{ranks}"] = f"{gloo(ranks)} {build}/bin/ranks"
    return known


def run(command, environment, log):
    """The lines of JSON that a program printed."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment)
    text = ended.stdout
    worker = pathlib.Path(log, "worker_0.log")
    if worker.exists():  # syncbn-run keeps what its workers print
        text = worker.read_text()
        worker.unlink()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def digits(value):
    return float(f"{value:.4g}")


def summary(line):
    """Samples to medians and quartiles; of two contenders the median of the ratios of each round."""
    samples = line.pop("seconds")
    line["median"] = {name: digits(statistics.median(values)) for name, values in samples.items()}
    line["quartiles"] = {name: list(map(digits, statistics.quantiles(values, n=4)[::2])) for name, values in samples.items()}
    line["ratio"] = {
        f"{a}/{b}": digits(statistics.median(p / q for p, q in zip(samples[a], samples[b])))
        for a in samples for b in samples if a != b
    }
    line["repeats"] = len(next(iter(samples.values())))
    return line


def write(results):
    lines = ",\n".join(map(json.dumps, results["results"]))
    (DOCS / "performance.json").write_text(f'{{"machine": {json.dumps(results["machine"])}, "results": [\n{lines}\n]}}\n')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--isa", choices=ISAS)
    parser.add_argument("--prefix", default="")
    arguments = parser.parse_args()
    lines, failed = [], []
    with tempfile.TemporaryDirectory() as log:
        known = programs(os.path.abspath(arguments.build), log)
        unknown = set(arguments.only or ()) - set(known)
        if unknown:
            parser.error(f"--only: {', '.join(unknown)}; there are {', '.join(known)}")

        def measure(isa, names):
            for name in names:
                print(f"running {name}" + (f" with {isa}" if isa else ""), flush=True)
                # A scheduler of real time never lets one of more ranks than cores have another's core.
                crowded = name[-1].isdigit() and int(name[-1]) > os.cpu_count()
                command = [*DEADLINE, *([] if crowded else shlex.split(arguments.prefix)), *shlex.split(known[name]),
                           *["--quick"] * arguments.quick]
                try:
                    lines.extend(map(summary, run(command, ISAS.get(isa, {}), log)))
                except subprocess.CalledProcessError as error:  # the others' minutes are not lost
                    failed.append(f"{name}: exit code {error.returncode}")

        if arguments.isa:
            measure(arguments.isa, arguments.only or ALONE)
        else:
            measure(None, arguments.only or known)
            if lines and lines[0]["isa"] == "avx512" and not arguments.quick:
                measure("avx2", [name for name in ALONE if name in (arguments.only or ALONE)])
    if not lines:
        raise SystemExit(f"nothing was measured; {'; '.join(failed)}")
    machine = {"processor": pages.processor(), "date": datetime.date.today().isoformat()}
    results = {"machine": machine, "results": lines}
    print(report.text(results))
    if not arguments.quick and not arguments.only and not arguments.isa:
        import plots  # needs matplotlib

        write(results)
        report.fill(results)
        plots.draw(results, DOCS / "img")
    if failed:
        raise SystemExit(f"these have failed, and are missing above: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
