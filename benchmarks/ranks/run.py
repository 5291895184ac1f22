# SPDX-License-Identifier: Apache-2.0

"""Measures the ranks of one host, 2 to 8 processes with one thread each, against peers that do the same job. Writes
docs/ranks.json, and the tables and the picture of docs/performance.md.

usage: run.py BUILD [--nothing] [--only SUITE]...

BUILD is a release build tree with the Python package. Flax runs in build/flax, an environment of its own, which this program
makes. Programs run in turn, and within a program the contenders. --nothing: nothing is written. --only: forward, layer or
resnet18 alone, nothing is written.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent))
import pages  # noqa: E402
import plots  # noqa: E402

FLAX = ROOT / "build" / "flax"
FLAX_PACKAGES = ("flax==0.12.8", "jax==0.10.2")
FORWARD_ROUNDS = 5
DEADLINE = 300  # seconds a program
SHAPES = ("4,64,56,56", "2,512,7,7", "16,512,7,7", "16,2048,7,7")


def flax_python():
    """Python of an environment with Flax, made once."""
    python, stamp = FLAX / "bin" / "python", FLAX / "complete"
    if not stamp.exists() or stamp.read_text() != str(FLAX_PACKAGES):
        print(f"making {FLAX}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", FLAX], check=True)
        subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *FLAX_PACKAGES], check=True)
        stamp.write_text(str(FLAX_PACKAGES))
    return python


class Programs:
    def __init__(self, build, logs):
        self._build, self._logs = pathlib.Path(build).resolve(), logs
        self._python = ROOT / ".venv" / "bin" / "python"
        self._environment = {
            **os.environ, "PYTHONPATH": str(self._build / "python"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }

    def _run(self, command, log=None, **environment):
        """The lines of JSON that a program, or its rank 0, has printed."""
        command = [str(word) for word in command]
        print(" ".join(pathlib.Path(word).name for word in command), flush=True)
        ended = subprocess.run(command, env={**self._environment, **environment}, timeout=DEADLINE, text=True, check=False,
                               stdout=subprocess.PIPE)
        text = log.read_text() if log else ended.stdout
        if ended.returncode != 0:
            raise SystemExit(f"exit code {ended.returncode}:\n{text}")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def launched(self, ranks, script, *arguments, **environment):
        """Under syncbn-run."""
        launcher = [self._build / "bin" / "syncbn-run", "-n", ranks, "--join=True", f"--log_dir={self._logs}"]
        return self._run([*launcher, self._python, HERE / script, *arguments], self._logs / "worker_0.log", **environment)

    def mpi(self, ranks, script, *arguments):
        launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", ranks]
        return self._run([*launcher, self._python, HERE / script, *arguments])

    def alone(self, python, script, *arguments):
        return self._run([python, HERE / script, *arguments])


def forward(programs):
    for _ in range(FORWARD_ROUNDS):
        for ranks in (2, 4, 8):
            yield from programs.launched(ranks, "forward.py", "shared memory")
            yield from programs.launched(ranks, "forward.py", "connections", SYNCBN_SHARED_MEMORY="0")
            yield from programs.mpi(ranks, "forward.py", "Open MPI")


def layer(programs):
    python = flax_python()
    for ranks in (2, 4):
        yield from programs.alone(python, "flax_layer.py", ranks, *SHAPES)
        yield from programs.launched(ranks, "torch_layers.py", *SHAPES)
        yield from programs.alone(python, "flax_layer.py", ranks, *SHAPES)


def resnet18(programs):
    yield from programs.launched(2, "resnet18.py")


SUITES = {"forward": forward, "layer": layer, "resnet18": resnet18}


def collected(lines):
    """A line for each comparison: all samples of its contenders become a median and quartiles."""
    samples = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in lines:
        seconds = line.pop("seconds")
        for name, values in seconds.items():
            samples[json.dumps(line, sort_keys=True)][name] += values
    return [{**json.loads(about), "seconds": {name: {"median": float(f"{statistics.median(values):.4g}"),
                                                     "quartiles": [float(f"{q:.4g}") for q in
                                                                   statistics.quantiles(values, n=4)[::2]]}
                                              for name, values in of.items()}}
            for about, of in samples.items()]


def cell(seconds, unit):
    return f"{pages.number(seconds['median'], unit)} ({'–'.join(pages.number(q, unit) for q in seconds['quartiles'])})"


def tables(results):
    found = {}
    for suite, unit, about in (("forward", 1e6, lambda line: [line["ranks"], f"(2,{line['channels']})"]),
                               ("layer", 1e3, lambda line: [line["ranks"], f"({','.join(map(str, line['shape']))})"]),
                               ("resnet18", 1e3, lambda line: [line["ranks"], f"({','.join(map(str, line['shape']))})"])):
        lines = [line for line in results if line["suite"] == suite]
        if lines:
            names = list(lines[0]["seconds"])
            rows = [[*about(line), *(cell(line["seconds"][name], unit) for name in names)] for line in lines]
            found[f"ranks: {suite}"] = pages.table(["ranks", "a rank's input", *names], rows, left=2)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--nothing", action="store_true")
    parser.add_argument("--only", action="append", choices=SUITES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs:
        programs = Programs(arguments.build, pathlib.Path(logs))
        results = collected(line for suite in arguments.only or SUITES for line in SUITES[suite](programs))
    found = tables(results)
    print("\n\n".join(f"{name}\n{text}" for name, text in found.items()))
    if arguments.only or arguments.nothing:
        return
    machine = f"{pages.processor()}, {datetime.date.today().isoformat()}"
    text = ",\n".join(map(json.dumps, results))
    (ROOT / "docs" / "ranks.json").write_text(f'{{"machine": {json.dumps(machine)}, "results": [\n{text}\n]}}\n')
    pages.fill(ROOT / "docs" / "performance.md", {"ranks: machine": machine, **found})
    plots.draw(machine, results, ROOT / "docs" / "img" / "one_host.svg")


if __name__ == "__main__":
    main()
