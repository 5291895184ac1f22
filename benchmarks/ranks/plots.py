# SPDX-License-Identifier: Apache-2.0

"""The picture of the ranks of one host: each peer's time over syncbn's."""

import pictures
from pictures import plt

COLOURS = {"Flax": "#c4543c", "syncbn, connections": "#1b6ca8", "plain": "#e0a030", "unsynchronized": "#8a8a8a"}


def draw(machine, results, file):
    panels = (("a step of one layer, 2 ranks", "layer", 2), ("a step of one layer, 4 ranks", "layer", 4),
              ("a step of a ResNet-18, 2 ranks", "resnet18", 2))
    widths = [sum(line["suite"] == suite and line["ranks"] == ranks for line in results) for _, suite, ranks in panels]
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 4.5), sharey=True, width_ratios=widths)
    for (title, suite, ranks), axis in zip(panels, axes):
        lines = [line for line in results if line["suite"] == suite and line["ranks"] == ranks]
        peers = [name for name in COLOURS if name in lines[0]["seconds"]]
        for i, peer in enumerate(peers):
            ratios = [line["seconds"][peer]["median"] / line["seconds"]["syncbn"]["median"] for line in lines]
            places = [x + (i - (len(peers) - 1) / 2) * 0.2 for x in range(len(lines))]
            axis.bar(places, ratios, 0.2, color=COLOURS[peer], label=peer)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(lines)), [f"({','.join(map(str, line['shape']))})" for line in lines], rotation=20, ha="right")
        axis.set_title(title)
    axes[0].set_ylabel("time ÷ syncbn's")
    axes[0].legend()
    pictures.save(figure, file, "Others' time over syncbn's, processes of one host with one thread each: above 1 syncbn is faster",
                  machine)
