"""Pictures of the results. Each says on which processor and when it was measured."""

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "syncbn"  # the same results give the same file
import matplotlib.pyplot as plt

from report import FIRST, LARGE, LAST, SMALL

COLOURS = {"syncbn": "#1b6ca8", "onednn": "#c4543c", "torch": "#e0a030", "torch_out": "#e0a030", "loops": "#8a8a8a"}
NAMES = {"onednn": "oneDNN", "torch": "PyTorch's operator", "torch_out": "PyTorch's operator", "loops": "double loops"}
PANELS = [("forward", FIRST), ("forward", LAST), ("backward", FIRST), ("backward", LAST)]


def save(figure, results, folder, name, title):
    machine = results["machine"]
    figure.suptitle(title)
    figure.text(0.5, 0.005, f"{machine['processor']}, {machine['cores']} cores, {machine['date']}", ha="center",
                fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def find(results, suite, **wanted):
    return [line for line in results["results"]
            if line["suite"] == suite and all(line.get(key) == value for key, value in wanted.items())]


def panels():
    figure, axes = plt.subplots(2, 2, figsize=(12, 8))
    return figure, zip(PANELS, axes.flat)


def by_shape(results, folder):
    """How many times as long others take."""
    figure, parts = panels()
    for (direction, layout), axis in parts:
        peers = {line["shape"]: line for line in find(results, "peers", direction=direction, layout=layout)}
        torch = {line["shape"]: line
                 for line in find(results, "torch", direction=direction, layout=layout, dtype="float32")}
        shapes = [shape for shape in LARGE + SMALL if shape in peers]
        operator = "torch_out" if direction == "forward" else "torch"
        for i, (who, lines) in enumerate((("onednn", peers), (operator, torch), ("loops", peers))):
            values = [lines[shape]["ratio"][f"{who}/syncbn"] if shape in lines else 0 for shape in shapes]
            axis.bar([x + (i - 1) * 0.27 for x in range(len(shapes))], values, 0.27, color=COLOURS[who], label=NAMES[who])
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(shapes)), shapes, rotation=30, ha="right", fontsize=8)
        axis.set_title(f"{direction}, {layout}")
        axis.set_ylabel("time ÷ syncbn's")
    axis.legend()
    save(figure, results, folder, "ratios", "Others' time over syncbn's, float32, one rank; above 1 syncbn is faster")


def copy_limit(results, folder):
    figure, parts = panels()
    for (direction, layout), axis in parts:
        lines = {line["shape"]: line for line in find(results, "peers", direction=direction, layout=layout)}
        shapes = [shape for shape in LARGE if shape in lines]
        for i, who in enumerate(("syncbn", "onednn", "loops")):
            axis.bar([x + (i - 1) * 0.27 for x in range(len(shapes))],
                     [lines[shape]["ratio"][f"copy/{who}"] for shape in shapes], 0.27, color=COLOURS[who],
                     label=NAMES.get(who, who))
        axis.set_xticks(range(len(shapes)), shapes, fontsize=8)
        axis.set_ylim(0, 1)
        axis.set_title(f"{direction}, {layout}")
        axis.set_ylabel("fraction of the copy's speed")
    axis.legend()
    save(figure, results, folder, "copy_limit", "Speed against a streaming copy of the bytes that must move, float32")


def ranks(results, folder):
    figure, axis = plt.subplots(figsize=(8, 5))
    for engine, marker in (("threads", "o"), ("mpi", "s"), ("gloo", "^")):
        for size, style in ((2, "-"), (4, "--")):
            lines = find(results, "message", engine=engine, ranks=size, direction="forward")
            points = sorted((int(line["shape"].strip("()").split(",")[1]), line["median"]["together"]) for line in lines)
            if points:
                axis.loglog(*zip(*((c, 1e6 * t) for c, t in points)), style, marker=marker, label=f"{engine}, {size} ranks")
    axis.set_xlabel("channels")
    axis.set_ylabel("µs a forward")
    axis.legend()
    save(figure, results, folder, "ranks", "A forward of two samples a rank: the cost of the group's sum")


def growth(results, folder):
    figure, axes = plt.subplots(1, 2, figsize=(12, 5))
    for layout, style in ((FIRST, "-"), (LAST, "--")):
        for direction, marker in (("forward", "o"), ("backward", "s")):
            lines = [(tuple(map(int, line["shape"].strip("()").split(","))), line["median"]["syncbn"])
                     for line in find(results, "growth", layout=layout, direction=direction)]
            label = f"{direction}, {layout}"
            by_n = sorted((d[0], 1e3 * t) for d, t in lines if d[2] == 28)
            by_c = sorted((d[1], 1e3 * t) for d, t in lines if d[2] == 14)
            for axis, points in zip(axes, (by_n, by_c)):
                if points:
                    axis.loglog(*zip(*points), style, marker=marker, label=label)
    axes[0].set_xlabel("N of (N, 256, 28, 28)")
    axes[1].set_xlabel("C of (16384 / C, C, 14, 14)")
    for axis in axes:
        axis.set_ylabel("ms")
    axes[0].legend()
    save(figure, results, folder, "growth", "Time against batch and channels, float32, one rank")


def draw(results, folder):
    folder.mkdir(exist_ok=True)
    by_shape(results, folder)
    copy_limit(results, folder)
    ranks(results, folder)
    growth(results, folder)
