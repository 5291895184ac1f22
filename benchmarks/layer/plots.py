# SPDX-License-Identifier: Apache-2.0

"""Pictures of the results. Each says on which processor and when it was measured."""

import os

import pictures
from pictures import plt
from results import DIRECTIONS, ENGINES, LARGE, OPERATOR, SMALL, dims, find, isas

COLOURS = {"syncbn": "#1b6ca8", "onednn": "#c4543c", "torch": "#e0a030", "torch_out": "#e0a030", "loops": "#8a8a8a"}
NAMES = {"onednn": "oneDNN", "torch": "PyTorch's operator", "torch_out": "PyTorch's operator", "loops": "double loops"}


def save(figure, results, folder, name, title):
    machine = results["machine"]
    pictures.save(figure, folder / f"{name}.svg", title, f"{machine['processor']}, {isas(results)[0]}, {machine['date']}")


def bars(results, folder, name, title, ylabel, shapes, contenders):
    """A group of bars for each shape; `contenders`: direction -> (name, suite, ratio) of each bar of a group."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), sharey="row")
    for (direction, layout), axis in zip(DIRECTIONS, axes.flat):
        where = {"isa": isas(results)[0], "direction": direction, "layout": layout, "dtype": "float32"}
        for i, (who, suite, ratio) in enumerate(contenders(direction)):
            values = {line["shape"]: line["ratio"][ratio] for line in find(results, suite, **where)}
            axis.bar([x + (i - 1) * 0.27 for x in range(len(shapes))], [values.get(shape, 0) for shape in shapes], 0.27,
                     color=COLOURS[who], label=NAMES.get(who, who))
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(shapes)), shapes, rotation=20, ha="right")
        axis.set_title(f"{direction}, {layout}")
        axis.set_ylabel(ylabel)
    axes[0, 0].legend()
    save(figure, results, folder, name, title)


def by_shape(results, folder):
    def contenders(direction):
        operator = OPERATOR[direction]
        return (("onednn", "peers", "onednn/syncbn"), (operator, "torch", f"{operator}/syncbn"),
                ("loops", "peers", "loops/syncbn"))
    bars(results, folder, "ratios", "Others' time over syncbn's, float32, one rank: above 1 syncbn is faster",
         "time ÷ syncbn's", LARGE + SMALL, contenders)


def copy_limit(results, folder):
    bars(results, folder, "copy_limit", "Speed against a streaming copy of the bytes that must move, float32, one rank",
         "copy's time ÷ time", LARGE, lambda direction: [(who, "peers", f"copy/{who}") for who in ("syncbn", "onednn", "loops")])


def ranks(results, folder):
    """One rank is the same layer in a group of its own."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axis, channels in zip(axes, (64, 1024)):
        for engine, marker in zip(ENGINES, "os^"):
            lines = [line for line in find(results, "message", engine=engine, direction="forward")
                     if dims(line)[1] == channels]
            points = {1: line["median"]["alone"] for line in lines}
            points |= {line["ranks"]: line["median"]["together"] for line in lines}
            if points:
                axis.plot(*zip(*((n, 1e6 * t) for n, t in sorted(points.items()))), marker=marker, label=engine)
        axis.set(title=f"{channels} channels", yscale="log", xlabel="ranks")
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        axis.axvline(os.cpu_count(), color="black", linewidth=0.8, linestyle=":")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("µs a forward")
    axes[0].legend()
    save(figure, results, folder, "ranks",
         "A forward of two samples a rank: what the group's sum costs (right of the dotted line ranks share cores)")


def growth(results, folder):
    figure, axes = plt.subplots(1, 2, figsize=(12, 5))
    for direction, layout in DIRECTIONS:
        lines = [(dims(line), 1e3 * line["median"]["syncbn"])
                 for line in find(results, "growth", isa=isas(results)[0], layout=layout, direction=direction)]
        style = ("-" if layout == DIRECTIONS[0][1] else "--") + ("o" if direction == "forward" else "s")
        for axis, varies, size in zip(axes, (0, 1), (28, 14)):
            points = sorted((d[varies], t) for d, t in lines if d[2] == size)
            if points:
                axis.plot(*zip(*points), style, markersize=4, label=f"{direction}, {layout}")
    axes[0].set_xlabel("N of (N, 256, 28, 28)")
    axes[1].set_xlabel("C of (16384 / C, C, 14, 14)")
    for axis in axes:
        axis.set(yscale="log", ylabel="ms")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.grid(alpha=0.3)
    axes[0].legend()
    save(figure, results, folder, "growth", "Time against batch and channels, float32, one rank")


def draw(results, folder):
    folder.mkdir(exist_ok=True)
    by_shape(results, folder)
    copy_limit(results, folder)
    ranks(results, folder)
    growth(results, folder)
