# SPDX-License-Identifier: Apache-2.0

"""Picture of the README: test error with synchronized and with local statistics, over the samples of a step.

Two ranks of train_digits learn digits, with several seeds for each batch. Usage: run.py <folder of the programs>
"""

import pathlib
import re
import statistics
import subprocess
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

BATCHES = [6, 9, 12, 24, 48, 96]
SEEDS = [1, 2, 3, 4, 5]
EPOCHS = 12
RESULT = re.compile(r"(synchronized|local on each rank) +\S+ +\S+ % +\S+ +(\S+) %")
PICTURE = pathlib.Path(__file__).parents[2] / "docs/img/statistics.svg"


def test_errors(program: pathlib.Path, batch: int, seed: int) -> dict[str, float]:
    """Test error in percent of one run, for each kind of statistics."""
    command = [program, "--threads", "2", "--batch", str(batch), "--seed", str(seed), "--epochs", str(EPOCHS)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    return {kind: 100 - float(accuracy) for kind, accuracy in RESULT.findall(text)}


def main() -> None:
    program = pathlib.Path(sys.argv[1]) / "train_digits"
    errors = {batch: [test_errors(program, batch, seed) for seed in SEEDS] for batch in BATCHES}
    plt.rcParams.update({"font.size": 11, "svg.hashsalt": "syncbn"})
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    for kind, label, color in (("local on each rank", "each rank's own statistics", "#c0504d"),
                               ("synchronized", "synchronized statistics", "#1f6fb2")):
        runs = [[run[kind] for run in errors[batch]] for batch in BATCHES]
        axes.plot(BATCHES, [statistics.median(values) for values in runs], "o-", color=color, label=label)
        axes.fill_between(BATCHES, [min(values) for values in runs], [max(values) for values in runs], color=color,
                          alpha=0.15, linewidth=0)
        for batch, values in zip(BATCHES, runs):
            print(f"{kind:20} batch {batch:3}: median {statistics.median(values):.2f} %, {min(values):.2f} to {max(values):.2f}")
    axes.set_xscale("log")
    axes.set_xticks(BATCHES, [f"{batch // 3} + {batch - batch // 3}" for batch in BATCHES])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("samples of a step on rank 0 + on rank 1")
    axes.set_ylabel("test error, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
