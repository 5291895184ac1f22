# SPDX-License-Identifier: Apache-2.0

"""Draws docs/scaling.svg and fills the tables of docs/scaling.md, from scaling.csv, startup.csv there and the model.

A table stands between the lines `<!-- NAME -->` and `<!-- end -->`; what else is in the page is left alone.
"""

import collections
import csv
import pathlib
import statistics
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "scaling", "svg.fonttype": "none", "font.size": 9}
from matplotlib import pyplot  # noqa: E402

import model  # noqa: E402

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import pages  # noqa: E402
from pages import table  # noqa: E402

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
FORMS = {"exact": "syncbn, SUM", "gathered": "gathered"}
MODELLED = ("Rabenseifner", "recursive doubling", "ring")
DRAWN_TO = 4096


def read(name):
    with open(DOCS / name, newline="") as file:
        return list(csv.DictReader(file))


class Steps:
    """Milliseconds of a training step: each call, of the simulation or of the model, times the number of its layers."""

    def __init__(self, rows):
        self.simulated = collections.defaultdict(float)
        self.calls = collections.defaultdict(dict)  # form -> (channels, direction) -> bytes
        for row in rows:
            channels = int(row["channels"])
            key = row["platform"], row["form"], row["algorithm"], int(row["ranks"])
            self.simulated[key] += model.LAYERS[channels] * float(row["microseconds"]) / 1e3
            self.calls[row["form"]][channels, row["direction"]] = int(row["bytes"])

    def bytes_of(self, form):
        return sum(model.LAYERS[channels] * size for (channels, _), size in self.calls[form].items())

    def modelled(self, platform, form, algorithm, ranks):
        network = model.Model(platform, ranks)
        return 1e3 * sum(model.LAYERS[channels] * network.call(form, algorithm, direction, size)
                         for (channels, direction), size in self.calls[form].items())

    def best(self, platform, form, ranks):
        """The fastest of the algorithms that the model knows: simulated where it was, else by the model."""
        def time(algorithm):
            key = platform, form, algorithm, ranks
            return self.simulated[key] if key in self.simulated else self.modelled(*key)
        return min((time(algorithm), algorithm) for algorithm in MODELLED)

    def sizes(self, platform, form, algorithm):
        return sorted(key[3] for key in self.simulated if key[:3] == (platform, form, algorithm))


def powers(last):
    return [2**i for i in range(1, last.bit_length())]


def messages(steps):
    rows = []
    for channels in sorted(model.LAYERS):
        sizes = [steps.calls[form][channels, way] for way in ("forward", "backward") for form in FORMS]
        rows.append([channels, model.LAYERS[channels], *(f"{size:,}" for size in sizes),
                     f"{sizes[0] / sizes[1]:.1f}, {sizes[2] / sizes[3]:.1f}"])
    totals = [steps.bytes_of(form) for form in FORMS]
    step = [f"{total:,}" for total in totals]
    rows.append(["a step", sum(model.LAYERS.values()), step[0], step[1], "", "", f"{totals[0] / totals[1]:.1f}"])
    header = ["channels", "layers", "forward: syncbn", "gathered", "backward: syncbn", "gathered", "times"]
    return table(header, rows)


def simulated(steps, platform):
    columns = [(form, algorithm) for form in FORMS for algorithm in (*MODELLED, "Open MPI")]
    rows = []
    for ranks in powers(max(key[3] for key in steps.simulated)):
        times = [steps.simulated.get((platform, *column, ranks)) for column in columns]
        if any(times):
            rows.append([ranks, *("" if time is None else f"{time:.2f}" for time in times)])
    return table(["ranks", *(f"{FORMS[form]}: {algorithm}" for form, algorithm in columns)], rows)


def deviations(steps):
    rows = []
    for platform in model.PLATFORMS:
        for form in FORMS:
            for algorithm in MODELLED:
                of_size = {ranks: steps.modelled(platform, form, algorithm, ranks)
                           / steps.simulated[platform, form, algorithm, ranks] - 1
                           for ranks in steps.sizes(platform, form, algorithm)}
                worst = max(of_size, key=lambda ranks: abs(of_size[ranks]))
                rows.append([model.PLATFORMS[platform].name, FORMS[form], algorithm, f"2 to {max(of_size)}",
                             f"{statistics.median(map(abs, of_size.values())):.1%}", f"{of_size[worst]:+.1%}", worst])
    return table(["platform", "form", "algorithm", "ranks", "median deviation", "largest", "at ranks"], rows)


def comparison(steps):
    rows = []
    for ranks in powers(DRAWN_TO):
        row = [ranks]
        for platform in model.PLATFORMS:
            (exact, by_exact), (gathered, by_gathered) = (steps.best(platform, form, ranks) for form in FORMS)
            row += [f"{exact:.2f} ({by_exact})", f"{gathered:.2f} ({by_gathered})", f"{exact / gathered:.2f}"]
        rows.append(row)
    names = [f"{network.name}: {of}" for network in model.PLATFORMS.values() for of in ("syncbn", "gathered", "ratio")]
    return table(["ranks", *names], rows)


def verdict(steps):
    lines = []
    for platform, network in model.PLATFORMS.items():
        ratios = {ranks: steps.best(platform, "exact", ranks)[0] / steps.best(platform, "gathered", ranks)[0]
                  for ranks in powers(DRAWN_TO)}
        slower = [ranks for ranks, ratio in ratios.items() if ratio >= 1]
        first = min((ranks for ranks in ratios if not slower or ranks > slower[-1]), default=None)
        lines.append(f"- On the {network.name} syncbn's step takes {ratios[2]:.1f} times as long on 2 ranks, "
                     f"{ratios[16]:.1f} times on 16 and {ratios[64]:.1f} times on 64. " +
                     (f"From {first} ranks on it is the faster one, by a factor of {1 / ratios[DRAWN_TO]:.1f} on "
                      f"{DRAWN_TO:,}." if first else f"It is the slower one up to {DRAWN_TO:,} ranks."))
    return "\n".join(lines)


def starting(measured):
    runs = collections.defaultdict(list)
    for row in measured:
        runs[row["kind"], int(row["ranks"]), int(row["groups"])].append(row)
    rows = []
    for (kind, ranks, groups), of_case in runs.items():
        def median(column):
            return statistics.median(float(row[column]) for row in of_case)
        sums = kind == "threads" or median("first") > 1e-3
        rows.append([
            f"{ranks} {kind}" + (f", {groups} groups" if groups else "") + ("" if sums else ", no sum"),
            f"{median('joined'):.2f}", f"{median('first'):.3f}" if sums else "",
            f"{median('second') * 1e3:.1f}" if sums else "", f"{median('grouped'):.2f}" if groups else "",
            f"{median('total'):.2f}", f"{median('worker_kb') / 1024:.1f}",
            f"{median('launcher_kb') / 1024:.1f}" if kind == "processes" else ""])
    return table(["world", "until all have joined, s", "first sum, s", "second sum, ms", "first sums of the groups, s",
                  "whole job, s", "a worker, MB", "launcher, MB"], rows)


def draw(steps):
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
    colours = {"exact": "tab:blue", "gathered": "tab:orange"}
    styles = {"Rabenseifner": ("-", "o"), "recursive doubling": ("--", "s"), "ring": (":", "^")}
    for platform, axis in zip(model.PLATFORMS, axes):
        for form, colour in colours.items():
            for algorithm, (line, marker) in styles.items():
                ranks = powers(DRAWN_TO)
                axis.plot(ranks, [steps.modelled(platform, form, algorithm, size) for size in ranks], line,
                          color=colour, linewidth=1.2, label=f"{FORMS[form]}: {algorithm}")
                sizes = steps.sizes(platform, form, algorithm)
                axis.plot(sizes, [steps.simulated[platform, form, algorithm, size] for size in sizes], marker,
                          color=colour, markersize=4, fillstyle="none")
        axis.set(title=model.PLATFORMS[platform].name, xscale="log", yscale="log", xlabel="ranks")
        axis.set_xscale("log", base=2)
        axis.set_xticks(powers(DRAWN_TO), [str(size) for size in powers(DRAWN_TO)], rotation=45)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("communication of a ResNet-50 step, ms")
    axes[0].legend(fontsize=8, title="lines: model, marks: simulation", title_fontsize=8)
    figure.savefig(DOCS / "scaling.svg", metadata={"Date": None})


def main():
    steps = Steps(read("scaling.csv"))
    measured = read("startup.csv")
    tables = {
        "messages": messages(steps),
        **{platform: simulated(steps, platform) for platform in model.PLATFORMS},
        "deviations": deviations(steps),
        "comparison": comparison(steps),
        "verdict": verdict(steps),
        "machine": measured[0]["machine"],
        "starting": starting(measured),
    }
    pages.fill(DOCS / "scaling.md", tables)
    draw(steps)


if __name__ == "__main__":
    main()
